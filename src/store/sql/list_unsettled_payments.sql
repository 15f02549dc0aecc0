-- list_unsettled_payments: those whose reversal was refused, the longest refused first, after a given one
SELECT v.operation_id, v.refuse_time, v.refusal_reason, v.reversal_id, v.settlement_id, o.source_account_id,
       o.source_category, o.amount, o.currency_code, o.create_time, o.metadata ->> 'mcc' AS mcc,
       o.metadata ->> 'merchant' AS merchant
FROM card_verdicts v
JOIN operations o ON o.operation_id = v.operation_id
WHERE v.unsettled AND v.refusal_reason IS NOT NULL AND (v.refuse_time, v.operation_id) > ($1, $2)
ORDER BY v.refuse_time, v.operation_id
LIMIT $3
