-- insert_plain_entries: insert_entries for a batch in which nothing is held or overdrawn
INSERT INTO entries (
    account_id, category, version, operation_id, amount, posted_after, create_time
)
SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::bigint[]), unnest($4::text[]), unnest($5::bigint[]),
       unnest($6::bigint[]), unnest($7::timestamptz[])
