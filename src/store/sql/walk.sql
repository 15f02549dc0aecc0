-- walk: the entries of some balances. Each of `starts` names a balance, an operation that made an entry of it, that entry's
-- version, the version where to end, and the time (or NULL) where to end sooner; all walks go back side by side, one
-- operation for each at a time. The first row of a walk is no entry, it only says where to go. Where an entry is missing,
-- a row says so: it has neither an operation nor one to go to. OFFSET 0: one look-up for each, never a walk through a table.
WITH RECURSIVE walk (
    account_id, category, version, until, since, operation_id, previous_id, amount, posted_after, held_after,
    available_after, create_time
) AS (
    SELECT account_id, category, version + 1, until, since, NULL::text COLLATE "C", operation_id, NULL::bigint,
           NULL::bigint, NULL::bigint, NULL::bigint, NULL::timestamptz
    FROM starts
    UNION ALL
    SELECT w.account_id, w.category, w.version - 1, w.until, w.since, e.operation_id, e.previous_id, e.amount,
           e.posted_after, e.held_after, e.available_after, e.create_time
    FROM walk w
    LEFT JOIN LATERAL (
        SELECT o.operation_id, o.create_time, side.*
        FROM operations o
        CROSS JOIN LATERAL (
            SELECT o.source_previous_id AS previous_id, -o.amount AS amount, o.source_posted_after AS posted_after,
                   o.source_held_after AS held_after, o.source_available_after AS available_after
            WHERE o.source_account_id = w.account_id AND o.source_category = w.category
                AND o.source_version = w.version - 1
            UNION ALL
            SELECT o.destination_previous_id, o.amount, o.destination_posted_after, o.destination_held_after,
                   o.destination_available_after
            WHERE o.destination_account_id = w.account_id AND o.destination_category = w.category
                AND o.destination_version = w.version - 1
            UNION ALL
            SELECT p.source_previous_id, -p.amount, p.source_posted_after, p.source_held_after, p.source_available_after
            FROM merge_parts p
            WHERE o.kind = 'MERGE' AND o.source_account_id = w.account_id
                AND p.operation_id = o.operation_id AND p.category = w.category AND p.source_version = w.version - 1
            UNION ALL
            SELECT p.destination_previous_id, p.amount, p.destination_posted_after, p.destination_held_after,
                   p.destination_available_after
            FROM merge_parts p
            WHERE o.kind = 'MERGE' AND o.destination_account_id = w.account_id
                AND p.operation_id = o.operation_id AND p.category = w.category
                AND p.destination_version = w.version - 1
        ) AS side
        WHERE o.operation_id = w.previous_id
        OFFSET 0
    ) AS e ON true
    WHERE w.version > w.until AND (w.create_time < w.since) IS NOT TRUE
),
