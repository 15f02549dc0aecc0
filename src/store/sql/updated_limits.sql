-- updated_limits: `updated` for a batch that changed limits. They are written in the same update, because the check of the overdraft
-- holds for what both are in the end.
WITH updated AS (
    UPDATE balances b
    SET posted = u.posted, held = u.held, version = u.version, update_time = u.update_time,
        last_operation_id = u.last_operation_id, overdraft_limit = u.overdraft_limit, balance_limit = u.balance_limit,
        breach = CASE WHEN u.breach IS NULL THEN b.breach ELSE nullif(u.breach, 0) END
    FROM (
        SELECT unnest(:balances.row_id::tid[]) AS row_id, unnest(:balances.account_id::text[]) AS account_id,
               unnest(:balances.posted::bigint[]) AS posted, unnest(:balances.held::bigint[]) AS held,
               unnest(:balances.version::bigint[]) AS version,
               unnest(:balances.update_time::timestamptz[]) AS update_time,
               unnest(:balances.last_operation_id::text[]) AS last_operation_id,
               unnest(:balances.overdraft_limit::bigint[]) AS overdraft_limit,
               unnest(:balances.balance_limit::bigint[]) AS balance_limit, unnest(:balances.breach::bigint[]) AS breach
    ) AS u
    WHERE b.ctid = u.row_id AND b.account_id = u.account_id
    RETURNING b.ctid AS row_id
)
