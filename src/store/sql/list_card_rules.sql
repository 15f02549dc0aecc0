-- list_card_rules: those of MCCs, then those of merchants, after a given one
SELECT kind, pattern, category, update_time
FROM card_rules
WHERE (kind, pattern) > ($1, $2)
ORDER BY kind, pattern
LIMIT $3
