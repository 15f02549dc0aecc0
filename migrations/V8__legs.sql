-- Legs: an operation may change any number of balances. The first debit and the first credit stand in its row as before, and
-- a transfer is one row as before; all others are rows of operation_legs, of which the parts of merges are a case. What an
-- operation needs besides is in columns that are NULL for all others, so no later kind has to change this table.
-- Instances of the version before go on while this runs, and after it, but for merges: those they answer with INTERNAL, and
-- they post nothing.

SET LOCAL statement_timeout = 0;
-- In the order in which the write path takes them.
LOCK TABLE operations, merge_parts IN ACCESS EXCLUSIVE MODE;

CREATE TABLE operation_legs (
    amount          bigint,
    version         bigint,
    posted_after    bigint,
    held_after      bigint,
    available_after bigint,
    refuse_time     timestamptz,
    position        integer NOT NULL,
    operation_id    text COLLATE "C" NOT NULL,
    account_id      text COLLATE "C" NOT NULL,
    category        text COLLATE "C" NOT NULL,
    previous_id     text COLLATE "C",
    PRIMARY KEY (operation_id, account_id, category, position),
    CHECK (position >= 0),
    CHECK (length(category) BETWEEN 1 AND 32),
    CHECK (num_nonnulls(amount, version, posted_after) IN (0, 3)),
    CHECK ((version IS NULL) = (refuse_time IS NOT NULL)),
    CHECK (version IS NOT NULL OR num_nonnulls(held_after, available_after, previous_id) = 0)
);
COMMENT ON TABLE operation_legs IS 'what operations changed besides their first debit and their first credit';
COMMENT ON COLUMN operation_legs.amount IS 'what is added to posted; NULL: the operation was refused';
COMMENT ON COLUMN operation_legs.held_after IS 'NULL: 0';
COMMENT ON COLUMN operation_legs.available_after IS 'NULL: posted_after - held_after';
COMMENT ON COLUMN operation_legs.position IS 'which entry of the operation it is, from 0';
COMMENT ON COLUMN operation_legs.refuse_time IS 'of a refused operation that is listed for this account too: its create_time';
CREATE INDEX operation_legs_refused ON operation_legs (account_id, refuse_time) WHERE refuse_time IS NOT NULL;

-- Shapes, not kinds: a new kind needs no new constraint. They are checked for old rows by the migration after this one.
ALTER TABLE operations
    ADD COLUMN source_amount         bigint,
    ADD COLUMN destination_amount    bigint,
    ADD COLUMN leg_count             integer,
    ADD COLUMN hold_id               text COLLATE "C",
    ADD COLUMN reversed_operation_id text COLLATE "C",
    ADD COLUMN intent                jsonb,
    DROP CONSTRAINT operations_kind_check,
    DROP CONSTRAINT operations_amount_null_check,
    DROP CONSTRAINT operations_check2,
    DROP CONSTRAINT operations_check3,
    DROP CONSTRAINT operations_check5,
    DROP CONSTRAINT operations_source_version_check,
    DROP CONSTRAINT operations_destination_version_check,
    ADD CONSTRAINT operations_kind_shape CHECK (length(kind) BETWEEN 1 AND 32) NOT VALID,
    ADD CONSTRAINT operations_source_shape CHECK (
        (source_version IS NULL) = (source_posted_after IS NULL)
        AND (source_version IS NOT NULL OR num_nonnulls(source_amount, source_held_after, source_available_after,
                                                        source_previous_id) = 0)
        AND (source_version IS NULL OR source_account_id IS NOT NULL AND source_category IS NOT NULL
                                       AND num_nonnulls(amount, source_amount) > 0)) NOT VALID,
    ADD CONSTRAINT operations_destination_shape CHECK (
        (destination_version IS NULL) = (destination_posted_after IS NULL)
        AND (destination_version IS NOT NULL OR num_nonnulls(destination_amount, destination_held_after,
                                                             destination_available_after, destination_previous_id) = 0)
        AND (destination_version IS NULL OR destination_account_id IS NOT NULL AND destination_category IS NOT NULL
                                            AND num_nonnulls(amount, destination_amount) > 0)) NOT VALID,
    ADD CONSTRAINT operations_refusal_shape CHECK (
        (refusal_reason IS NULL) = (refusal_facts IS NULL)
        AND (refusal_reason IS NULL OR num_nonnulls(source_version, destination_version) = 0)) NOT VALID,
    ADD CONSTRAINT operations_leg_count_shape CHECK (leg_count > 0) NOT VALID;
COMMENT ON COLUMN operations.amount IS 'NULL: the legs have the amounts';
COMMENT ON COLUMN operations.source_amount IS 'what is added to posted of the source; NULL: minus amount';
COMMENT ON COLUMN operations.destination_amount IS 'what is added to posted of the destination; NULL: amount';
COMMENT ON COLUMN operations.leg_count IS 'how many rows of operation_legs it has; NULL: none';
COMMENT ON COLUMN operations.hold_id IS 'the hold that it is about; NULL: none';
COMMENT ON COLUMN operations.reversed_operation_id IS 'the operation that it reverses; NULL: none';
COMMENT ON COLUMN operations.intent IS 'what was asked, as far as no other column says it; NULL: nothing else';

-- The first part of a merge goes into its row, the others become two legs each.
INSERT INTO operation_legs (
    operation_id, account_id, category, position, amount, version, posted_after, held_after, available_after, previous_id
)
SELECT p.operation_id, side.account_id, p.category, 2 * (p.number - 1) + side.position, side.amount, side.version,
       side.posted_after, side.held_after, side.available_after, side.previous_id
FROM (
    SELECT *, (row_number() OVER (PARTITION BY operation_id ORDER BY category))::integer AS number FROM merge_parts
) AS p
JOIN operations o ON o.operation_id = p.operation_id
CROSS JOIN LATERAL (
    VALUES (0, o.source_account_id, -p.amount, p.source_version, p.source_posted_after, p.source_held_after,
            p.source_available_after, p.source_previous_id),
           (1, o.destination_account_id, p.amount, p.destination_version, p.destination_posted_after,
            p.destination_held_after, p.destination_available_after, p.destination_previous_id)
) AS side (position, account_id, amount, version, posted_after, held_after, available_after, previous_id)
WHERE p.number > 1;
UPDATE operations o
SET source_category = p.category, source_amount = -p.amount, source_version = p.source_version,
    source_posted_after = p.source_posted_after, source_held_after = p.source_held_after,
    source_available_after = p.source_available_after, source_previous_id = p.source_previous_id,
    destination_category = p.category, destination_amount = p.amount, destination_version = p.destination_version,
    destination_posted_after = p.destination_posted_after, destination_held_after = p.destination_held_after,
    destination_available_after = p.destination_available_after, destination_previous_id = p.destination_previous_id,
    leg_count = nullif(2 * (p.part_count - 1), 0)
FROM (
    SELECT DISTINCT ON (operation_id) *, (count(*) OVER (PARTITION BY operation_id))::integer AS part_count
    FROM merge_parts
    ORDER BY operation_id, category
) AS p
WHERE o.operation_id = p.operation_id;

DROP VIEW entries;
DROP TABLE merge_parts;

-- An operation without an entry on a side is not in the chain of that side's balance: refused ones, and those that changed
-- something else than a balance.
CREATE INDEX operations_without_source_entry ON operations (source_account_id, create_time)
    WHERE source_version IS NULL AND source_account_id IS NOT NULL;
CREATE INDEX operations_without_destination_entry ON operations (destination_account_id, create_time)
    WHERE destination_version IS NULL AND destination_account_id IS NOT NULL;
DROP INDEX operations_listed_source;
DROP INDEX operations_listed_destination;

ANALYZE operation_legs;

-- All entries, for whoever reads the whole ledger, as `ballast verify` does. It has no index by account: ListEntries goes by
-- the sparse entry index and the chain.
CREATE VIEW entries AS
SELECT account_id, category, version, operation_id, amount, posted_after, coalesce(held_after, 0) AS held_after,
       coalesce(available_after, posted_after - coalesce(held_after, 0)) AS available_after, create_time,
       previous_operation_id
FROM (
    SELECT source_account_id AS account_id, source_category AS category, source_version AS version, operation_id,
           coalesce(source_amount, -amount) AS amount, source_posted_after AS posted_after, source_held_after AS held_after,
           source_available_after AS available_after, create_time, source_previous_id AS previous_operation_id
    FROM operations
    WHERE source_version IS NOT NULL
    UNION ALL
    SELECT destination_account_id, destination_category, destination_version, operation_id,
           coalesce(destination_amount, amount), destination_posted_after, destination_held_after,
           destination_available_after, create_time, destination_previous_id
    FROM operations
    WHERE destination_version IS NOT NULL
    UNION ALL
    SELECT l.account_id, l.category, l.version, l.operation_id, l.amount, l.posted_after, l.held_after, l.available_after,
           o.create_time, l.previous_id
    FROM operation_legs l
    JOIN operations o ON o.operation_id = l.operation_id
    WHERE l.version IS NOT NULL
) AS sides;
COMMENT ON VIEW entries IS 'one row per change of one balance';
