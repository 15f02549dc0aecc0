-- verify_conservation: per currency, all balances together are the sum of all entries
SELECT format('%s balances sum up to %s, their entries to %s', currency_code, coalesce(b.posted, 0), coalesce(e.posted, 0))
FROM (SELECT currency_code, sum(posted) AS posted FROM balances GROUP BY currency_code) AS b
FULL JOIN (
    SELECT currency_code, sum(posted) AS posted
    FROM (
        SELECT currency_code,
               CASE WHEN source_version IS NULL THEN 0 ELSE coalesce(source_amount, -amount::numeric) END
               + CASE WHEN destination_version IS NULL THEN 0 ELSE coalesce(destination_amount, amount)::numeric END AS posted
        FROM operations
        WHERE refusal_reason IS NULL AND intent IS NULL
        UNION ALL
        -- These may be in several currencies.
        SELECT a.currency_code, e.amount
        FROM operations o
        CROSS JOIN LATERAL (
            SELECT o.source_account_id AS account_id, coalesce(o.source_amount, -o.amount::numeric) AS amount
            WHERE o.source_version IS NOT NULL
            UNION ALL
            SELECT o.destination_account_id, coalesce(o.destination_amount, o.amount)::numeric
            WHERE o.destination_version IS NOT NULL
        ) AS e
        JOIN accounts a ON a.account_id = e.account_id
        WHERE o.intent IS NOT NULL
        UNION ALL
        SELECT a.currency_code, l.amount
        FROM operation_legs l
        JOIN accounts a ON a.account_id = l.account_id
        WHERE l.version IS NOT NULL
    ) AS entries
    GROUP BY currency_code
) AS e USING (currency_code)
WHERE coalesce(b.posted, 0) <> coalesce(e.posted, 0)
