-- The core: accounts, balances, operations, entries. Plain tables: no triggers, procedures, sequences or foreign keys
-- (a foreign key between accounts would take FOR KEY SHARE locks that fight FOR UPDATE). Ids compare byte by byte.
-- Wide columns come first, so that no row is padded; each index is paid on every write, so there are few.

CREATE TABLE accounts (
    create_time   timestamptz NOT NULL,
    settlement    boolean     NOT NULL,
    account_id    text COLLATE "C" NOT NULL,
    owner_id      text COLLATE "C" NOT NULL,
    currency_code text COLLATE "C" NOT NULL,
    labels        jsonb,
    PRIMARY KEY (account_id),
    CHECK (length(account_id) BETWEEN 1 AND 64),
    CHECK (length(owner_id) BETWEEN 1 AND 64),
    CHECK (currency_code ~ '^[A-Z]{3}$')
);
COMMENT ON COLUMN accounts.settlement IS 'receives the transfers that name the owner';
COMMENT ON COLUMN accounts.labels IS 'NULL: none';
CREATE INDEX accounts_owner ON accounts (owner_id, account_id);
CREATE UNIQUE INDEX accounts_settlement ON accounts (owner_id) WHERE settlement;

-- One row per balance, the unit of locking. The row of category main exists from the start, is the lock of its account
-- and carries the account's facts that a decision needs. Room in every page and no index on a changing column: updates
-- stay HOT.
CREATE TABLE balances (
    posted          bigint      NOT NULL DEFAULT 0,
    held            bigint      NOT NULL DEFAULT 0,
    overdraft_limit bigint      NOT NULL DEFAULT 0,
    version         bigint      NOT NULL DEFAULT 0,
    update_time     timestamptz NOT NULL DEFAULT 'epoch',
    sibling_count   integer     NOT NULL DEFAULT 0,
    closed          boolean     NOT NULL DEFAULT false,
    debits_frozen   boolean     NOT NULL DEFAULT false,
    credits_frozen  boolean     NOT NULL DEFAULT false,
    account_id      text COLLATE "C" NOT NULL,
    category        text COLLATE "C" NOT NULL,
    currency_code   text COLLATE "C" NOT NULL,
    balance_limit   bigint,
    PRIMARY KEY (account_id, category),
    CHECK (length(category) BETWEEN 1 AND 32),
    CHECK (held >= 0),
    CHECK (overdraft_limit BETWEEN 0 AND 1000000000000000000),
    CHECK (posted >= held - overdraft_limit),
    CHECK (version >= 0),
    CHECK (sibling_count >= 0 AND (category = 'main' OR sibling_count = 0)),
    CHECK (balance_limit >= 0)
) WITH (fillfactor = 50);
COMMENT ON COLUMN balances.sibling_count IS 'on main: how many other balances the account has';
COMMENT ON COLUMN balances.closed IS 'on main: every operation on the account is refused';
COMMENT ON COLUMN balances.balance_limit IS 'what credits may raise posted to; NULL: what bigint holds';

-- One row per operation with a final outcome. Its entries are found by (account, category, version).
CREATE TABLE operations (
    amount                 bigint      NOT NULL,
    create_time            timestamptz NOT NULL,
    source_version         bigint,
    destination_version    bigint,
    operation_id           text COLLATE "C" NOT NULL,
    kind                   text COLLATE "C" NOT NULL,
    currency_code          text COLLATE "C" NOT NULL,
    source_account_id      text COLLATE "C",
    source_category        text COLLATE "C",
    destination_account_id text COLLATE "C",
    destination_category   text COLLATE "C",
    source_categories      text COLLATE "C",
    destination_owner_id   text COLLATE "C",
    description            text,
    metadata               jsonb,
    refusal_reason         text COLLATE "C",
    refusal_facts          jsonb,
    PRIMARY KEY (operation_id),
    CHECK (amount BETWEEN 1 AND 1000000000000000000),
    CHECK (kind IN ('DEBIT', 'CREDIT', 'TRANSFER')),
    CHECK ((kind = 'CREDIT') = (source_account_id IS NULL)),
    CHECK ((kind = 'DEBIT') = (destination_account_id IS NULL)),
    CHECK ((refusal_reason IS NULL AND source_account_id IS NOT NULL) = (source_version IS NOT NULL)),
    CHECK ((refusal_reason IS NULL AND destination_account_id IS NOT NULL) = (destination_version IS NOT NULL)),
    CHECK ((refusal_reason IS NULL) = (refusal_facts IS NULL))
);
COMMENT ON COLUMN operations.refusal_reason IS 'NULL: posted';
COMMENT ON COLUMN operations.source_category IS 'the category that paid; of a refused operation, the first one asked';
COMMENT ON COLUMN operations.source_categories IS 'the categories asked, in order, joined by commas; NULL: main';
COMMENT ON COLUMN operations.description IS 'NULL: empty';
COMMENT ON COLUMN operations.metadata IS 'NULL: empty';
-- A posted operation is found through its entries; a refused one has none.
CREATE INDEX operations_refused_source ON operations (source_account_id, create_time)
    WHERE refusal_reason IS NOT NULL;
CREATE INDEX operations_refused_destination ON operations (destination_account_id, create_time)
    WHERE refusal_reason IS NOT NULL;

-- One row per change of one balance; never updated or deleted. create_time rises with version, so a time is found by
-- halving the versions and needs no index.
CREATE TABLE entries (
    version         bigint      NOT NULL,
    amount          bigint      NOT NULL,
    posted_after    bigint      NOT NULL,
    create_time     timestamptz NOT NULL,
    account_id      text COLLATE "C" NOT NULL,
    category        text COLLATE "C" NOT NULL,
    operation_id    text COLLATE "C" NOT NULL,
    held_after      bigint,
    available_after bigint,
    PRIMARY KEY (account_id, category, version),
    CHECK (version >= 1)
);
COMMENT ON COLUMN entries.held_after IS 'NULL: 0';
COMMENT ON COLUMN entries.available_after IS 'NULL: posted_after - held_after';
