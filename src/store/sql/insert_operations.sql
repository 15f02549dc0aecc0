-- insert_operations: each with its entries; sorted by operation_id, so that two batches that share ids cannot deadlock on
-- the unique key; unnest stands in the select list, where it needs no table of its own for each column
INSERT INTO operations (
    operation_id, kind, amount, currency_code, create_time,
    source_account_id, source_category, source_version, source_posted_after, source_previous_id,
    destination_account_id, destination_category, destination_version, destination_posted_after, destination_previous_id,
    source_categories, destination_owner_id, description, metadata, refusal_reason, refusal_facts,
    source_held_after, source_available_after, destination_held_after, destination_available_after
)
SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::bigint[]), unnest($4::text[]), unnest($5::timestamptz[]),
       unnest($6::text[]), unnest($7::text[]), unnest($8::bigint[]), unnest($9::bigint[]), unnest($10::text[]),
       unnest($11::text[]), unnest($12::text[]), unnest($13::bigint[]), unnest($14::bigint[]), unnest($15::text[]),
       unnest($16::text[]), unnest($17::text[]), unnest($18::text[]), unnest($19::text[])::jsonb,
       unnest($20::text[]), unnest($21::text[])::jsonb,
       unnest($22::bigint[]), unnest($23::bigint[]), unnest($24::bigint[]), unnest($25::bigint[])
