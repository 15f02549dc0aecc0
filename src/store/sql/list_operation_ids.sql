-- list_operation_ids, after operations_of_account or operations_of_owner: the operations of the listed accounts that come before
-- (time, id), newest first: the merge of their entries and of what has none on a side, such as refused
-- operations. Where to begin
-- in each balance is found by halving the sparse entry index (entry_marks). If an entry of either was not found, the first row has no operation.
changed AS (
    SELECT b.account_id, b.category, b.version, b.update_time, b.last_operation_id
    FROM listed_accounts a
    JOIN balances b ON b.account_id = a.account_id
    WHERE b.version > 0
),
-- When the last operations of that many balances are on the page, no balance that was last changed before them has any there: of
-- an owner with thousands of accounts, a page looks into as many balances as it has operations.
streams AS (
    SELECT *
    FROM changed
    WHERE (update_time < (
        SELECT update_time
        FROM (SELECT DISTINCT update_time, last_operation_id FROM changed) AS last
        WHERE (update_time, last_operation_id) < ($2::timestamptz, $3::text COLLATE "C")
        ORDER BY update_time DESC
        OFFSET $4::bigint - 1
        LIMIT 1
    )) IS NOT TRUE
),
bounds (account_id, category, version, update_time, last_operation_id, low, high) AS (
    SELECT account_id, category, version, update_time, last_operation_id,
           CASE WHEN update_time <= $2 THEN version / 16 ELSE 0 END, version / 16
    FROM streams
    UNION ALL
    SELECT b.account_id, b.category, b.version, b.update_time, b.last_operation_id,
           CASE WHEN m.create_time <= $2 THEN b.middle ELSE b.low END,
           CASE WHEN m.create_time <= $2 THEN b.high ELSE b.middle - 1 END
    FROM (SELECT *, (low + high + 1) / 2 AS middle FROM bounds WHERE low < high) AS b
    CROSS JOIN LATERAL (
        SELECT create_time
        FROM entry_marks
        WHERE account_id = b.account_id AND category = b.category AND version = 16 * b.middle
        OFFSET 0
    ) AS m
),
-- The entries after the mark may be too new, and the mark's own may be the one of the position.
pages AS (
    SELECT account_id, category, version, update_time, last_operation_id, 16 * low AS mark, greatest(16 * low - $4, 1) AS low,
           least(16 * low + 15, version) AS high
    FROM bounds
    WHERE low = high
),
-- Some operations that the page may have, at least one of each balance. When they are enough for the page, it has none
-- from before them.
known AS (
    SELECT update_time AS create_time, last_operation_id AS operation_id FROM streams
    UNION
    SELECT m.create_time, m.operation_id
    FROM pages p
    CROSS JOIN LATERAL (
        SELECT create_time, operation_id
        FROM entry_marks
        WHERE account_id = p.account_id AND category = p.category AND version = p.mark
        OFFSET 0
    ) AS m
),
oldest AS (
    SELECT (
        SELECT create_time
        FROM known
        WHERE (create_time, operation_id) < ($2, $3::text COLLATE "C")
        ORDER BY create_time DESC
        OFFSET $4 - 1
        LIMIT 1
    ) AS create_time
),
starts AS (
    SELECT p.account_id, p.category, 16 * n.number AS version, greatest(16 * n.number - 15, p.low) AS until,
           (SELECT create_time FROM oldest) AS since, m.operation_id
    FROM pages p
    CROSS JOIN LATERAL generate_series((p.low + 15) / 16, least(p.high + 15, p.version) / 16) AS n (number)
    LEFT JOIN LATERAL (
        SELECT create_time, operation_id
        FROM entry_marks
        WHERE account_id = p.account_id AND category = p.category AND version = 16 * n.number
        OFFSET 0
    ) AS m ON true
    -- A mark has its time: what is before an older one is older still.
    WHERE (m.create_time < (SELECT create_time FROM oldest)) IS NOT TRUE
    UNION ALL
    SELECT account_id, category, version, greatest(version - version % 16 + 1, low),
           (SELECT create_time FROM oldest), last_operation_id
    FROM pages
    WHERE high > version - version % 16 AND (update_time < (SELECT create_time FROM oldest)) IS NOT TRUE
),
listed AS (
    SELECT o.create_time, o.operation_id
    FROM listed_accounts u
    CROSS JOIN LATERAL (
        (
            SELECT create_time, operation_id
            FROM operations
            WHERE source_account_id = u.account_id AND source_version IS NULL
                AND create_time BETWEEN (SELECT coalesce(create_time, '-infinity') FROM oldest) AND $2
                AND (create_time, operation_id) < ($2, $3::text COLLATE "C")
            ORDER BY create_time DESC, operation_id DESC
            LIMIT $4
        )
        UNION ALL
        (
            SELECT create_time, operation_id
            FROM operations
            WHERE destination_account_id = u.account_id AND destination_version IS NULL
                AND create_time BETWEEN (SELECT coalesce(create_time, '-infinity') FROM oldest) AND $2
                AND (create_time, operation_id) < ($2, $3::text COLLATE "C")
            ORDER BY create_time DESC, operation_id DESC
            LIMIT $4
        )
        UNION ALL
        (
            SELECT refuse_time, operation_id
            FROM operation_legs
            WHERE account_id = u.account_id
                AND refuse_time BETWEEN (SELECT coalesce(create_time, '-infinity') FROM oldest) AND $2
                AND (refuse_time, operation_id) < ($2, $3::text COLLATE "C")
            ORDER BY refuse_time DESC, operation_id DESC
            LIMIT $4
        )
    ) AS o
)
SELECT create_time, operation_id
FROM chain
WHERE (operation_id IS NULL AND previous_id IS NULL)
    OR (operation_id IS NOT NULL AND (create_time, operation_id) < ($2, $3::text COLLATE "C"))
UNION
SELECT NULL, NULL
WHERE (SELECT count(*) FROM pages) < (SELECT count(*) FROM streams)
UNION
SELECT create_time, operation_id FROM listed
ORDER BY create_time DESC, operation_id DESC
LIMIT $4
