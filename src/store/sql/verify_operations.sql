-- verify_operations: each operation by itself and with its accounts: what its kind and its outcome need is there and nothing
-- else, the currency is that of its accounts, the category that paid was asked, and everything can be read
SELECT format('operation %s: %s', operation_id, fault)
FROM (
    SELECT o.operation_id, coalesce(
        CASE WHEN o.operation_id ~ '[^A-Za-z0-9._:-]' OR length(o.operation_id) NOT BETWEEN 1 AND 64
            THEN 'its id breaks the rule of ids' END,
        CASE WHEN o.kind NOT IN ('DEBIT', 'CREDIT', 'TRANSFER', 'MERGE', 'POST', 'REVERSAL', 'FREEZE', 'UNFREEZE', 'CLOSE',
                              'REOPEN', 'UPDATE')
            THEN format('its kind %s is unknown', o.kind) END,
        CASE WHEN o.kind NOT IN ('POST', 'REVERSAL') AND ((o.kind = 'CREDIT') <> (o.source_account_id IS NULL)
                OR (o.kind IN ('DEBIT', 'FREEZE', 'UNFREEZE', 'CLOSE', 'REOPEN', 'UPDATE')) <> (o.destination_account_id IS NULL))
            THEN 'its kind has other sides' END,
        CASE WHEN CASE WHEN o.kind = 'REVERSAL' THEN o.intent IS NOT NULL ELSE o.kind NOT IN ('DEBIT', 'CREDIT', 'TRANSFER') END
                    <> (o.amount IS NULL) OR o.amount NOT BETWEEN 1 AND 1000000000000000000
            THEN 'its amount is not valid' END,
        CASE WHEN (o.refusal_reason IS NULL) <> (o.refusal_facts IS NULL) THEN 'refusal reason and facts do not match' END,
        CASE WHEN o.create_time NOT BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
            THEN 'its time is not one' END,
        CASE WHEN CASE WHEN o.refusal_reason IS NULL AND o.source_account_id IS NOT NULL
                        AND o.kind NOT IN ('FREEZE', 'UNFREEZE', 'CLOSE', 'REOPEN')
                        AND (o.kind <> 'MERGE' OR o.source_version IS NOT NULL)
                    THEN num_nulls(o.source_version, o.source_posted_after) > 0
                    ELSE num_nonnulls(o.source_amount, o.source_version, o.source_posted_after, o.source_held_after,
                                      o.source_available_after, o.source_previous_id) > 0 END
            THEN 'its source has an entry that does not fit its outcome' END,
        CASE WHEN CASE WHEN o.refusal_reason IS NULL AND o.destination_account_id IS NOT NULL
                        AND (o.kind <> 'MERGE' OR o.source_version IS NOT NULL)
                    THEN num_nulls(o.destination_version, o.destination_posted_after) > 0
                    ELSE num_nonnulls(o.destination_amount, o.destination_version, o.destination_posted_after,
                                      o.destination_held_after, o.destination_available_after,
                                      o.destination_previous_id) > 0 END
            THEN 'its destination has an entry that does not fit its outcome' END,
        -- A merge moves the same from one account to the other in each category; all others say in amount what they move.
        CASE WHEN CASE WHEN o.kind = 'MERGE' THEN o.source_amount::numeric + o.destination_amount <> 0 OR o.source_amount >= 0
                           OR o.source_category <> o.destination_category
                       WHEN o.kind = 'UPDATE' THEN o.source_amount <> 0
                       WHEN o.kind = 'POST' OR o.kind = 'REVERSAL' AND o.intent IS NOT NULL
                           THEN o.source_amount >= 0 OR o.destination_amount <= 0
                       ELSE num_nonnulls(o.source_amount, o.destination_amount) > 0 END
            THEN 'its entries are not what its kind moves' END,
        CASE WHEN o.kind = 'MERGE' AND legs.are_wrong THEN 'its legs are not what its kind moves' END,
        CASE WHEN o.hold_id IS NOT NULL OR (o.kind = 'REVERSAL') <> (o.reversed_operation_id IS NOT NULL)
                OR CASE WHEN o.kind IN ('POST', 'FREEZE', 'UNFREEZE', 'UPDATE') THEN o.intent IS NULL
                        WHEN o.kind NOT IN ('DEBIT', 'CREDIT', 'TRANSFER', 'REVERSAL') THEN o.intent IS NOT NULL END
            THEN 'it names something that its kind knows nothing of' END,
        CASE WHEN (o.source_category IS NULL) <> (o.source_account_id IS NULL OR o.kind IN ('MERGE', 'UPDATE') AND o.source_version IS NULL
                        OR o.kind IN ('FREEZE', 'UNFREEZE', 'CLOSE', 'REOPEN'))
                OR (o.destination_category IS NULL)
                    <> (o.destination_account_id IS NULL OR o.kind = 'MERGE' AND o.destination_version IS NULL)
                OR o.source_category ~ '[^A-Za-z0-9._:-]' OR length(o.source_category) NOT BETWEEN 1 AND 32
                OR o.destination_category ~ '[^A-Za-z0-9._:-]' OR length(o.destination_category) NOT BETWEEN 1 AND 32
            THEN 'its categories are not valid' END,
        CASE WHEN o.source_account_id IS NOT NULL AND s.account_id IS NULL
            THEN format('its source account %s does not exist', o.source_account_id) END,
        CASE WHEN o.destination_account_id IS NOT NULL AND d.account_id IS NULL
            THEN format('its destination account %s does not exist', o.destination_account_id) END,
        CASE WHEN (s.currency_code <> o.currency_code OR d.currency_code <> o.currency_code)
                AND o.kind <> 'POST' AND NOT (o.kind = 'REVERSAL' AND o.intent IS NOT NULL)
            THEN format('its currency %s is not that of its accounts', o.currency_code) END,
        CASE WHEN o.source_categories IS NULL THEN
                CASE WHEN o.source_category <> 'main' AND o.kind NOT IN ('MERGE', 'POST', 'UPDATE')
                        AND NOT (o.kind = 'REVERSAL' AND o.intent IS NOT NULL)
                    THEN 'its source_categories lack the category that paid' END
            ELSE asked.fault END,
        CASE WHEN o.kind = 'TRANSFER' AND o.source_account_id = o.destination_account_id
                AND o.destination_category = ANY (coalesce(string_to_array(o.source_categories, ','), '{main}'))
                OR o.kind = 'MERGE' AND o.source_account_id = o.destination_account_id
            THEN 'its source is its destination' END,
        CASE WHEN o.destination_owner_id IS NOT NULL
                AND (o.kind <> 'TRANSFER' OR d.owner_id IS DISTINCT FROM o.destination_owner_id)
            THEN 'its destination account is not of its destination owner' END,
        CASE WHEN o.metadata IS NOT NULL
                AND (jsonb_typeof(o.metadata) <> 'object' OR o.metadata = '{}'
                     OR o.metadata @? 'strict $.* ? (@.type() <> "string")')
            THEN 'its metadata is not a map of texts' END
        ) AS fault
    FROM operations o
    LEFT JOIN accounts s ON s.account_id = o.source_account_id
    LEFT JOIN accounts d ON d.account_id = o.destination_account_id
    LEFT JOIN LATERAL (
        SELECT CASE
                   WHEN o.kind NOT IN ('DEBIT', 'TRANSFER')
                       AND (o.kind <> 'REVERSAL' OR o.intent IS NOT NULL OR o.source_account_id IS NULL) THEN 'it has source_categories and no source'
                   WHEN o.source_categories ~ '[^A-Za-z0-9._:,-]' OR count(*) NOT BETWEEN 1 AND 16
                       OR bool_or(length(category) NOT BETWEEN 1 AND 32) OR count(*) <> count(DISTINCT category)
                       THEN 'its source_categories are not valid'
                   WHEN o.refusal_reason IS NULL AND NOT bool_or(category = o.source_category)
                       THEN 'its source_categories lack the category that paid'
                   WHEN o.refusal_reason IS NOT NULL AND split_part(o.source_categories, ',', 1) <> o.source_category
                       THEN 'its source_category is not the first of its source_categories'
               END AS fault
        FROM unnest(string_to_array(o.source_categories, ',')) AS category
    ) AS asked ON o.source_categories IS NOT NULL
    LEFT JOIN LATERAL (
        SELECT bool_or(
                   amount IS DISTINCT FROM CASE WHEN is_source THEN -other_amount ELSE other_amount END
                   OR account_id IS DISTINCT FROM CASE WHEN is_source THEN o.source_account_id ELSE o.destination_account_id END
                   OR is_source AND amount >= 0 OR category IS DISTINCT FROM other_category
               ) AS are_wrong
        FROM (
            SELECT l.account_id, l.category, l.amount, l.position % 2 = 0 AS is_source,
                   first_value(l.category) OVER w AS other_category,
                   -first_value(l.amount::numeric) OVER w AS other_amount
            FROM operation_legs l
            WHERE l.operation_id = o.operation_id
            WINDOW w AS (PARTITION BY l.position / 2 ORDER BY l.position)
        ) AS l
    ) AS legs ON o.leg_count IS NOT NULL
    OFFSET 0
) AS o
WHERE fault IS NOT NULL
