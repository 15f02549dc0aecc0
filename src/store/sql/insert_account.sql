-- insert_account: with its main balance and the balances that were given limits; as get_accounts shows it, or nothing if
-- the account is there
WITH created AS (
    INSERT INTO accounts (account_id, owner_id, currency_code, settlement, labels, create_time)
    VALUES ($1, $2, $3, $4, $5::text::jsonb, clock_timestamp())
    ON CONFLICT (account_id) DO NOTHING
    RETURNING *
), opened AS (
    INSERT INTO balances (account_id, category, currency_code, overdraft_limit, balance_limit, sibling_count)
    SELECT created.account_id, u.category, $3, u.overdraft_limit, u.balance_limit,
           CASE WHEN u.category = 'main' THEN cardinality($6::text[]) - 1 ELSE 0 END
    FROM created, unnest($6::text[], $7::bigint[], $8::bigint[]) AS u (category, overdraft_limit, balance_limit)
    RETURNING *
)
SELECT a.account_id, a.owner_id, a.currency_code, a.settlement, a.labels::text, a.create_time,
       b.closed, b.debits_frozen, b.credits_frozen,
       b.category, b.posted, b.held, b.overdraft_limit, b.balance_limit, b.version, b.update_time,
       b.last_operation_id
FROM created a, opened b
ORDER BY b.category
