-- refold_card_rule: a rule whose merchant is stored in the form of an older version gets the form of this one; of two rules
-- of one merchant the newest stays
WITH old AS (
    DELETE FROM card_rules WHERE kind = 'MERCHANT' AND pattern = $1 RETURNING category, update_time
)
INSERT INTO card_rules AS rule (kind, pattern, category, update_time)
SELECT 'MERCHANT', $2, category, update_time FROM old
ON CONFLICT (kind, pattern) DO UPDATE SET category = excluded.category, update_time = excluded.update_time
    WHERE rule.update_time < excluded.update_time
