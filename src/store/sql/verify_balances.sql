-- verify_balances: each balance is what its entries say: their sum, their count, the last one's state
SELECT format('balance %s/%s says posted %s version %s, its entries say %s and %s',
              coalesce(b.account_id, e.account_id), coalesce(b.category, e.category),
              coalesce(b.posted, 0), coalesce(b.version, 0), coalesce(e.total, 0), coalesce(e.entry_count, 0))
FROM balances b
FULL JOIN (
    SELECT account_id, category, sum(amount) AS total, count(*) AS entry_count, max(version) AS last_version,
           max(create_time) AS last_time
    FROM entries
    GROUP BY account_id, category
) AS e ON e.account_id = b.account_id AND e.category = b.category
LEFT JOIN entries l ON l.account_id = b.account_id AND l.category = b.category AND l.version = b.version
WHERE b.account_id IS NULL
    OR b.posted <> coalesce(e.total, 0)
    OR b.version <> coalesce(e.entry_count, 0)
    OR b.version <> coalesce(e.last_version, 0)
    OR b.held <> coalesce(l.held_after, 0)
    OR b.last_operation_id IS DISTINCT FROM l.operation_id
    OR (b.version > 0 AND b.update_time <> e.last_time)
ORDER BY 1
