-- The rows of accounts that were not changed lately are found by a hash of the account id: one page of the index instead of
-- a descent through all levels of the primary key, which counts when the ledger is larger than the caches of a processor.
-- It is paid when a balance gets its row, and when a row moves to another page; updates of balances are HOT as a rule.

-- It reads all balances. What an older instance writes meanwhile waits for it, or fails and happened not at all.
SET LOCAL statement_timeout = 0;
CREATE INDEX balances_account ON balances USING hash (account_id);
