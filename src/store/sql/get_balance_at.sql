-- get_balance_at: the last entry at or before a time ($3). The last mark at or before it is found by halving, since time
-- rises with the versions; the entry is that mark's or one of those between it and the next mark.
balance AS (
    SELECT version, last_operation_id FROM balances WHERE account_id = $1 AND category = $2
),
bounds (low, high) AS (
    SELECT 0::bigint, version / 16 FROM balance
    UNION ALL
    SELECT CASE WHEN m.create_time <= $3 THEN b.middle ELSE b.low END,
           CASE WHEN m.create_time <= $3 THEN b.high ELSE b.middle - 1 END
    FROM (SELECT low, high, (low + high + 1) / 2 AS middle FROM bounds WHERE low < high) AS b
    CROSS JOIN LATERAL (
        SELECT create_time
        FROM entry_marks
        WHERE account_id = $1 AND category = $2 AND version = 16 * b.middle
        OFFSET 0
    ) AS m
),
mark AS (
    SELECT 16 * low AS version FROM bounds WHERE low = high
),
starts AS (
    SELECT m.account_id, m.category, m.version, greatest(mark.version, 1) AS until, NULL::timestamptz AS since,
           m.operation_id
    FROM mark
    CROSS JOIN LATERAL (
        SELECT account_id, category, version, operation_id
        FROM entry_marks
        WHERE account_id = $1 AND category = $2 AND version = mark.version + 16
        OFFSET 0
    ) AS m
    UNION ALL
    SELECT $1, $2, balance.version, greatest(mark.version, 1), NULL, balance.last_operation_id
    FROM mark
    JOIN balance ON balance.version BETWEEN 1 AND mark.version + 15
)
-- Without an entry at or before the time, the scan has reached the first one of all.
SELECT clock_timestamp() AS now, e.*,
       coalesce((SELECT version FROM balance), 0) > 0
       AND (SELECT min(version) FROM chain WHERE operation_id IS NOT NULL) IS DISTINCT FROM 1 AS is_cut_off
FROM (SELECT) AS always
LEFT JOIN LATERAL (
    SELECT version, operation_id, amount, posted_after, held_after, available_after, create_time, previous_id
    FROM chain
    WHERE operation_id IS NOT NULL AND create_time <= $3
    ORDER BY version DESC
    LIMIT 1
) AS e ON true
