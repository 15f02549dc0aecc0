-- settle_card_verdict: the payment of a verdict is reversed, or will never be
UPDATE card_verdicts
SET unsettled = false, reversal_id = $3
WHERE operation_id = $1 AND attempt = $2 AND unsettled AND refusal_reason IS NULL
