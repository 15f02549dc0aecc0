-- lookup_legs: what operations changed besides their first debit and their first credit
SELECT operation_id, account_id, category, position, amount, version, posted_after, held_after, available_after, previous_id,
       refuse_time
FROM operation_legs
WHERE operation_id = ANY($1) AND version IS NOT NULL
ORDER BY operation_id, position
