-- lock_siblings: all of an account, for merges; a later statement than lock_accounts, as lock_categories is
SELECT ctid AS row_id, account_id, category, posted, held, overdraft_limit, balance_limit, version, update_time,
       last_operation_id
FROM balances
WHERE account_id = ANY($1) AND category <> 'main'
ORDER BY account_id, category
FOR UPDATE
