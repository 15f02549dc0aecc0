-- verify_balances: each balance is what its entries say: their sum, their count, the last one's state
SELECT format('balance %s/%s says posted %s version %s, its entries say %s and %s',
              b.account_id, b.category, b.posted, b.version, coalesce(e.total, 0), coalesce(e.entry_count, 0))
FROM balances b
LEFT JOIN (
    SELECT account_id, category, sum(amount) AS total, count(*) AS entry_count, max(version) AS last_version
    FROM entries
    GROUP BY account_id, category
) AS e USING (account_id, category)
WHERE b.posted <> coalesce(e.total, 0) OR b.version <> coalesce(e.entry_count, 0)
    OR b.version <> coalesce(e.last_version, 0)
ORDER BY b.account_id, b.category
