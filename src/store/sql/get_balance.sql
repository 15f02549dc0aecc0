-- get_balance: the balance, or main for the facts of an account whose category has no row; two look-ups, since one with IN
-- reads all categories of the account
SELECT category, currency_code, posted, held, overdraft_limit, balance_limit, version, update_time, last_operation_id
FROM balances
WHERE account_id = $1 AND category = $2
UNION ALL
SELECT category, currency_code, posted, held, overdraft_limit, balance_limit, version, update_time, last_operation_id
FROM balances
WHERE account_id = $1 AND category = 'main' AND $2 <> 'main'
