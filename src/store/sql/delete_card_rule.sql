-- delete_card_rule: one rule, if it is there
DELETE FROM card_rules WHERE kind = $1 AND pattern = $2
RETURNING pattern
