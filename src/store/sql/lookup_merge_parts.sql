-- lookup_merge_parts: what merges moved, each part with what its two entries say
SELECT p.operation_id, p.category, p.amount, p.source_version, p.destination_version,
       s.posted_after AS source_posted_after, s.held_after AS source_held_after,
       s.available_after AS source_available_after,
       d.posted_after AS destination_posted_after, d.held_after AS destination_held_after,
       d.available_after AS destination_available_after
FROM merge_parts p
JOIN operations o ON o.operation_id = p.operation_id
LEFT JOIN entries s ON s.account_id = o.source_account_id AND s.category = p.category
    AND s.version = p.source_version
LEFT JOIN entries d ON d.account_id = o.destination_account_id AND d.category = p.category
    AND d.version = p.destination_version
WHERE p.operation_id = ANY($1)
ORDER BY p.operation_id, p.category
