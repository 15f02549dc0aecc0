-- await_accounts: waits for the locks of accounts while nothing else is held, and keeps them; main first, as everywhere
SELECT 1
FROM (SELECT unnest($1::text[]) COLLATE "C" AS account_id ORDER BY 1) AS wanted
JOIN balances b ON b.account_id = wanted.account_id
ORDER BY wanted.account_id, b.category <> 'main', b.category
FOR UPDATE OF b
