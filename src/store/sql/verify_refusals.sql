-- verify_refusals: all refused operations, each as lookup_operations reads it
SELECT operation_id, kind, amount, currency_code, create_time,
       source_account_id, source_category, source_categories, source_amount, source_version, source_posted_after,
       source_held_after, source_available_after, source_previous_id,
       destination_account_id, destination_category, destination_owner_id, destination_amount, destination_version,
       destination_posted_after, destination_held_after, destination_available_after, destination_previous_id,
       leg_count, hold_id, reversed_operation_id, intent::text, description, metadata::text, refusal_reason,
       refusal_facts::text
FROM operations
WHERE refusal_reason IS NOT NULL
