-- insert_merge_parts: one row for each category that a merge moved
INSERT INTO merge_parts (operation_id, category, amount, source_version, destination_version)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
