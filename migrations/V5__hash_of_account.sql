-- The rows of accounts that were not changed lately are found by a hash of the account id: one page of the index instead of
-- a descent through all levels of the primary key, which counts when the ledger is larger than the caches of a processor.
-- It is only paid when an account is opened: updates of balances stay HOT.

-- It reads all balances, and nobody writes meanwhile.
SET LOCAL statement_timeout = 0;
CREATE INDEX balances_account ON balances USING hash (account_id);
