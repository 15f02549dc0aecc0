-- await_siblings: after await_accounts, all balances besides main, for merges
SELECT 1
FROM balances
WHERE account_id = ANY($1) AND category <> 'main'
ORDER BY account_id, category
FOR UPDATE
