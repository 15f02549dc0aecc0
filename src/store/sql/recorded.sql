-- recorded, between updated and all_updated: insert_operations in the same statement, for the operations that have nothing in
-- the columns left out; sorted as it is. PostgreSQL answers each statement as it ends, and each answer wakes the thread that
-- waits for the last one.
, recorded AS (
    INSERT INTO operations (
        operation_id, kind, amount, currency_code, create_time,
        source_account_id, source_category, source_version, source_posted_after, source_previous_id,
        destination_account_id, destination_category, destination_version, destination_posted_after,
        destination_previous_id
    )
    SELECT unnest(:operations.operation_id::text[]), unnest(:operations.kind::text[]),
           unnest(:operations.amount::bigint[]), unnest(:operations.currency_code::text[]),
           unnest(:operations.create_time::timestamptz[]),
           unnest(:operations.source_account_id::text[]), unnest(:operations.source_category::text[]),
           unnest(:operations.source_version::bigint[]), unnest(:operations.source_posted_after::bigint[]),
           unnest(:operations.source_previous_id::text[]),
           unnest(:operations.destination_account_id::text[]), unnest(:operations.destination_category::text[]),
           unnest(:operations.destination_version::bigint[]), unnest(:operations.destination_posted_after::bigint[]),
           unnest(:operations.destination_previous_id::text[])
)
