-- verify_merges: only posted merges have parts
SELECT format('merge %s and its part %s do not match', p.operation_id, p.category)
FROM merge_parts p
LEFT JOIN operations o ON o.operation_id = p.operation_id AND o.kind = 'MERGE' AND o.refusal_reason IS NULL
WHERE o.operation_id IS NULL OR p.amount < 1 OR p.category ~ '[^A-Za-z0-9._:-]' OR length(p.category) NOT BETWEEN 1 AND 32
