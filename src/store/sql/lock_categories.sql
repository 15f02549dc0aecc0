-- lock_categories: a later statement than lock_by_key, so its snapshot has every row made before main was locked; row by row:
-- what is there and locked elsewhere comes without a row_id, what has no row does not come; no EXISTS, which PostgreSQL might
-- answer by reading all keys at once
SELECT wanted.account_id, wanted.category, locked.row_id, locked.posted, locked.held, locked.overdraft_limit,
       locked.balance_limit, locked.version, locked.update_time, locked.last_operation_id
FROM (
    SELECT unnest($1::text[]) COLLATE "C" AS account_id, unnest($2::text[]) COLLATE "C" AS category ORDER BY 1, 2
) AS wanted
LEFT JOIN LATERAL (
    SELECT b.ctid AS row_id, b.posted, b.held, b.overdraft_limit, b.balance_limit, b.version, b.update_time,
           b.last_operation_id
    FROM balances b
    WHERE b.account_id = wanted.account_id AND b.category = wanted.category
    FOR UPDATE SKIP LOCKED
) AS locked ON true
WHERE locked.row_id IS NOT NULL
    OR (SELECT true FROM balances b WHERE b.account_id = wanted.account_id AND b.category = wanted.category)
