-- verify_usual_tables: each balance is the sum and the count of its entries, each entry follows from the one before, and each
-- posted side of an operation has its entry
SELECT format('balance %s and its entries do not match', coalesce(b.account_id, e.account_id))
FROM balances b
FULL JOIN (
    SELECT account_id, category, sum(amount) AS total, count(*) AS entry_count FROM entries GROUP BY account_id, category
) AS e ON e.account_id = b.account_id AND e.category = b.category
WHERE (coalesce(b.posted, 0), coalesce(b.version, 0)) <> (coalesce(e.total, 0), coalesce(e.entry_count, 0))
UNION ALL
SELECT format('entry %s version %s does not follow from the one before', account_id, version)
FROM (
    SELECT e.*, lag(version, 1, 0::bigint) OVER w AS version_before, lag(posted_after, 1, 0::bigint) OVER w AS posted_before
    FROM entries e
    WINDOW w AS (PARTITION BY account_id, category ORDER BY version)
) AS e
WHERE version <> version_before + 1 OR posted_after <> posted_before + amount
UNION ALL
SELECT format('operation %s and its entry do not match', coalesce(s.operation_id, e.operation_id))
FROM (
    SELECT operation_id, source_account_id AS account_id, source_category AS category, source_version AS version,
           -amount AS amount
    FROM operations
    WHERE source_version IS NOT NULL
    UNION ALL
    SELECT operation_id, destination_account_id, destination_category, destination_version, amount
    FROM operations
    WHERE destination_version IS NOT NULL
) AS s
FULL JOIN entries e USING (account_id, category, version)
WHERE (s.operation_id, s.amount) IS DISTINCT FROM (e.operation_id, e.amount)
LIMIT 1
