-- lock_siblings: lock_categories for all that an account has besides main, which merges need
SELECT there.account_id, there.category, locked.row_id, locked.posted, locked.held, locked.overdraft_limit,
       locked.balance_limit, locked.version, locked.update_time, locked.last_operation_id
FROM (
    SELECT account_id, category
    FROM balances
    WHERE account_id = ANY($1) AND category <> 'main'
    ORDER BY account_id, category
) AS there
LEFT JOIN LATERAL (
    SELECT b.ctid AS row_id, b.posted, b.held, b.overdraft_limit, b.balance_limit, b.version, b.update_time,
           b.last_operation_id
    FROM balances b
    WHERE b.account_id = there.account_id AND b.category = there.category
    FOR UPDATE SKIP LOCKED
) AS locked ON true
