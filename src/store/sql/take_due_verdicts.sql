-- take_due_verdicts: payments that are to be reversed, the longest due first; each is due again later, whoever takes it
UPDATE card_verdicts v
SET try_count = v.try_count + 1,
    next_try_time = clock_timestamp() + least(interval '10 seconds' * 2 ^ least(v.try_count, 10), interval '5 minutes')
FROM (
    SELECT operation_id, attempt
    FROM card_verdicts
    WHERE unsettled AND refusal_reason IS NULL AND next_try_time <= now()
    ORDER BY next_try_time
    LIMIT $1
    FOR UPDATE SKIP LOCKED
) due
WHERE v.operation_id = due.operation_id AND v.attempt = due.attempt
RETURNING v.operation_id, v.attempt, v.create_time < clock_timestamp() - interval '10 minutes' AS is_hopeless
