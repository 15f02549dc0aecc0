-- verify_reversals: what each reversal names was posted and can be reversed; it moves between the same balances, the other way
-- round; and all that posted together move back no more than the original moved
SELECT format('operation %s: %s', operation_id, fault)
FROM (
    SELECT r.operation_id, coalesce(
        CASE WHEN o.operation_id IS NULL THEN 'what it reverses does not exist' END,
        CASE WHEN o.refusal_reason IS NOT NULL THEN 'what it reverses was refused' END,
        CASE WHEN o.kind NOT IN ('DEBIT', 'CREDIT', 'TRANSFER', 'POST') THEN 'what it reverses is of a kind that cannot be reversed' END,
        CASE WHEN r.create_time <= o.create_time THEN 'it is not later than what it reverses' END,
        CASE WHEN (o.kind = 'POST') <> (r.intent IS NOT NULL) THEN 'it does not have the form of what it reverses' END,
        CASE WHEN o.kind <> 'POST'
                AND (r.source_account_id, r.source_category, r.destination_account_id, r.destination_category, r.currency_code)
                    IS DISTINCT FROM (o.destination_account_id, o.destination_category, o.source_account_id, o.source_category,
                                      o.currency_code)
            THEN 'its sides are not those of what it reverses' END,
        CASE WHEN o.kind <> 'POST' AND r.source_categories IS DISTINCT FROM nullif(r.source_category, 'main')
            THEN 'it asks other categories than what it reverses' END,
        CASE WHEN o.kind = 'POST' AND legs.back IS DISTINCT FROM legs.there THEN 'its legs are not those of what it reverses' END,
        CASE WHEN r.refusal_reason IS NULL AND (o.kind = 'POST' AND all_of.count > 1 OR all_of.amount > o.amount)
            THEN 'the reversals of an operation move back more than it moved' END
        ) AS fault
    FROM operations r
    LEFT JOIN operations o ON o.operation_id = r.reversed_operation_id
    LEFT JOIN (
        SELECT reversed_operation_id, count(*) AS count, sum(amount) AS amount
        FROM operations
        WHERE reversed_operation_id IS NOT NULL AND refusal_reason IS NULL
        GROUP BY reversed_operation_id
    ) AS all_of ON all_of.reversed_operation_id = r.reversed_operation_id
    LEFT JOIN LATERAL (
        SELECT (
            SELECT array_agg(leg ORDER BY leg)
            FROM (
                SELECT concat_ws('/', leg ->> 'account_id', coalesce(leg -> 'categories' ->> 0, 'main'), leg ->> 'side',
                                 leg ->> 'amount') COLLATE "C" AS leg
                FROM jsonb_path_query(r.intent, 'lax $.legs[*]') AS l (leg)
                WHERE leg ->> 'account_id' IS NOT NULL
            ) AS l
        ) AS back, (
            SELECT array_agg(leg ORDER BY leg)
            FROM (
                SELECT concat_ws('/', account_id, category, CASE WHEN amount < 0 THEN 'CREDIT' ELSE 'DEBIT' END,
                                 abs(amount::numeric)) COLLATE "C" AS leg
                FROM (
                    SELECT o.source_account_id AS account_id, o.source_category AS category, o.source_amount AS amount
                    WHERE o.source_version IS NOT NULL
                    UNION ALL
                    SELECT o.destination_account_id, o.destination_category, o.destination_amount
                    WHERE o.destination_version IS NOT NULL
                    UNION ALL
                    SELECT account_id, category, amount
                    FROM operation_legs
                    WHERE operation_id = o.operation_id AND version IS NOT NULL
                ) AS e
            ) AS l
        ) AS there
    ) AS legs ON o.kind = 'POST'
    WHERE r.reversed_operation_id IS NOT NULL
    OFFSET 0
) AS r
WHERE fault IS NOT NULL
