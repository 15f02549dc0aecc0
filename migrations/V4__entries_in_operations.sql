-- An operation and its entries become one row: a transfer is one insert with one index entry, where it was three with three
-- or more. The entries of a balance are a chain, each side of an operation names the operation before it on the same
-- balance, and every 16th entry of a balance has a mark, so that any entry is found within 16 steps.
-- This rewrites all operations and entries; stop every older ballast before it.

-- An older one that runs all the same waits, in the order in which it locks, and does not end this in a deadlock.
SET LOCAL statement_timeout = 0;
LOCK TABLE balances, merge_parts, operations, entries IN ACCESS EXCLUSIVE MODE;

ALTER TABLE operations RENAME TO old_operations;
ALTER TABLE old_operations RENAME CONSTRAINT operations_pkey TO old_operations_pkey;
ALTER TABLE entries RENAME TO old_entries;

CREATE TABLE operations (
    amount                      bigint,
    create_time                 timestamptz NOT NULL,
    source_version              bigint,
    source_posted_after         bigint,
    destination_version         bigint,
    destination_posted_after    bigint,
    operation_id                text COLLATE "C" NOT NULL,
    kind                        text COLLATE "C" NOT NULL,
    currency_code               text COLLATE "C" NOT NULL,
    source_account_id           text COLLATE "C",
    source_category             text COLLATE "C",
    source_previous_id          text COLLATE "C",
    destination_account_id      text COLLATE "C",
    destination_category        text COLLATE "C",
    destination_previous_id     text COLLATE "C",
    source_categories           text COLLATE "C",
    destination_owner_id        text COLLATE "C",
    description                 text,
    metadata                    jsonb,
    refusal_reason              text COLLATE "C",
    refusal_facts               jsonb,
    source_held_after           bigint,
    source_available_after      bigint,
    destination_held_after      bigint,
    destination_available_after bigint,
    CHECK (amount BETWEEN 1 AND 1000000000000000000),
    CONSTRAINT operations_kind_check CHECK (kind IN ('DEBIT', 'CREDIT', 'TRANSFER', 'MERGE')),
    CONSTRAINT operations_amount_null_check CHECK ((kind = 'MERGE') = (amount IS NULL)),
    CHECK ((kind = 'CREDIT') = (source_account_id IS NULL)),
    CHECK ((kind = 'DEBIT') = (destination_account_id IS NULL)),
    CONSTRAINT operations_source_version_check CHECK (
        (refusal_reason IS NULL AND source_account_id IS NOT NULL AND kind <> 'MERGE')
        = (source_version IS NOT NULL AND source_posted_after IS NOT NULL)),
    CONSTRAINT operations_destination_version_check CHECK (
        (refusal_reason IS NULL AND destination_account_id IS NOT NULL AND kind <> 'MERGE')
        = (destination_version IS NOT NULL AND destination_posted_after IS NOT NULL)),
    CHECK ((refusal_reason IS NULL) = (refusal_facts IS NULL))
);
COMMENT ON COLUMN operations.refusal_reason IS 'NULL: posted';
COMMENT ON COLUMN operations.amount IS 'NULL: a merge; its parts have the amounts';
COMMENT ON COLUMN operations.source_category IS 'the category that paid; of a refused operation, the first one asked';
COMMENT ON COLUMN operations.source_categories IS 'the categories asked, in order, joined by commas; NULL: main';
COMMENT ON COLUMN operations.source_version IS 'of the entry of the balance that paid; NULL: it has none';
COMMENT ON COLUMN operations.source_posted_after IS 'posted of that balance after it';
COMMENT ON COLUMN operations.source_held_after IS 'NULL: 0';
COMMENT ON COLUMN operations.source_available_after IS 'NULL: source_posted_after - source_held_after';
COMMENT ON COLUMN operations.source_previous_id IS 'the operation that made the entry before, on the same balance; NULL: none did';
COMMENT ON COLUMN operations.description IS 'NULL: empty';
COMMENT ON COLUMN operations.metadata IS 'NULL: empty';

INSERT INTO operations (
    operation_id, kind, amount, currency_code, create_time, source_categories, destination_owner_id, description, metadata,
    refusal_reason, refusal_facts,
    source_account_id, source_category, source_version, source_posted_after, source_held_after, source_available_after,
    source_previous_id,
    destination_account_id, destination_category, destination_version, destination_posted_after, destination_held_after,
    destination_available_after, destination_previous_id
)
SELECT o.operation_id, o.kind, o.amount, o.currency_code, o.create_time, o.source_categories, o.destination_owner_id,
       o.description, o.metadata, o.refusal_reason, o.refusal_facts,
       o.source_account_id, o.source_category, o.source_version, s.posted_after, s.held_after, s.available_after,
       sp.operation_id,
       o.destination_account_id, o.destination_category, o.destination_version, d.posted_after, d.held_after,
       d.available_after, dp.operation_id
FROM old_operations o
LEFT JOIN old_entries s ON s.account_id = o.source_account_id AND s.category = o.source_category
    AND s.version = o.source_version
LEFT JOIN old_entries sp ON sp.account_id = o.source_account_id AND sp.category = o.source_category
    AND sp.version = o.source_version - 1
LEFT JOIN old_entries d ON d.account_id = o.destination_account_id AND d.category = o.destination_category
    AND d.version = o.destination_version
LEFT JOIN old_entries dp ON dp.account_id = o.destination_account_id AND dp.category = o.destination_category
    AND dp.version = o.destination_version - 1;

ALTER TABLE merge_parts
    ADD COLUMN source_posted_after bigint,
    ADD COLUMN source_held_after bigint,
    ADD COLUMN source_available_after bigint,
    ADD COLUMN source_previous_id text COLLATE "C",
    ADD COLUMN destination_posted_after bigint,
    ADD COLUMN destination_held_after bigint,
    ADD COLUMN destination_available_after bigint,
    ADD COLUMN destination_previous_id text COLLATE "C";
UPDATE merge_parts p
SET source_posted_after = s.posted_after, source_held_after = s.held_after,
    source_available_after = s.available_after, source_previous_id = sp.operation_id,
    destination_posted_after = d.posted_after, destination_held_after = d.held_after,
    destination_available_after = d.available_after, destination_previous_id = dp.operation_id
FROM merge_parts q
JOIN old_operations o ON o.operation_id = q.operation_id
JOIN old_entries s ON s.account_id = o.source_account_id AND s.category = q.category AND s.version = q.source_version
JOIN old_entries d ON d.account_id = o.destination_account_id AND d.category = q.category
    AND d.version = q.destination_version
LEFT JOIN old_entries sp ON sp.account_id = o.source_account_id AND sp.category = q.category
    AND sp.version = q.source_version - 1
LEFT JOIN old_entries dp ON dp.account_id = o.destination_account_id AND dp.category = q.category
    AND dp.version = q.destination_version - 1
WHERE p.operation_id = q.operation_id AND p.category = q.category;
ALTER TABLE merge_parts
    ALTER COLUMN source_posted_after SET NOT NULL,
    ALTER COLUMN destination_posted_after SET NOT NULL;

ALTER TABLE balances ADD COLUMN last_operation_id text COLLATE "C";
COMMENT ON COLUMN balances.last_operation_id IS 'the operation that made the entry of this version; NULL: version 0';
UPDATE balances b
SET last_operation_id = e.operation_id
FROM old_entries e
WHERE e.account_id = b.account_id AND e.category = b.category AND e.version = b.version;

-- Every 16th entry of each balance. create_time rises with version, so a time is found by halving the marks.
CREATE TABLE entry_marks (
    version      bigint      NOT NULL,
    create_time  timestamptz NOT NULL,
    account_id   text COLLATE "C" NOT NULL,
    category     text COLLATE "C" NOT NULL,
    operation_id text COLLATE "C" NOT NULL
);
INSERT INTO entry_marks (account_id, category, version, operation_id, create_time)
SELECT account_id, category, version, operation_id, create_time
FROM old_entries
WHERE version % 16 = 0;

DROP TABLE old_operations;
DROP TABLE old_entries;

ALTER TABLE operations ADD PRIMARY KEY (operation_id);
-- A posted operation is found through the chain of its balance; a refused one has no entries, and a merge of an empty
-- account neither.
CREATE INDEX operations_listed_source ON operations (source_account_id, create_time)
    WHERE refusal_reason IS NOT NULL OR kind = 'MERGE';
CREATE INDEX operations_listed_destination ON operations (destination_account_id, create_time)
    WHERE refusal_reason IS NOT NULL OR kind = 'MERGE';
ALTER TABLE entry_marks ADD PRIMARY KEY (account_id, category, version);

ANALYZE operations;
ANALYZE merge_parts;
ANALYZE entry_marks;

-- All entries, for whoever reads the whole ledger, as `ballast verify` does. It has no index by account: ListEntries goes by
-- marks and chain.
CREATE VIEW entries AS
SELECT account_id, category, version, operation_id, amount, posted_after, coalesce(held_after, 0) AS held_after,
       coalesce(available_after, posted_after - coalesce(held_after, 0)) AS available_after, create_time,
       previous_operation_id
FROM (
    SELECT source_account_id AS account_id, source_category AS category, source_version AS version, operation_id,
           -amount AS amount, source_posted_after AS posted_after, source_held_after AS held_after,
           source_available_after AS available_after, create_time, source_previous_id AS previous_operation_id
    FROM operations
    WHERE source_version IS NOT NULL
    UNION ALL
    SELECT destination_account_id, destination_category, destination_version, operation_id, amount,
           destination_posted_after, destination_held_after, destination_available_after, create_time,
           destination_previous_id
    FROM operations
    WHERE destination_version IS NOT NULL
    UNION ALL
    SELECT o.source_account_id, p.category, p.source_version, p.operation_id, -p.amount, p.source_posted_after,
           p.source_held_after, p.source_available_after, o.create_time, p.source_previous_id
    FROM merge_parts p
    JOIN operations o ON o.operation_id = p.operation_id
    UNION ALL
    SELECT o.destination_account_id, p.category, p.destination_version, p.operation_id, p.amount,
           p.destination_posted_after, p.destination_held_after, p.destination_available_after, o.create_time,
           p.destination_previous_id
    FROM merge_parts p
    JOIN operations o ON o.operation_id = p.operation_id
) AS sides;
COMMENT ON VIEW entries IS 'one row per change of one balance';
