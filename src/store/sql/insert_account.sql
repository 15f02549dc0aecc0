-- insert_account: with its main balance and the balances that were given limits; nothing if the account is there
WITH created AS (
    INSERT INTO accounts (account_id, owner_id, currency_code, settlement, labels, create_time)
    VALUES ($1, $2, $3, $4, $5::text::jsonb, clock_timestamp())
    ON CONFLICT (account_id) DO NOTHING
    RETURNING account_id
)
INSERT INTO balances (account_id, category, currency_code, overdraft_limit, balance_limit, sibling_count)
SELECT created.account_id, u.category, $3, u.overdraft_limit, u.balance_limit,
       CASE WHEN u.category = 'main' THEN cardinality($6::text[]) - 1 ELSE 0 END
FROM created, unnest($6::text[], $7::bigint[], $8::bigint[]) AS u (category, overdraft_limit, balance_limit)
