-- updated: one row per balance, however many operations changed it; found where the lock saw it, which nobody can have moved
-- since; no indexed column changes, so it stays HOT
WITH updated AS (
    UPDATE balances b
    SET posted = u.posted, version = u.version, update_time = u.update_time, last_operation_id = u.last_operation_id
    FROM (
        SELECT unnest($1::tid[]) AS row_id, unnest($2::text[]) AS account_id, unnest($3::bigint[]) AS posted,
               unnest($4::bigint[]) AS version, unnest($5::timestamptz[]) AS update_time,
               unnest($6::text[]) AS last_operation_id
    ) AS u
    WHERE b.ctid = u.row_id AND b.account_id = u.account_id
    RETURNING b.ctid AS row_id
)
