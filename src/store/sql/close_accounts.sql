-- close_accounts: after update_balances, which finds main where the lock saw it; fails as that does if one was not there
WITH closed AS (
    UPDATE balances SET closed = true WHERE account_id = ANY($1) AND category = 'main' RETURNING 1
)
SELECT 1 / (count(*) = cardinality($1))::integer AS all_there FROM closed
