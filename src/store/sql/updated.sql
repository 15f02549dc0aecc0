-- updated: one row per balance, however many operations changed it; found where the lock saw it, which nobody can have moved
-- since; no indexed column changes, so it stays HOT
WITH updated AS (
    UPDATE balances b
    SET posted = u.posted, held = u.held, version = u.version, update_time = u.update_time,
        last_operation_id = u.last_operation_id
    FROM (
        SELECT unnest(:balances.row_id::tid[]) AS row_id, unnest(:balances.account_id::text[]) AS account_id,
               unnest(:balances.posted::bigint[]) AS posted, unnest(:balances.held::bigint[]) AS held,
               unnest(:balances.version::bigint[]) AS version,
               unnest(:balances.update_time::timestamptz[]) AS update_time,
               unnest(:balances.last_operation_id::text[]) AS last_operation_id
    ) AS u
    WHERE b.ctid = u.row_id AND b.account_id = u.account_id
    RETURNING b.ctid AS row_id
)
