-- settlement_accounts: of each owner the one account that receives the transfers to the owner
SELECT owner_id, account_id FROM accounts WHERE owner_id = ANY($1) AND settlement
