-- update_balances: one row per balance, however many operations changed it; found where the lock saw it, which nobody
-- can have moved since; no indexed column changes, so it stays HOT
UPDATE balances b
SET posted = u.posted, held = u.held, version = u.version, update_time = u.update_time
FROM unnest($1::tid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::timestamptz[])
    AS u (row_id, account_id, category, posted, held, version, update_time)
WHERE b.ctid = u.row_id AND b.account_id = u.account_id AND b.category = u.category
