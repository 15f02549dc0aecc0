-- usual_tables: turns a filled ledger of Ballast into what the usual way has: operations, and a table of entries with a key
CREATE TABLE usual_operations (
    amount                 bigint,
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
    CHECK (amount BETWEEN 1 AND 1000000000000000000),
    CHECK (kind IN ('DEBIT', 'CREDIT', 'TRANSFER', 'MERGE')),
    CHECK ((kind = 'MERGE') = (amount IS NULL)),
    CHECK ((kind = 'CREDIT') = (source_account_id IS NULL)),
    CHECK ((kind = 'DEBIT') = (destination_account_id IS NULL)),
    CHECK ((refusal_reason IS NULL AND source_account_id IS NOT NULL AND kind <> 'MERGE')
           = (source_version IS NOT NULL)),
    CHECK ((refusal_reason IS NULL AND destination_account_id IS NOT NULL AND kind <> 'MERGE')
           = (destination_version IS NOT NULL)),
    CHECK ((refusal_reason IS NULL) = (refusal_facts IS NULL))
);
INSERT INTO usual_operations
SELECT amount, create_time, source_version, destination_version, operation_id, kind, currency_code,
       source_account_id, source_category, destination_account_id, destination_category, source_categories,
       destination_owner_id, description, metadata, refusal_reason, refusal_facts
FROM operations;

CREATE TABLE usual_entries (
    version         bigint      NOT NULL,
    amount          bigint      NOT NULL,
    posted_after    bigint      NOT NULL,
    create_time     timestamptz NOT NULL,
    account_id      text COLLATE "C" NOT NULL,
    category        text COLLATE "C" NOT NULL,
    operation_id    text COLLATE "C" NOT NULL,
    held_after      bigint,
    available_after bigint,
    CHECK (version >= 1)
);
INSERT INTO usual_entries
SELECT version, amount, posted_after, create_time, account_id, category, operation_id
FROM entries;

DROP VIEW entries;
DROP TABLE operations, entry_marks;
ALTER TABLE balances DROP COLUMN last_operation_id;
ALTER TABLE usual_operations RENAME TO operations;
ALTER TABLE usual_entries RENAME TO entries;
ALTER TABLE operations ADD PRIMARY KEY (operation_id);
CREATE INDEX operations_listed_source ON operations (source_account_id, create_time)
    WHERE refusal_reason IS NOT NULL OR kind = 'MERGE';
CREATE INDEX operations_listed_destination ON operations (destination_account_id, create_time)
    WHERE refusal_reason IS NOT NULL OR kind = 'MERGE';
ALTER TABLE entries ADD PRIMARY KEY (account_id, category, version);

-- The usual way finds balances by their primary key.
DROP INDEX balances_main;
