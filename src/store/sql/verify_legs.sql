-- verify_legs: each leg belongs to an operation that counts it, and has what the outcome of that operation needs
SELECT format('operation %s: %s', operation_id, fault)
FROM (
    SELECT coalesce(o.operation_id, l.operation_id) AS operation_id, coalesce(
        CASE WHEN o.operation_id IS NULL THEN 'it does not exist, and has legs' END,
        CASE WHEN o.leg_count IS DISTINCT FROM l.leg_count
            THEN format('it counts %s legs, there are %s', coalesce(o.leg_count, 0), coalesce(l.leg_count, 0)) END,
        CASE WHEN NOT l.are_categories_valid THEN 'a category of a leg breaks the rule of categories' END,
        CASE WHEN l.lost_account_id IS NOT NULL THEN format('its account %s does not exist', l.lost_account_id) END,
        CASE WHEN (l.lowest <> o.currency_code OR l.highest <> o.currency_code)
                AND o.kind <> 'POST' AND NOT (o.kind = 'REVERSAL' AND o.intent IS NOT NULL)
            THEN format('its currency %s is not that of its accounts', o.currency_code) END,
        CASE WHEN l.lowest_position < least(num_nonnulls(o.source_version, o.destination_version), 1) OR l.position_count <> l.leg_count
                OR l.highest_position >= l.leg_count + num_nonnulls(o.source_version, o.destination_version)
            THEN 'the positions of its legs are not valid' END,
        CASE WHEN NOT CASE WHEN o.refusal_reason IS NULL THEN l.have_entries ELSE l.have_none END
            THEN 'a leg has an entry that does not fit its outcome' END,
        CASE WHEN l.refuse_time IS NOT NULL AND l.refuse_time IS DISTINCT FROM o.create_time
            THEN 'a leg has another time' END,
        CASE WHEN o.kind NOT IN ('MERGE', 'POST', 'UPDATE', 'REVERSAL') OR o.kind = 'REVERSAL' AND o.intent IS NULL
            THEN format('its kind %s has no legs', o.kind) END
        ) AS fault
    FROM (SELECT * FROM operations WHERE leg_count IS NOT NULL) AS o
    FULL JOIN (
        SELECT l.operation_id, count(*) AS leg_count,
               bool_and(l.category !~ '[^A-Za-z0-9._:-]' AND length(l.category) BETWEEN 1 AND 32) AS are_categories_valid,
               min(l.account_id) FILTER (WHERE a.account_id IS NULL) AS lost_account_id,
               min(a.currency_code) AS lowest, max(a.currency_code) AS highest,
               min(l.position) AS lowest_position, max(l.position) AS highest_position,
               count(DISTINCT l.position) AS position_count, max(l.refuse_time) AS refuse_time,
               bool_and(num_nulls(l.amount, l.version, l.posted_after) = 0 AND l.refuse_time IS NULL) AS have_entries,
               bool_and(num_nonnulls(l.amount, l.version, l.posted_after, l.held_after, l.available_after,
                                     l.previous_id) = 0 AND l.refuse_time IS NOT NULL) AS have_none
        FROM operation_legs l
        LEFT JOIN accounts a ON a.account_id = l.account_id
        GROUP BY l.operation_id
    ) AS l ON l.operation_id = o.operation_id
    OFFSET 0
) AS l
WHERE fault IS NOT NULL
