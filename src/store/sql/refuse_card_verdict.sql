-- refuse_card_verdict: the reversal of a payment was refused, so a person has to settle it
UPDATE card_verdicts
SET refusal_reason = $3, reversal_id = $4, refuse_time = clock_timestamp()
WHERE operation_id = $1 AND attempt = $2 AND unsettled AND refusal_reason IS NULL
RETURNING operation_id
