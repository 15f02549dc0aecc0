-- or_existing, after lock_categories: what is there and was not locked comes without a row_id; what has no row does not come.
-- No EXISTS, which PostgreSQL might answer by reading all keys at once
) AS locked ON true
WHERE locked.row_id IS NOT NULL
    OR (SELECT true FROM balances b WHERE b.account_id = wanted.account_id AND b.category = wanted.category)
