-- account_roles: whose the accounts of a merge are, and whether they receive for their owners; main is locked by now
SELECT account_id, owner_id, settlement FROM accounts WHERE account_id = ANY($1)
