-- Limits that change: a balance may be beyond an overdraft limit that was lowered on purpose. How far it was then is its breach, and
-- no balance can be further beyond its limit. It reads all balances. Instances of the version before go on after it.

SET LOCAL statement_timeout = 0;
ALTER TABLE balances
    DROP CONSTRAINT balances_check,
    ADD COLUMN breach bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT balances_breach_check CHECK (breach BETWEEN 0 AND 1000000000000000000),
    ADD CONSTRAINT balances_overdraft_check CHECK (posted >= held - overdraft_limit - breach);
COMMENT ON COLUMN balances.breach IS 'how far beyond its overdraft limit it was when that was set last';
