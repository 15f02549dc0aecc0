-- lock_by_key: main is the lock of its account; sorted, so that two batches never deadlock; a join, since PostgreSQL looks up
-- no arrays in the hash of the accounts' mains; the time is for those who do not wait
SELECT b.ctid, b.account_id, b.currency_code, b.closed, b.debits_frozen, b.credits_frozen, b.sibling_count, clock_timestamp(),
       b.posted, b.held, b.overdraft_limit, b.balance_limit, b.version, b.update_time, b.last_operation_id
FROM (SELECT unnest($1::text[]) COLLATE "C" AS account_id ORDER BY 1) AS wanted
JOIN balances b ON b.account_id = wanted.account_id AND b.category = 'main'
ORDER BY wanted.account_id
FOR UPDATE OF b SKIP LOCKED
