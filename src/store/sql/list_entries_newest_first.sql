-- list_entries_newest_first: a statement of one balance, below a version
SELECT version, operation_id, amount, posted_after, held_after, available_after, create_time
FROM entries
WHERE account_id = $1 AND category = $2 AND version < $3
ORDER BY version DESC
LIMIT $4
