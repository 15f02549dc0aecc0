-- give_card_verdict: the first verdict about a payment stands, and is what comes back
INSERT INTO card_verdicts AS v (operation_id, attempt, verdict, unsettled, create_time)
VALUES ($1, $2, $3, $3 = 'REVERSED', clock_timestamp())
ON CONFLICT (operation_id, attempt) DO UPDATE SET verdict = v.verdict
RETURNING verdict, unsettled, reversal_id, refusal_reason, settlement_id
