-- set_account_flags: what accounts refuse from now on; after the update of balances, which finds main where the lock saw it; fails
-- if one main was not there
WITH changed AS (
    UPDATE balances b
    SET closed = c.closed, debits_frozen = c.debits_frozen, credits_frozen = c.credits_frozen
    FROM (
        SELECT unnest(:account_flags.account_id::text[]) AS account_id, unnest(:account_flags.closed::boolean[]) AS closed,
               unnest(:account_flags.debits_frozen::boolean[]) AS debits_frozen,
               unnest(:account_flags.credits_frozen::boolean[]) AS credits_frozen
    ) AS c
    WHERE b.account_id = c.account_id AND b.category = 'main'
    RETURNING 1
)
SELECT 1 / (count(*) = cardinality(:account_flags.account_id))::integer AS all_there FROM changed
