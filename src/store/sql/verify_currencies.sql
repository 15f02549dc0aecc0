-- verify_currencies: in what the accounts are
SELECT DISTINCT currency_code FROM accounts
