-- verify_intents: all operations that say in `intent` what was asked, with all their entries and the currencies of those
SELECT operation_id, kind, amount, currency_code, create_time,
       source_account_id, source_category, source_categories, source_amount, source_version, source_posted_after,
       source_held_after, source_available_after, source_previous_id,
       destination_account_id, destination_category, destination_owner_id, destination_amount, destination_version,
       destination_posted_after, destination_held_after, destination_available_after, destination_previous_id,
       leg_count, hold_id, reversed_operation_id, intent::text, description, metadata::text, refusal_reason,
       refusal_facts::text,
       e.account_ids, e.categories, e.amounts, e.currency_codes, e.overdrafts
FROM operations o
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(e.account_id), '{}') AS account_ids, coalesce(array_agg(e.category), '{}') AS categories,
           coalesce(array_agg(e.amount), '{}') AS amounts, coalesce(array_agg(a.currency_code), '{}') AS currency_codes,
           -- The overdraft limit that an entry was made under.
           coalesce(array_agg((coalesce(e.available_after, e.posted_after::numeric - e.held_after) - e.posted_after
                               + e.held_after)::text), '{}') AS overdrafts
    FROM (
        SELECT o.source_account_id AS account_id, o.source_category AS category, o.source_amount AS amount,
               o.source_posted_after AS posted_after, coalesce(o.source_held_after, 0) AS held_after,
               o.source_available_after AS available_after
        WHERE o.source_version IS NOT NULL
        UNION ALL
        SELECT o.destination_account_id, o.destination_category, o.destination_amount, o.destination_posted_after,
               coalesce(o.destination_held_after, 0), o.destination_available_after
        WHERE o.destination_version IS NOT NULL
        UNION ALL
        SELECT l.account_id, l.category, l.amount, l.posted_after, coalesce(l.held_after, 0), l.available_after
        FROM operation_legs l
        WHERE l.operation_id = o.operation_id AND l.version IS NOT NULL
    ) AS e
    LEFT JOIN accounts a ON a.account_id = e.account_id
) AS e
WHERE o.intent IS NOT NULL
