-- Reversals: the posted ones are found by the operation that they reverse. No operation of an older version is one, so the index is
-- empty; making it reads all operations once, and writes wait meanwhile.

SET LOCAL statement_timeout = 0;
CREATE INDEX operations_reversals ON operations (reversed_operation_id)
    WHERE reversed_operation_id IS NOT NULL AND refusal_reason IS NULL;
