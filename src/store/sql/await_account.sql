-- await_account: waits for one lock while nothing else is held
SELECT 1 FROM balances WHERE account_id = $1 AND category = 'main' FOR UPDATE
