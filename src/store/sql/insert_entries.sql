-- insert_entries: the primary key refuses a version that is already there
INSERT INTO entries (
    account_id, category, version, operation_id, amount, posted_after, create_time, held_after,
    available_after
)
SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::bigint[]), unnest($4::text[]), unnest($5::bigint[]),
       unnest($6::bigint[]), unnest($7::timestamptz[]), unnest($8::bigint[]), unnest($9::bigint[])
