-- verify_marks: every 16th entry of a balance has its mark, and nothing else has one
SELECT format('mark %s/%s version %s does not match an entry',
              coalesce(m.account_id, e.account_id), coalesce(m.category, e.category), coalesce(m.version, e.version))
FROM entry_marks m
FULL JOIN (
    SELECT account_id, category, version, operation_id, create_time FROM entries WHERE version % 16 = 0
) AS e ON e.account_id = m.account_id AND e.category = m.category AND e.version = m.version
WHERE (m.operation_id, m.create_time) IS DISTINCT FROM (e.operation_id, e.create_time)
ORDER BY 1
