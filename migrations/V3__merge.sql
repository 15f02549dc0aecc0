-- Merges: an operation that moves all balances of one account into another and closes the first. It names two accounts
-- and no amount; what it moved is one part for each category, and each part has an entry on both sides.

ALTER TABLE operations
    ALTER COLUMN amount DROP NOT NULL,
    DROP CONSTRAINT operations_kind_check,
    DROP CONSTRAINT operations_check2,
    DROP CONSTRAINT operations_check3,
    ADD CONSTRAINT operations_kind_check CHECK (kind IN ('DEBIT', 'CREDIT', 'TRANSFER', 'MERGE')),
    ADD CONSTRAINT operations_amount_null_check CHECK ((kind = 'MERGE') = (amount IS NULL)),
    ADD CONSTRAINT operations_source_version_check CHECK (
        (refusal_reason IS NULL AND source_account_id IS NOT NULL AND kind <> 'MERGE') = (source_version IS NOT NULL)),
    ADD CONSTRAINT operations_destination_version_check CHECK (
        (refusal_reason IS NULL AND destination_account_id IS NOT NULL AND kind <> 'MERGE')
        = (destination_version IS NOT NULL));
COMMENT ON COLUMN operations.amount IS 'NULL: a merge; its parts have the amounts';

CREATE TABLE merge_parts (
    amount              bigint NOT NULL,
    source_version      bigint NOT NULL,
    destination_version bigint NOT NULL,
    operation_id        text COLLATE "C" NOT NULL,
    category            text COLLATE "C" NOT NULL,
    PRIMARY KEY (operation_id, category),
    CHECK (amount >= 1),
    CHECK (length(category) BETWEEN 1 AND 32)
);
COMMENT ON COLUMN merge_parts.amount IS 'what left the category of the source for the same category of the destination';

-- A merge of an empty account has no entries to be found by, so all merges are listed as refused operations are.
DROP INDEX operations_refused_source;
DROP INDEX operations_refused_destination;
CREATE INDEX operations_listed_source ON operations (source_account_id, create_time)
    WHERE refusal_reason IS NOT NULL OR kind = 'MERGE';
CREATE INDEX operations_listed_destination ON operations (destination_account_id, create_time)
    WHERE refusal_reason IS NOT NULL OR kind = 'MERGE';
