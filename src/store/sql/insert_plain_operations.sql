-- insert_plain_operations: insert_operations for a batch in which nobody has anything in the ten columns left out
INSERT INTO operations (
    operation_id, kind, amount, currency_code, create_time,
    source_account_id, source_category, source_version, source_posted_after, source_previous_id,
    destination_account_id, destination_category, destination_version, destination_posted_after, destination_previous_id
)
SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::bigint[]), unnest($4::text[]), unnest($5::timestamptz[]),
       unnest($6::text[]), unnest($7::text[]), unnest($8::bigint[]), unnest($9::bigint[]), unnest($10::text[]),
       unnest($11::text[]), unnest($12::text[]), unnest($13::bigint[]), unnest($14::bigint[]), unnest($15::text[])
