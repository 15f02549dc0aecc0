-- get_accounts: accounts with all their balances, one row per balance
SELECT a.account_id, a.owner_id, a.currency_code, a.settlement, a.labels::text, a.create_time,
       b.closed, b.debits_frozen, b.credits_frozen,
       b.category, b.posted, b.held, b.overdraft_limit, b.balance_limit, b.version, b.update_time,
       b.last_operation_id
FROM accounts a
JOIN balances b ON b.account_id = a.account_id
WHERE a.account_id = ANY($1)
ORDER BY a.account_id, b.category
