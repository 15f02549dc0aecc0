-- verify_chains: all entries in one pass, each balance's in the order of their versions. Versions have no gap, time rises
-- (but within one operation, which may have several entries of a balance),
-- each entry follows from the one before, each 16th has its mark and nothing else has one, and the balance is what its last
-- entry says. Limits change only with an entry of zero of an operation that changes limits, so the overdraft limit is known for
-- every entry, and the balance limit from the last change on. From then on a balance may be beyond a limit, and no entry brings it
-- further. No operation changes what is held. The arithmetic is numeric: no value, however wrong, ends this with an error.
WITH sides AS (
    SELECT source_account_id AS account_id, source_category AS category, source_version AS version, operation_id,
           coalesce(source_amount, -amount::numeric) AS amount, source_posted_after AS posted_after,
           coalesce(source_held_after, 0) AS held_after, source_available_after AS available_after, create_time,
           source_previous_id AS previous_id, kind = 'UPDATE' AS changes_limits
    FROM operations
    WHERE source_version IS NOT NULL
    UNION ALL
    SELECT destination_account_id, destination_category, destination_version, operation_id,
           coalesce(destination_amount, amount), destination_posted_after, coalesce(destination_held_after, 0),
           destination_available_after, create_time, destination_previous_id, false
    FROM operations
    WHERE destination_version IS NOT NULL
    UNION ALL
    SELECT l.account_id, l.category, l.version, l.operation_id, l.amount, l.posted_after, coalesce(l.held_after, 0),
           l.available_after, o.create_time, l.previous_id, o.kind = 'UPDATE'
    FROM operation_legs l
    JOIN operations o ON o.operation_id = l.operation_id
    WHERE l.version IS NOT NULL
),
chains AS (
    SELECT sides.*,
           lag(version, 1, 0::bigint) OVER w AS version_before,
           lag(posted_after, 1, 0::bigint) OVER w AS posted_before,
           lag(held_after, 1, 0::bigint) OVER w AS held_before,
           lag(available_after) OVER w AS available_before,
           lag(create_time, 1, '-infinity'::timestamptz) OVER w AS time_before,
           lag(operation_id) OVER w AS operation_before,
           lead(version) OVER w IS NULL AS is_last
    FROM sides
    WINDOW w AS (PARTITION BY account_id, category ORDER BY version)
),
last_changes AS (
    SELECT account_id, category, max(version) AS version
    FROM (
        SELECT source_account_id AS account_id, source_category AS category, source_version AS version
        FROM operations
        WHERE kind = 'UPDATE' AND source_version IS NOT NULL
        UNION ALL
        SELECT l.account_id, l.category, l.version
        FROM operations o
        JOIN operation_legs l ON l.operation_id = o.operation_id
        WHERE o.kind = 'UPDATE' AND l.version IS NOT NULL
    ) AS changed
    GROUP BY account_id, category
),
faults AS (
    SELECT e.account_id, e.category, e.version, e.operation_id, e.posted_after, e.held_after,
           b.account_id AS balance_account_id, b.category AS balance_category, b.posted, b.version AS balance_version, b.held,
           b.overdraft_limit, b.balance_limit,
           m.account_id AS mark_account_id, m.category AS mark_category, m.version AS mark_version,
           CASE WHEN e.operation_id IS NOT NULL THEN coalesce(
               CASE WHEN b.account_id IS NULL THEN 'its balance does not exist' END,
               CASE WHEN e.version::numeric <> e.version_before::numeric + 1 THEN 'its version is not the next one' END,
               CASE WHEN e.posted_after IS DISTINCT FROM
                   e.posted_before::numeric + e.amount
                   THEN 'posted after it is not what was before plus the change' END,
               CASE WHEN e.held_after <> e.held_before THEN 'held after it is not what was before' END,
               CASE WHEN e.version < c.version AND NOT e.changes_limits AND e.version_before > 0
                   AND coalesce(e.available_after, e.posted_after::numeric - e.held_after) - e.posted_after + e.held_after
                       <> coalesce(e.available_before, e.posted_before::numeric - e.held_before) - e.posted_before + e.held_before
                   THEN 'available after it is not posted minus held plus the overdraft limit' END,
               CASE WHEN (e.version < c.version) IS NOT TRUE AND (e.available_after IS NOT NULL OR b.overdraft_limit <> 0)
                   AND coalesce(e.available_after, greatest(e.posted_after::numeric - e.held_after, -9223372036854775808))
                       <> least(greatest(e.posted_after::numeric - e.held_after + b.overdraft_limit,
                                         -9223372036854775808), 9223372036854775807)
                   THEN 'available after it is not posted minus held plus the overdraft limit' END,
               CASE WHEN e.posted_after > b.balance_limit
                   AND (c.version IS NULL OR e.version > c.version AND e.amount > 0) THEN 'posted after it is beyond the balance limit' END,
               CASE WHEN e.amount < 0 AND e.available_after < 0 AND c.version IS NOT NULL
                   THEN 'posted after it is beyond the overdraft limit' END,
               CASE WHEN (e.posted_after < 0 OR e.held_after <> 0) AND c.version IS NULL
                   AND e.posted_after::numeric < e.held_after::numeric - b.overdraft_limit
                   THEN 'posted after it is beyond the overdraft limit' END,
               CASE WHEN e.create_time <= e.time_before AND e.operation_id IS DISTINCT FROM e.operation_before
                       OR e.create_time < e.time_before THEN 'its time is not later than the one before' END,
               CASE WHEN e.previous_id IS DISTINCT FROM e.operation_before THEN 'it names another operation before it' END)
           END AS of_entry,
           CASE WHEN b.account_id IS NOT NULL AND e.is_last IS NOT FALSE THEN coalesce(
               CASE WHEN b.posted <> coalesce(e.posted_after, 0) OR b.version <> coalesce(e.version, 0)
                   THEN format('says posted %s version %s, its entries say %s and %s', b.posted, b.version,
                               coalesce(e.posted_after, 0), coalesce(e.version, 0)) END,
               CASE WHEN b.held <> coalesce(e.held_after, 0)
                   THEN format('says held %s, its entries say %s', b.held, coalesce(e.held_after, 0)) END,
               CASE WHEN b.posted > b.balance_limit AND c.version IS NULL THEN 'is beyond its balance limit' END,
               CASE WHEN b.breach IS NOT NULL AND c.version IS NULL OR b.breach <= 0 THEN 'has a breach that nobody allowed' END,
               CASE WHEN b.posted::numeric < b.held::numeric - b.overdraft_limit - coalesce(b.breach, 0) THEN 'is beyond its overdraft limit' END,
               CASE WHEN e.version = c.version AND coalesce(b.breach, 0) <> greatest(e.held_after::numeric - e.posted_after - b.overdraft_limit, 0)
                   THEN 'has another breach than when its limits changed last' END,
               CASE WHEN b.overdraft_limit NOT BETWEEN 0 AND 1000000000000000000 THEN 'has no valid overdraft limit' END,
               CASE WHEN b.balance_limit < 0 THEN 'has no valid balance limit' END,
               CASE WHEN b.last_operation_id IS DISTINCT FROM e.operation_id THEN 'names another last operation' END,
               CASE WHEN b.update_time <> coalesce(e.create_time, 'epoch')
                   THEN 'has another update_time than its last entry' END)
           WHEN e.version = c.version THEN
               CASE WHEN coalesce(b.breach, 0) <> greatest(e.held_after::numeric - e.posted_after - b.overdraft_limit, 0)
                   THEN 'has another breach than when its limits changed last' END
           END AS of_balance,
           CASE WHEN e.version IS NULL AND m.version IS NOT NULL OR e.version % 16 <> 0 AND m.version IS NOT NULL
                   OR e.version % 16 = 0 AND (m.operation_id, m.create_time) IS DISTINCT FROM (e.operation_id, e.create_time)
               THEN 'does not match an entry' END AS of_mark
    FROM chains e
    FULL JOIN balances b ON b.account_id = e.account_id AND b.category = e.category
    LEFT JOIN last_changes c ON c.account_id = b.account_id AND c.category = b.category
    FULL JOIN entry_marks m ON m.account_id = e.account_id AND m.category = e.category AND m.version = e.version
    OFFSET 0
)
SELECT f.finding
FROM faults
CROSS JOIN LATERAL (
    SELECT format('entry %s/%s version %s of operation %s: %s', account_id, category, version, operation_id, of_entry)
    WHERE of_entry IS NOT NULL
    UNION ALL
    SELECT format('balance %s/%s %s', balance_account_id, balance_category, of_balance)
    WHERE of_balance IS NOT NULL
    UNION ALL
    SELECT format('mark %s/%s version %s %s', coalesce(mark_account_id, account_id), coalesce(mark_category, category),
                  coalesce(mark_version, version), of_mark)
    WHERE of_mark IS NOT NULL
) AS f (finding)
WHERE of_entry IS NOT NULL OR of_balance IS NOT NULL OR of_mark IS NOT NULL
