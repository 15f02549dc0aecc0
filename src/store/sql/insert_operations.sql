-- insert_operations: sorted by operation_id, so that two batches that share ids cannot deadlock on the unique key; unnest
-- stands in the select list, where it needs no table of its own for each column
INSERT INTO operations (
    operation_id, kind, amount, currency_code, create_time, source_account_id, source_category,
    source_version, destination_account_id, destination_category, destination_version, source_categories,
    destination_owner_id, description, metadata, refusal_reason, refusal_facts
)
SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::bigint[]), unnest($4::text[]),
       unnest($5::timestamptz[]), unnest($6::text[]), unnest($7::text[]), unnest($8::bigint[]),
       unnest($9::text[]), unnest($10::text[]), unnest($11::bigint[]), unnest($12::text[]),
       unnest($13::text[]), unnest($14::text[]), unnest($15::text[])::jsonb, unnest($16::text[]),
       unnest($17::text[])::jsonb
