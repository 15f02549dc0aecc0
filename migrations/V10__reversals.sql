-- Reversals: the posted ones are found by the operation that they reverse. No operation of an older version is one, so the index
-- is made at once.

CREATE INDEX operations_reversals ON operations (reversed_operation_id)
    WHERE reversed_operation_id IS NOT NULL AND refusal_reason IS NULL;
