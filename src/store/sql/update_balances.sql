-- update_balances: one row per balance, however many operations changed it; no indexed column changes, so it stays HOT
UPDATE balances b
SET posted = u.posted, held = u.held, version = u.version, update_time = u.update_time
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::timestamptz[])
    AS u (account_id, category, posted, held, version, update_time)
WHERE b.account_id = u.account_id AND b.category = u.category
