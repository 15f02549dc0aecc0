-- insert_marks: every 16th entry of a balance; the primary key refuses such a version if it is already there
INSERT INTO entry_marks (account_id, category, version, operation_id, create_time)
SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::bigint[]), unnest($4::text[]), unnest($5::timestamptz[])
