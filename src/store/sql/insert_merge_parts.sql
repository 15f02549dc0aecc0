-- insert_merge_parts: one row for each category that a merge moved, with its two entries
INSERT INTO merge_parts (
    operation_id, category, amount,
    source_version, source_posted_after, source_previous_id, source_held_after, source_available_after,
    destination_version, destination_posted_after, destination_previous_id, destination_held_after,
    destination_available_after
)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::bigint[],
    $4::bigint[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[],
    $9::bigint[], $10::bigint[], $11::text[], $12::bigint[], $13::bigint[]
)
