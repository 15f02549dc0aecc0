-- get_card_verdict: what stands about an attempt, and how it was settled
SELECT verdict, unsettled, reversal_id, refusal_reason, settlement_id, settlement_method, settlement_account_id,
       settlement_category, settlement_note, settle_time
FROM card_verdicts
WHERE operation_id = $1 AND attempt = $2
