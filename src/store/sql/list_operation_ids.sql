-- list_operation_ids: the operations of some accounts that come before (time, id), newest first: the merge of their
-- entries and of what may have none: refused operations, and merges. Where to begin in each balance is found by halving its
-- marks.
streams AS (
    SELECT account_id, category, version, last_operation_id FROM balances WHERE account_id = ANY($1)
),
bounds (account_id, category, version, last_operation_id, low, high) AS (
    SELECT account_id, category, version, last_operation_id,
           CASE WHEN $2::timestamptz = 'infinity' THEN version / 16 ELSE 0 END, version / 16
    FROM streams
    UNION ALL
    SELECT b.account_id, b.category, b.version, b.last_operation_id,
           CASE WHEN m.create_time <= $2 THEN b.middle ELSE b.low END,
           CASE WHEN m.create_time <= $2 THEN b.high ELSE b.middle - 1 END
    FROM (SELECT *, (low + high + 1) / 2 AS middle FROM bounds WHERE low < high) AS b
    JOIN entry_marks m ON m.account_id = b.account_id AND m.category = b.category AND m.version = 16 * b.middle
),
-- The entries after the mark may be too new, and the mark's own may be the one of the position.
pages AS (
    SELECT account_id, category, version, last_operation_id, greatest(16 * low - $4, 1) AS low,
           least(16 * low + 15, version) AS high
    FROM bounds
    WHERE low = high
),
starts AS (
    SELECT m.account_id, m.category, m.version, greatest(m.version - 15, p.low) AS until, m.operation_id
    FROM pages p
    JOIN entry_marks m ON m.account_id = p.account_id AND m.category = p.category
        AND m.version BETWEEN p.low AND p.high + 15
    UNION ALL
    SELECT account_id, category, version, greatest(version - version % 16 + 1, low), last_operation_id
    FROM pages
    WHERE high > version - version % 16
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
SELECT create_time, operation_id
FROM walk
WHERE operation_id IS NOT NULL AND (create_time, operation_id) < ($2, $3::text COLLATE "C")
UNION
SELECT create_time, operation_id FROM listed
ORDER BY create_time DESC, operation_id DESC
LIMIT $4
