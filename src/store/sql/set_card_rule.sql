-- set_card_rule: the newest rule of a pattern replaces the one before
INSERT INTO card_rules (kind, pattern, category, update_time)
VALUES ($1, $2, $3, clock_timestamp())
ON CONFLICT (kind, pattern) DO UPDATE SET category = excluded.category, update_time = excluded.update_time
RETURNING kind, pattern, category, update_time
