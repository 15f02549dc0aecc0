-- insert_operations: operations with all columns; sorted by operation_id, so that two batches that share ids cannot deadlock on
-- the unique key; unnest stands in the select list, where it needs no table of its own for each column
INSERT INTO operations (
    operation_id, kind, amount, currency_code, create_time,
    source_account_id, source_category, source_categories, source_amount, source_version, source_posted_after,
    source_held_after, source_available_after, source_previous_id,
    destination_account_id, destination_category, destination_owner_id, destination_amount, destination_version,
    destination_posted_after, destination_held_after, destination_available_after, destination_previous_id,
    leg_count, hold_id, reversed_operation_id, intent, description, metadata, refusal_reason, refusal_facts
)
SELECT unnest(:operations.operation_id::text[]), unnest(:operations.kind::text[]),
       unnest(:operations.amount::bigint[]), unnest(:operations.currency_code::text[]),
       unnest(:operations.create_time::timestamptz[]),
       unnest(:operations.source_account_id::text[]), unnest(:operations.source_category::text[]),
       unnest(:operations.source_categories::text[]), unnest(:operations.source_amount::bigint[]),
       unnest(:operations.source_version::bigint[]), unnest(:operations.source_posted_after::bigint[]),
       unnest(:operations.source_held_after::bigint[]), unnest(:operations.source_available_after::bigint[]),
       unnest(:operations.source_previous_id::text[]),
       unnest(:operations.destination_account_id::text[]), unnest(:operations.destination_category::text[]),
       unnest(:operations.destination_owner_id::text[]), unnest(:operations.destination_amount::bigint[]),
       unnest(:operations.destination_version::bigint[]), unnest(:operations.destination_posted_after::bigint[]),
       unnest(:operations.destination_held_after::bigint[]), unnest(:operations.destination_available_after::bigint[]),
       unnest(:operations.destination_previous_id::text[]),
       unnest(:operations.leg_count::integer[]), unnest(:operations.hold_id::text[]),
       unnest(:operations.reversed_operation_id::text[]), unnest(:operations.intent::text[])::jsonb,
       unnest(:operations.description::text[]),
       unnest(:operations.metadata::text[])::jsonb,
       unnest(:operations.refusal_reason::text[]), unnest(:operations.refusal_facts::text[])::jsonb
