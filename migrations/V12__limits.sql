-- Limits that change: a balance may be beyond an overdraft limit that was lowered on purpose. How far it was then is its breach, and
-- no balance can be further beyond its limit. It reads all balances. Instances of the version before go on after it.

SET LOCAL statement_timeout = 0;
ALTER TABLE balances
    DROP CONSTRAINT balances_check,
    ADD COLUMN breach bigint,
    ADD CONSTRAINT balances_breach_check CHECK (breach BETWEEN 1 AND 2000000000000000000),
    ADD CONSTRAINT balances_overdraft_check CHECK (posted >= held - overdraft_limit - coalesce(breach, 0));
COMMENT ON COLUMN balances.breach IS 'how far beyond its overdraft limit it was when that was set last; NULL: not at all';
