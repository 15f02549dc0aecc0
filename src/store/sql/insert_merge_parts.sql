-- insert_merge_parts: one row for each category that a merge moved, with its two entries
INSERT INTO merge_parts (
    operation_id, category, amount,
    source_version, source_posted_after, source_held_after, source_available_after, source_previous_id,
    destination_version, destination_posted_after, destination_held_after, destination_available_after,
    destination_previous_id
)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::bigint[],
    $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[],
    $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::text[]
)
