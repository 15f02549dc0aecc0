-- insert_operations: sorted by operation_id, so that two batches that share ids cannot deadlock on the unique key
INSERT INTO operations (
    operation_id, kind, amount, currency_code, create_time,
    source_account_id, source_category, source_version, source_categories,
    destination_account_id, destination_category, destination_version, destination_owner_id,
    description, metadata, refusal_reason, refusal_facts
)
SELECT operation_id, kind, amount, currency_code, create_time,
       source_account_id, source_category, source_version, source_categories,
       destination_account_id, destination_category, destination_version, destination_owner_id,
       description, metadata::jsonb, refusal_reason, refusal_facts::jsonb
FROM unnest(
    $1::text[], $2::text[], $3::bigint[], $4::text[], $5::timestamptz[],
    $6::text[], $7::text[], $8::bigint[], $9::text[],
    $10::text[], $11::text[], $12::bigint[], $13::text[],
    $14::text[], $15::text[], $16::text[], $17::text[]
) AS u (
    operation_id, kind, amount, currency_code, create_time,
    source_account_id, source_category, source_version, source_categories,
    destination_account_id, destination_category, destination_version, destination_owner_id,
    description, metadata, refusal_reason, refusal_facts
)
