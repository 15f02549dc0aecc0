-- settlement_account: the one account of an owner that receives the transfers to the owner
SELECT account_id FROM accounts WHERE owner_id = $1 AND settlement
