-- list_reversals: the posted reversals of an operation, oldest first, and what they moved back together
SELECT count(*) AS count, least(coalesce(sum(amount), 0), 9223372036854775807)::bigint AS reversed,
       ARRAY(
           SELECT operation_id
           FROM operations
           WHERE reversed_operation_id = $1 AND reversed_operation_id IS NOT NULL AND refusal_reason IS NULL
           ORDER BY create_time, operation_id
           LIMIT $2
       ) AS operation_ids
FROM operations
WHERE reversed_operation_id = $1 AND reversed_operation_id IS NOT NULL AND refusal_reason IS NULL
