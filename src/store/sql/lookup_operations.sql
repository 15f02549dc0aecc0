-- lookup_operations: each with its first debit and its first credit; the others are those of lookup_legs
SELECT operation_id, kind, amount, currency_code, create_time,
       source_account_id, source_category, source_categories, source_amount, source_version, source_posted_after,
       source_held_after, source_available_after, source_previous_id,
       destination_account_id, destination_category, destination_owner_id, destination_amount, destination_version,
       destination_posted_after, destination_held_after, destination_available_after, destination_previous_id,
       leg_count, hold_id, reversed_operation_id, intent::text, description, metadata::text, refusal_reason,
       refusal_facts::text
FROM operations
WHERE operation_id = ANY($1)
