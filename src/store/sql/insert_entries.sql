-- insert_entries: the primary key refuses a version that is already there
INSERT INTO entries (
    account_id, category, version, operation_id, amount, posted_after, held_after, available_after, create_time
)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::timestamptz[]
)
