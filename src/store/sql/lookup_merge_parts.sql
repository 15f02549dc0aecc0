-- lookup_merge_parts: what merges moved, each part with its two entries
SELECT operation_id, category, amount,
       source_version, source_posted_after, source_held_after, source_available_after, source_previous_id,
       destination_version, destination_posted_after, destination_held_after, destination_available_after,
       destination_previous_id
FROM merge_parts
WHERE operation_id = ANY($1)
ORDER BY operation_id, category
