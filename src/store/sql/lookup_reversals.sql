-- lookup_reversals: of each operation that is to be reversed, what it moved and what was reversed so far; a later statement than
-- the locks of its accounts, which every reversal of it takes
SELECT o.operation_id, o.amount, r.count, least(r.amount, 9223372036854775807)::bigint AS reversed
FROM operations o
CROSS JOIN LATERAL (
    SELECT count(*) AS count, coalesce(sum(amount), 0) AS amount
    FROM operations
    WHERE reversed_operation_id = o.operation_id AND reversed_operation_id IS NOT NULL AND refusal_reason IS NULL
) AS r
WHERE o.operation_id = ANY($1)
