-- verify_entries: versions have no gap, time rises with them, each running balance is the one before plus the change, and
-- each entry names the operation of the one before
SELECT format('entry %s/%s version %s of operation %s does not follow from the one before',
              account_id, category, version, operation_id)
FROM (
    SELECT e.*,
           lag(version, 1, 0::bigint) OVER w AS version_before,
           lag(posted_after, 1, 0::bigint) OVER w AS posted_before,
           lag(create_time, 1, '-infinity'::timestamptz) OVER w AS time_before,
           lag(operation_id) OVER w AS operation_before
    FROM entries e
    WINDOW w AS (PARTITION BY account_id, category ORDER BY version)
) AS e
WHERE version <> version_before + 1 OR posted_after IS DISTINCT FROM posted_before + amount
    OR create_time <= time_before OR previous_operation_id IS DISTINCT FROM operation_before
ORDER BY account_id, category, version
