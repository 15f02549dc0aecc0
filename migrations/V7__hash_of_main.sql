-- An account is found by a hash of its id as before, and now at once however many categories it has: the index has its
-- main balance and nothing else. So it also costs nothing when another category gets its row.

-- It reads all balances. What an older instance writes meanwhile waits for it, or fails and happened not at all.
SET LOCAL statement_timeout = 0;
DROP INDEX balances_account;
CREATE INDEX balances_main ON balances USING hash (account_id) WHERE category = 'main';
