-- list_entries: a page of one balance beyond a version ($3), as many entries as $4, oldest first if $5. A version whose entry
-- was not found comes without an operation.
page AS (
    SELECT version, last_operation_id,
           CASE WHEN $5::boolean THEN least(after, version) + 1 ELSE greatest(before - $4::bigint, 1) END AS low,
           CASE WHEN $5 THEN least(version, least(after, version) + $4) ELSE before - 1 END AS high
    FROM (
        SELECT version, last_operation_id, greatest(coalesce($3::bigint, 0), 0) AS after,
               least(greatest(coalesce($3, version + 1), 1), version + 1) AS before
        FROM balances
        WHERE account_id = $1 AND category = $2
    ) AS b
),
starts AS (
    SELECT m.account_id, m.category, m.version, greatest(m.version - 15, p.low) AS until, NULL::timestamptz AS since,
           m.operation_id
    FROM page p
    CROSS JOIN LATERAL generate_series((p.low + 15) / 16, least(p.high + 15, p.version) / 16) AS n (number)
    CROSS JOIN LATERAL (
        SELECT account_id, category, version, operation_id
        FROM entry_marks
        WHERE account_id = $1 AND category = $2 AND version = 16 * n.number
        OFFSET 0
    ) AS m
    UNION ALL
    SELECT $1, $2, version, greatest(version - version % 16 + 1, low), NULL, last_operation_id
    FROM page
    WHERE high > version - version % 16
)
SELECT v.version, w.operation_id, w.amount, w.posted_after, w.held_after, w.available_after, w.create_time, w.previous_id
FROM page p
CROSS JOIN LATERAL generate_series(p.low, p.high) AS v (version)
LEFT JOIN chain w ON w.version = v.version AND w.operation_id IS NOT NULL
ORDER BY CASE WHEN $5 THEN v.version ELSE -v.version END
