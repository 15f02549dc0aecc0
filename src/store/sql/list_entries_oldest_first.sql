-- list_entries_oldest_first: a statement of one balance, above a version
SELECT version, operation_id, amount, posted_after, held_after, available_after, create_time
FROM entries
WHERE account_id = $1 AND category = $2 AND version > $3
ORDER BY version
LIMIT $4
