-- verify_rules: all card rules
SELECT kind, pattern, category, update_time FROM card_rules
