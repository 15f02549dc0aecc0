-- existing_accounts: tells an account that is locked elsewhere from one that does not exist
SELECT account_id FROM balances WHERE account_id = ANY($1) AND category = 'main'
