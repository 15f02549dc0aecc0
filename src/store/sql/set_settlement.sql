-- set_settlement: first those that lose the role, then those that get it, because an owner has one at any time
UPDATE accounts SET settlement = $2 WHERE account_id = ANY($1)
