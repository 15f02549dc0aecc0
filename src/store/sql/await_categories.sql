-- await_categories: after await_accounts, the balances besides main that commands name
SELECT 1
FROM (
    SELECT unnest($1::text[]) COLLATE "C" AS account_id, unnest($2::text[]) COLLATE "C" AS category ORDER BY 1, 2
) AS wanted
JOIN balances b ON b.account_id = wanted.account_id AND b.category = wanted.category
ORDER BY wanted.account_id, wanted.category
FOR UPDATE OF b
