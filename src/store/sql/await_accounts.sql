-- await_accounts: lock_by_key for those who wait while they hold nothing else, and keep what they get
SELECT 1
FROM (SELECT unnest($1::text[]) COLLATE "C" AS account_id ORDER BY 1) AS wanted
JOIN balances b ON b.account_id = wanted.account_id AND b.category = 'main'
ORDER BY wanted.account_id
FOR UPDATE OF b
