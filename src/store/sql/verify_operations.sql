-- verify_operations: each posted side of an operation or of a merge's part has its entry, and each entry its operation
SELECT format('operation %s and its entry %s/%s version %s do not match',
              coalesce(s.operation_id, e.operation_id), coalesce(s.account_id, e.account_id),
              coalesce(s.category, e.category), coalesce(s.version, e.version))
FROM (
    SELECT operation_id, source_account_id AS account_id, source_category AS category, source_version AS version,
           -amount AS amount, create_time
    FROM operations
    WHERE source_version IS NOT NULL
    UNION ALL
    SELECT operation_id, destination_account_id, destination_category, destination_version, amount, create_time
    FROM operations
    WHERE destination_version IS NOT NULL
    UNION ALL
    SELECT p.operation_id, o.source_account_id, p.category, p.source_version, -p.amount, o.create_time
    FROM merge_parts p
    JOIN operations o ON o.operation_id = p.operation_id
    UNION ALL
    SELECT p.operation_id, o.destination_account_id, p.category, p.destination_version, p.amount, o.create_time
    FROM merge_parts p
    JOIN operations o ON o.operation_id = p.operation_id
) AS s
FULL JOIN entries e USING (account_id, category, version)
WHERE (s.operation_id, s.amount, s.create_time) IS DISTINCT FROM (e.operation_id, e.amount, e.create_time)
ORDER BY 1
