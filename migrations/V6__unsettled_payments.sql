-- Cards: a reversal that is refused waits for a person and for nothing else, and no other reversal waits for it.
-- What older instances write while this version is rolled out stays valid: every new column has a default.

ALTER TABLE card_verdicts
    ADD COLUMN try_count              integer     NOT NULL DEFAULT 0,
    ADD COLUMN next_try_time          timestamptz NOT NULL DEFAULT 'epoch',
    ADD COLUMN refuse_time            timestamptz,
    ADD COLUMN settle_time            timestamptz,
    ADD COLUMN reversal_id            text COLLATE "C",
    ADD COLUMN refusal_reason         text COLLATE "C",
    ADD COLUMN settlement_id          text COLLATE "C",
    ADD COLUMN settlement_method      text COLLATE "C",
    ADD COLUMN settlement_account_id  text COLLATE "C",
    ADD COLUMN settlement_category    text COLLATE "C",
    ADD COLUMN settlement_note        text,
    ADD CHECK (verdict = 'REVERSED' OR (reversal_id IS NULL AND refusal_reason IS NULL)),
    ADD CHECK ((refusal_reason IS NULL) = (refuse_time IS NULL)),
    ADD CHECK (refusal_reason IS NULL OR reversal_id IS NOT NULL),
    ADD CHECK (settlement_id IS NULL OR refusal_reason IS NOT NULL),
    ADD CHECK ((settlement_id IS NULL) = (settlement_method IS NULL) AND (settlement_id IS NULL) = (settlement_note IS NULL)),
    ADD CHECK (settlement_method IN ('CREDIT', 'OTHER')),
    ADD CHECK ((settlement_method IS NOT DISTINCT FROM 'CREDIT') = (settlement_account_id IS NOT NULL)
               AND (settlement_account_id IS NULL) = (settlement_category IS NULL)),
    ADD CHECK (refusal_reason IS NULL OR unsettled = (settle_time IS NULL)),
    ADD CHECK (settle_time IS NULL OR settlement_id IS NOT NULL);

-- The instance that gave a verdict has so long to see it through before another one takes it.
ALTER TABLE card_verdicts ALTER COLUMN next_try_time SET DEFAULT clock_timestamp() + interval '10 seconds';

COMMENT ON COLUMN card_verdicts.unsettled IS
    'the payment may still happen, or it happened and is neither reversed nor settled by a person';
COMMENT ON COLUMN card_verdicts.try_count IS 'how often it was taken to be reversed by an instance that did not give the verdict';
COMMENT ON COLUMN card_verdicts.next_try_time IS 'when it may be taken next';
COMMENT ON COLUMN card_verdicts.reversal_id IS 'the credit that reversed it, or was refused; NULL: none yet, or of an older version';
COMMENT ON COLUMN card_verdicts.refusal_reason IS 'why the reversal was refused: a person has to settle it; NULL: it was not';
COMMENT ON COLUMN card_verdicts.settlement_id IS
    'of the settlement by a person; while unsettled, one that has begun. Of a credit, its operation_id';
COMMENT ON COLUMN card_verdicts.settlement_account_id IS 'which account is credited; NULL: none';
COMMENT ON COLUMN card_verdicts.settle_time IS 'when a person settled it';

-- What is to be reversed, by when; and what waits for a person, by how long.
DROP INDEX card_verdicts_unsettled;
CREATE INDEX card_verdicts_due ON card_verdicts (next_try_time) WHERE unsettled AND refusal_reason IS NULL;
CREATE INDEX card_verdicts_refused ON card_verdicts (refuse_time, operation_id) WHERE unsettled AND refusal_reason IS NOT NULL;

COMMENT ON COLUMN card_rules.pattern IS
    'four digits, or a merchant normalized by Unicode NFKC, with its case folded, trimmed, with single spaces';
