-- await_account: waits for the locks of one account while nothing else is held; main first, as everywhere
SELECT 1 FROM balances WHERE account_id = $1 ORDER BY category <> 'main', category FOR UPDATE
