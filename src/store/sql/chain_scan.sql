-- chain_scan: the entries of some balances. Each of `starts` names a balance, an operation that made an entry of it, that entry's
-- version, the version where to end, and the time (or NULL) where to end sooner; all scans go back side by side, one
-- operation for each at a time. The first row of a scan is no entry, it only says where to go. Where an entry is missing,
-- a row says so: it has neither an operation nor one to go to. OFFSET 0: one look-up for each, never a scan of a table.
WITH RECURSIVE chain (
    account_id, category, version, until, since, operation_id, previous_id, amount, posted_after, held_after,
    available_after, create_time
) AS (
    SELECT account_id, category, version + 1, until, since, NULL::text COLLATE "C", operation_id, NULL::bigint,
           NULL::bigint, NULL::bigint, NULL::bigint, NULL::timestamptz
    FROM starts
    UNION ALL
    SELECT c.account_id, c.category, c.version - 1, c.until, c.since, e.operation_id, e.previous_id, e.amount,
           e.posted_after, e.held_after, e.available_after, e.create_time
    FROM chain c
    LEFT JOIN LATERAL (
        SELECT o.operation_id, o.create_time, side.*
        FROM operations o
        CROSS JOIN LATERAL (
            SELECT o.source_previous_id AS previous_id, coalesce(o.source_amount, -o.amount) AS amount,
                   o.source_posted_after AS posted_after, o.source_held_after AS held_after,
                   o.source_available_after AS available_after
            WHERE o.source_account_id = c.account_id AND o.source_category = c.category
                AND o.source_version = c.version - 1
            UNION ALL
            SELECT o.destination_previous_id, coalesce(o.destination_amount, o.amount), o.destination_posted_after,
                   o.destination_held_after, o.destination_available_after
            WHERE o.destination_account_id = c.account_id AND o.destination_category = c.category
                AND o.destination_version = c.version - 1
            UNION ALL
            SELECT l.previous_id, l.amount, l.posted_after, l.held_after, l.available_after
            FROM operation_legs l
            WHERE o.leg_count > 0 AND l.operation_id = o.operation_id AND l.account_id = c.account_id
                AND l.category = c.category AND l.version = c.version - 1
        ) AS side
        WHERE o.operation_id = c.previous_id
        OFFSET 0
    ) AS e ON true
    WHERE c.version > c.until AND (c.create_time < c.since) IS NOT TRUE
),
