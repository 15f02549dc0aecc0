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
    JOIN entry_marks m ON m.account_id = $1 AND m.category = $2 AND m.version = 16 * b.middle
),
mark AS (
    SELECT 16 * low AS version FROM bounds WHERE low = high
),
starts AS (
    SELECT m.account_id, m.category, m.version, greatest(mark.version, 1) AS until, m.operation_id
    FROM mark
    JOIN entry_marks m ON m.account_id = $1 AND m.category = $2 AND m.version = mark.version + 16
    UNION ALL
    SELECT $1, $2, balance.version, greatest(mark.version, 1), balance.last_operation_id
    FROM mark
    JOIN balance ON balance.version < mark.version + 16
)
SELECT clock_timestamp() AS now, (SELECT min(version) FROM walk) AS walked_to, e.*
FROM (SELECT) AS always
LEFT JOIN LATERAL (
    SELECT version, operation_id, amount, posted_after, held_after, available_after, create_time, previous_id
    FROM walk
    WHERE operation_id IS NOT NULL AND create_time <= $3
    ORDER BY version DESC
    LIMIT 1
) AS e ON true
