-- insert_balances: new categories begin with their first credit, or with a limit; main counts them; fails if one main was not there
WITH created AS (
    INSERT INTO balances (account_id, category, currency_code, posted, held, version, update_time, last_operation_id,
                          overdraft_limit, balance_limit, breach)
    SELECT account_id, category, currency_code, posted, held, version, update_time, last_operation_id, overdraft_limit,
           balance_limit, nullif(breach, 0)
    FROM unnest(
        :balances.account_id::text[], :balances.category::text[], :balances.currency_code::text[],
        :balances.posted::bigint[], :balances.held::bigint[], :balances.version::bigint[],
        :balances.update_time::timestamptz[], :balances.last_operation_id::text[], :balances.overdraft_limit::bigint[],
        :balances.balance_limit::bigint[], :balances.breach::bigint[]
    ) AS new (account_id, category, currency_code, posted, held, version, update_time, last_operation_id, overdraft_limit,
              balance_limit, breach)
    RETURNING account_id
),
counts AS (
    SELECT account_id, count(*)::integer AS created_count FROM created GROUP BY account_id
),
counted AS (
    UPDATE balances b
    SET sibling_count = b.sibling_count + c.created_count
    FROM counts c
    WHERE b.account_id = c.account_id AND b.category = 'main'
    RETURNING 1
)
SELECT 1 / ((SELECT count(*) FROM counted) = (SELECT count(*) FROM counts))::integer AS all_there
