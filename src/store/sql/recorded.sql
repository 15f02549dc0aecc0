-- recorded, between updated and all_updated: insert_operations in the same statement, for a batch in which nobody has anything in
-- the ten columns left out and every balance has a row; sorted as it is. PostgreSQL answers each statement as it ends, and each
-- answer wakes the thread that waits for the last one.
, recorded AS (
    INSERT INTO operations (
        operation_id, kind, amount, currency_code, create_time,
        source_account_id, source_category, source_version, source_posted_after, source_previous_id,
        destination_account_id, destination_category, destination_version, destination_posted_after,
        destination_previous_id
    )
    SELECT unnest($7::text[]), unnest($8::text[]), unnest($9::bigint[]), unnest($10::text[]), unnest($11::timestamptz[]),
           unnest($12::text[]), unnest($13::text[]), unnest($14::bigint[]), unnest($15::bigint[]), unnest($16::text[]),
           unnest($17::text[]), unnest($18::text[]), unnest($19::bigint[]), unnest($20::bigint[]), unnest($21::text[])
)
