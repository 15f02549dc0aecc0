-- list_operation_ids: the operations of some accounts that come before (time, id), newest first: the merge of their
-- entries and of what may have none: refused operations, and merges. Where to begin in each balance is found by halving its versions.
WITH RECURSIVE streams AS (
    SELECT account_id, category, version FROM balances WHERE account_id = ANY($1)
),
bounds (account_id, category, low, high) AS (
    SELECT account_id, category, CASE WHEN $2::timestamptz = 'infinity' THEN version ELSE 0 END, version FROM streams
    UNION ALL
    SELECT b.account_id, b.category,
           CASE WHEN e.create_time <= $2 THEN b.middle ELSE b.low END,
           CASE WHEN e.create_time <= $2 THEN b.high ELSE b.middle - 1 END
    FROM (SELECT *, (low + high + 1) / 2 AS middle FROM bounds WHERE low < high) AS b
    JOIN entries e ON e.account_id = b.account_id AND e.category = b.category AND e.version = b.middle
),
posted AS (
    SELECT e.create_time, e.operation_id
    FROM bounds b
    CROSS JOIN LATERAL (
        SELECT create_time, operation_id
        FROM entries
        WHERE account_id = b.account_id AND category = b.category AND version <= b.low
            AND (create_time, operation_id) < ($2, $3::text COLLATE "C")
        ORDER BY version DESC
        LIMIT $4
    ) AS e
    WHERE b.low = b.high
),
listed AS (
    SELECT o.create_time, o.operation_id
    FROM unnest($1) AS u (account_id)
    CROSS JOIN LATERAL (
        (
            SELECT create_time, operation_id
            FROM operations
            WHERE source_account_id = u.account_id AND (refusal_reason IS NOT NULL OR kind = 'MERGE')
                AND create_time <= $2 AND (create_time, operation_id) < ($2, $3::text COLLATE "C")
            ORDER BY create_time DESC, operation_id DESC
            LIMIT $4
        )
        UNION ALL
        (
            SELECT create_time, operation_id
            FROM operations
            WHERE destination_account_id = u.account_id AND (refusal_reason IS NOT NULL OR kind = 'MERGE')
                AND create_time <= $2 AND (create_time, operation_id) < ($2, $3::text COLLATE "C")
            ORDER BY create_time DESC, operation_id DESC
            LIMIT $4
        )
    ) AS o
)
SELECT create_time, operation_id FROM posted
UNION
SELECT create_time, operation_id FROM listed
ORDER BY create_time DESC, operation_id DESC
LIMIT $4
