-- lock_siblings: a later statement than lock_accounts, so its snapshot has every row made before main was locked
SELECT ctid, account_id, category, posted, held, overdraft_limit, balance_limit, version, update_time, last_operation_id
FROM balances
WHERE account_id = ANY($1) AND category <> 'main'
ORDER BY account_id, category
FOR UPDATE SKIP LOCKED
