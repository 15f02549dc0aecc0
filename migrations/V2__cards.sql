-- Cards: which category pays for what, and what stands about a payment whose caller was not answered by its own attempt.

CREATE TABLE card_rules (
    update_time timestamptz NOT NULL,
    kind        text COLLATE "C" NOT NULL,
    pattern     text COLLATE "C" NOT NULL,
    category    text COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, pattern),
    CHECK (kind IN ('MCC', 'MERCHANT')),
    CHECK (length(pattern) >= 1),
    CHECK (length(category) BETWEEN 1 AND 32)
);
COMMENT ON COLUMN card_rules.pattern IS 'four digits, or a merchant in lower case, trimmed, with single spaces';

INSERT INTO card_rules (kind, pattern, category, update_time)
VALUES ('MCC', '5411', 'FOOD', now()),
       ('MCC', '5412', 'FOOD', now()),
       ('MCC', '5811', 'MEAL', now()),
       ('MCC', '5812', 'MEAL', now());

-- One row per payment about which two callers might disagree; the first row decides. Most payments have none: their one
-- caller was approved in time.
CREATE TABLE card_verdicts (
    create_time  timestamptz NOT NULL,
    unsettled    boolean     NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    attempt      text COLLATE "C" NOT NULL,
    verdict      text COLLATE "C" NOT NULL,
    PRIMARY KEY (operation_id, attempt),
    CHECK (verdict IN ('KEPT', 'REVERSED')),
    CHECK (verdict = 'REVERSED' OR NOT unsettled)
);
COMMENT ON COLUMN card_verdicts.attempt IS 'which attempt made the payment: attempt in the metadata of the operation';
COMMENT ON COLUMN card_verdicts.verdict IS 'KEPT: a retry was approved on it; REVERSED: its own caller was answered 07';
COMMENT ON COLUMN card_verdicts.unsettled IS 'the payment may still happen, or its reversal has not happened yet';
CREATE INDEX card_verdicts_unsettled ON card_verdicts (create_time) WHERE unsettled;
