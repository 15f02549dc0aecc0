-- get_balance_at: the last entry at or before a time, by halving the versions, since time rises with them
WITH RECURSIVE bounds (low, high) AS (
    SELECT 0::bigint, version FROM balances WHERE account_id = $1 AND category = $2
    UNION ALL
    SELECT CASE WHEN e.create_time <= $3 THEN b.middle ELSE b.low END,
           CASE WHEN e.create_time <= $3 THEN b.high ELSE b.middle - 1 END
    FROM (SELECT low, high, (low + high + 1) / 2 AS middle FROM bounds WHERE low < high) AS b
    JOIN entries e ON e.account_id = $1 AND e.category = $2 AND e.version = b.middle
)
SELECT clock_timestamp() AS now, e.version, e.posted_after, e.held_after, e.available_after, e.create_time
FROM (SELECT (SELECT low FROM bounds WHERE low = high) AS version) AS found
LEFT JOIN entries e ON e.account_id = $1 AND e.category = $2 AND e.version = found.version
