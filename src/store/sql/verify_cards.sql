-- verify_cards: a payment that is KEPT is posted and not given back; one that is REVERSED and settled was given back, or a
-- person settled it; nothing was given back without a verdict
WITH verdicts AS (
    -- As JSON, since some columns are only in newer schemas; there they are NULL until something is refused or settled.
    SELECT v.operation_id, v.attempt, v.verdict, v.unsettled, v.create_time, to_jsonb(v) AS row,
           CASE WHEN length(v.operation_id) <= 55 THEN v.operation_id || ':reversal'
                ELSE left(v.operation_id, greatest(54 - length(v.attempt), 0)) || ':' || v.attempt || ':reversal' END
               COLLATE "C" AS reversal_id
    FROM card_verdicts v
),
payments AS (
    SELECT v.*, p.operation_id IS NOT NULL AS is_posted, r.operation_id IS NOT NULL AS is_given_back,
           s.operation_id IS NOT NULL AS is_credited
    FROM verdicts v
    LEFT JOIN operations p ON p.operation_id = v.operation_id AND p.kind = 'DEBIT' AND p.refusal_reason IS NULL
        AND p.metadata ->> 'attempt' = v.attempt
    LEFT JOIN operations r ON r.operation_id = v.reversal_id AND r.kind = 'CREDIT' AND r.refusal_reason IS NULL
        AND r.metadata ->> 'reverses' = p.operation_id
        AND (r.amount, r.currency_code, r.destination_account_id, r.destination_category)
            = (p.amount, p.currency_code, p.source_account_id, p.source_category)
    LEFT JOIN operations s ON s.operation_id = v.row ->> 'settlement_id' AND s.kind = 'CREDIT' AND s.refusal_reason IS NULL
        AND (s.amount, s.currency_code, s.destination_account_id, s.destination_category)
            = (p.amount, p.currency_code, v.row ->> 'settlement_account_id', v.row ->> 'settlement_category')
)
SELECT format('card verdict of payment %s, attempt %s: %s', operation_id, attempt, fault)
FROM (
    SELECT operation_id, attempt, coalesce(
        CASE WHEN verdict NOT IN ('KEPT', 'REVERSED') THEN format('%s is no verdict', verdict) END,
        CASE WHEN create_time NOT BETWEEN '0001-01-01 00:00:00Z' AND '9999-12-31 23:59:59.999999Z'
                OR 'infinity' IN (row ->> 'refuse_time', row ->> 'settle_time')
                OR '-infinity' IN (row ->> 'refuse_time', row ->> 'settle_time')
            THEN 'its time is not one' END,
        CASE WHEN verdict = 'KEPT' AND unsettled THEN 'it is kept and unsettled' END,
        CASE WHEN verdict = 'KEPT' AND NOT is_posted THEN 'it is kept, and no such attempt is posted' END,
        CASE WHEN verdict = 'KEPT' AND is_given_back THEN 'it is kept, and given back' END,
        CASE WHEN row ->> 'reversal_id' <> reversal_id OR verdict = 'KEPT' AND row ->> 'reversal_id' IS NOT NULL
            THEN 'it names another reversal' END,
        CASE WHEN (row ->> 'refusal_reason' IS NULL) <> (row ->> 'refuse_time' IS NULL)
                OR row ->> 'refusal_reason' IS NOT NULL
                    AND (verdict = 'KEPT' OR row ->> 'reversal_id' IS NULL OR unsettled <> (row ->> 'settle_time' IS NULL))
            THEN 'what it says about the refused reversal does not fit' END,
        CASE WHEN (row ->> 'settlement_id' IS NULL) <> (row ->> 'settlement_method' IS NULL)
                OR (row ->> 'settlement_id' IS NULL) <> (row ->> 'settlement_note' IS NULL)
                OR row ->> 'settlement_id' IS NOT NULL AND row ->> 'refusal_reason' IS NULL
                OR row ->> 'settlement_id' IS NULL AND row ->> 'settle_time' IS NOT NULL
                OR row ->> 'settlement_method' NOT IN ('CREDIT', 'OTHER')
                OR (row ->> 'settlement_method' IS NOT DISTINCT FROM 'CREDIT') <> (row ->> 'settlement_account_id' IS NOT NULL)
                OR (row ->> 'settlement_account_id' IS NULL) <> (row ->> 'settlement_category' IS NULL)
            THEN 'what it says about the settlement by a person does not fit' END,
        CASE WHEN row ->> 'settle_time' IS NOT NULL AND row ->> 'settlement_method' = 'CREDIT' AND NOT is_credited
            THEN 'a person settled it by a credit that is not there' END,
        CASE WHEN verdict = 'REVERSED' AND is_posted AND NOT unsettled AND NOT is_given_back
                AND row ->> 'settlement_id' IS NULL
            THEN 'it is settled, and the payment is not given back' END
        ) AS fault
    FROM payments
    OFFSET 0
) AS v
WHERE fault IS NOT NULL
UNION ALL
SELECT format('operation %s: it gives back payment %s, and no verdict says so', r.operation_id, o.operation_id)
FROM operations r
JOIN operations o ON o.operation_id = r.metadata ->> 'reverses' AND o.kind = 'DEBIT'
WHERE r.kind = 'CREDIT' AND r.refusal_reason IS NULL AND r.operation_id LIKE '%:reversal'
    AND NOT EXISTS (
        SELECT 1
        FROM card_verdicts v
        WHERE v.operation_id = o.operation_id AND v.attempt = o.metadata ->> 'attempt' AND v.verdict = 'REVERSED'
    )
    -- A caller may have done the like for a debit of its own.
    AND (o.metadata ->> 'attempt' IS NOT NULL OR o.operation_id IN (SELECT operation_id FROM card_verdicts))
