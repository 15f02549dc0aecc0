-- account_owners: whose accounts they are; never changes
SELECT account_id, owner_id FROM accounts WHERE account_id = ANY($1)
