-- verify_conservation: per currency, all balances together are all credits minus all debits
SELECT format('%s balances sum up to %s, credits minus debits to %s',
              currency_code, coalesce(b.posted, 0), coalesce(o.outside, 0))
FROM (SELECT currency_code, sum(posted) AS posted FROM balances GROUP BY currency_code) AS b
FULL JOIN (
    SELECT currency_code,
           sum(CASE kind WHEN 'CREDIT' THEN amount::numeric WHEN 'DEBIT' THEN -amount::numeric ELSE 0 END) AS outside
    FROM operations
    WHERE refusal_reason IS NULL
    GROUP BY currency_code
) AS o USING (currency_code)
WHERE coalesce(b.posted, 0) <> coalesce(o.outside, 0)
