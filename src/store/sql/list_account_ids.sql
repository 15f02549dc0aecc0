-- list_account_ids: the accounts of an owner after a given one
SELECT account_id FROM accounts WHERE owner_id = $1 AND account_id > $2 ORDER BY account_id LIMIT $3
