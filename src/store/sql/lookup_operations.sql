-- lookup_operations: each with what its entries say of the balances after it
SELECT o.operation_id, o.kind, o.amount, o.currency_code, o.create_time,
       o.source_account_id, o.source_category, o.source_version, o.source_categories,
       o.destination_account_id, o.destination_category, o.destination_version, o.destination_owner_id,
       o.description, o.metadata::text, o.refusal_reason, o.refusal_facts::text,
       s.posted_after AS source_posted_after, s.held_after AS source_held_after,
       s.available_after AS source_available_after,
       d.posted_after AS destination_posted_after, d.held_after AS destination_held_after,
       d.available_after AS destination_available_after
FROM operations o
LEFT JOIN entries s ON s.account_id = o.source_account_id AND s.category = o.source_category
    AND s.version = o.source_version
LEFT JOIN entries d ON d.account_id = o.destination_account_id AND d.category = o.destination_category
    AND d.version = o.destination_version
WHERE o.operation_id = ANY($1)
