-- lock_by_row_id: lock_by_key for rows whose row ids are believed to be known; in no order, so it must wait for nobody; no
-- index can find IS NOT DISTINCT FROM, else a plan made for an empty table would walk through all of the primary key
SELECT ctid, account_id, currency_code, closed, debits_frozen, credits_frozen, sibling_count, clock_timestamp(),
       posted, held, overdraft_limit, balance_limit, version, update_time, last_operation_id
FROM balances
WHERE ctid = ANY($1) AND category IS NOT DISTINCT FROM 'main'
FOR UPDATE SKIP LOCKED
