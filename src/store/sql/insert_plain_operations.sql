-- insert_plain_operations: insert_operations for a batch in which nobody has anything in the six columns left out
INSERT INTO operations (
    operation_id, kind, amount, currency_code, create_time, source_account_id, source_category,
    source_version, destination_account_id, destination_category, destination_version
)
SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::bigint[]), unnest($4::text[]),
       unnest($5::timestamptz[]), unnest($6::text[]), unnest($7::text[]), unnest($8::bigint[]),
       unnest($9::text[]), unnest($10::text[]), unnest($11::bigint[])
