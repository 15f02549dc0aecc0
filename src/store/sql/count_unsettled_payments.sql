-- count_unsettled_payments: how many payments wait for a person, counted up to a limit
SELECT count(*) FROM (
    SELECT 1 FROM card_verdicts WHERE unsettled AND refusal_reason IS NOT NULL AND refuse_time <= now() LIMIT $1
) waiting
