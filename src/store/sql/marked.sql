-- marked, after recorded: insert_marks in the same statement, for a batch that has any
, marked AS (
    INSERT INTO entry_marks (account_id, category, version, operation_id, create_time)
    SELECT unnest($22::text[]), unnest($23::text[]), unnest($24::bigint[]), unnest($25::text[]), unnest($26::timestamptz[])
)
