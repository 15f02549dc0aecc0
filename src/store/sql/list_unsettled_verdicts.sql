-- list_unsettled_verdicts: what an instance left behind that died; the oldest first
SELECT operation_id, attempt, create_time < clock_timestamp() - $2::text::interval AS is_hopeless
FROM card_verdicts
WHERE unsettled AND create_time < clock_timestamp() - $1::text::interval
ORDER BY create_time
LIMIT $3
