-- account_owner: whose account it is; never changes
SELECT owner_id FROM accounts WHERE account_id = $1
