-- close_accounts: after update_balances, which finds main where the lock saw it
UPDATE balances SET closed = true WHERE account_id = ANY($1) AND category = 'main'
