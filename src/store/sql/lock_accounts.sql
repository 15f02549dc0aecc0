-- lock_accounts: main is the lock of its account; sorted, so that two batches never deadlock; the time is for those who do
-- not wait, who take it here
SELECT ctid, account_id, currency_code, closed, debits_frozen, credits_frozen, sibling_count, clock_timestamp(),
       posted, held, overdraft_limit, balance_limit, version, update_time, last_operation_id
FROM balances
WHERE account_id = ANY($1) AND category = 'main'
ORDER BY account_id
FOR UPDATE
