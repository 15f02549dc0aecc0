-- verify_merges: only merges have parts, and the account that a merge emptied is closed and empty
SELECT format('merge %s and its parts do not match', p.operation_id)
FROM merge_parts p
LEFT JOIN operations o ON o.operation_id = p.operation_id AND o.kind = 'MERGE' AND o.refusal_reason IS NULL
WHERE o.operation_id IS NULL
UNION
SELECT format('account %s was merged by %s and is not closed and empty', o.source_account_id, o.operation_id)
FROM operations o
WHERE o.kind = 'MERGE' AND o.refusal_reason IS NULL
    AND EXISTS (
        SELECT 1
        FROM balances b
        WHERE b.account_id = o.source_account_id
            AND (b.posted <> 0 OR b.held <> 0 OR (b.category = 'main' AND NOT b.closed))
    )
ORDER BY 1
