-- verify_accounts: each account has its main balance, one currency, and as many other balances as main counts
SELECT format('account %s and its balances do not match', coalesce(a.account_id, b.account_id))
FROM accounts a
FULL JOIN (
    SELECT account_id, count(*) FILTER (WHERE category = 'main') AS main_count, max(sibling_count) AS sibling_count,
           count(*) AS balance_count, min(currency_code) AS lowest, max(currency_code) AS highest
    FROM balances
    GROUP BY account_id
) AS b USING (account_id)
WHERE a.account_id IS NULL OR b.account_id IS NULL OR b.main_count <> 1 OR b.sibling_count <> b.balance_count - 1
    OR b.lowest <> a.currency_code OR b.highest <> a.currency_code
ORDER BY 1
