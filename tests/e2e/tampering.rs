//! Tampering: whatever somebody changes in the database by hand, `ballast verify` finds; or it is said here why it cannot be.
//! The columns come from the catalogue, so a new column fails this test until it has its line in [`COLUMNS`].

use std::collections::{BTreeMap, BTreeSet};

use ballast::rpc::proto::transfer_request::Destination;
use ballast::rpc::proto::{
    BalanceLimits, CloseAccountRequest, CreateAccountRequest, CreditRequest, DebitRequest,
    FreezeAccountRequest, TransferRequest, UpdateAccountRequest,
};
use ballast::store::{schema, verify};
use tokio_postgres::Client;

use crate::support::cards::*;
use crate::support::*;

/// What cannot be found, and why: the row and the value as in [`ROWS`] and [`values`]; `*`: any.
type Free = (&'static str, &'static str, &'static str);

const TEXT: &str = "free text of the caller";
const ALONE: &str = "no other row says it";
const SAME: &str = "it means the same";
const HOUR_LATER: &str = "@ + interval '1 hour'";
const HOUR_EARLIER: &str = "@ - interval '1 hour'";
const LARGEST: &str = "9223372036854775807";
const MORE_FACTS: &str = "@ || '{\"more\": \"text\"}'";
const OTHER_ACCOUNT: &str = "@ || '{\"account_id\": \"b\"}'";
const OTHER_AMOUNT: &str = "@ || '{\"needed_minor_units\": \"4\"}'";
const LIMIT: &str = "entries say only what the limit allowed";
const UNTOUCHED: &str = "no entry was made under it";
const BY_HAND: &str = "only an operator sets it, on any account";
const NO_MONEY: &str = "it moved no money, so no entry says it";
const NEXT_TRY: &str = "it only says when the reversal is tried again";
const NEVER: &str = "it is about a payment that never was";

/// Every column of every table, with what cannot be found. Everything else has to be.
const COLUMNS: &[(&str, &[Free])] = &[
    ("accounts.account_id", &[]),
    (
        "accounts.create_time",
        &[
            ("*", HOUR_LATER, ALONE),
            ("*", HOUR_EARLIER, ALONE),
            ("*", "now()", ALONE),
        ],
    ),
    ("accounts.currency_code", &[]),
    (
        "accounts.labels",
        &[
            ("*", MORE_FACTS, TEXT),
            ("*", OTHER_ACCOUNT, TEXT),
            ("*", OTHER_AMOUNT, TEXT),
            ("*", "NULL", TEXT),
        ],
    ),
    (
        "accounts.owner_id",
        &[
            ("settles and has labels", "'x'", ALONE),
            ("has nothing", "'x'", ALONE),
            ("has nothing", "'us'", ALONE),
            ("has nothing", "'them'", ALONE),
            ("was merged", "'x'", ALONE),
            ("was merged", "'us'", ALONE),
            ("was merged", "'them'", ALONE),
        ],
    ),
    (
        "accounts.settlement",
        &[
            (
                "settles and has labels",
                "NOT @",
                "nobody paid its owner by name",
            ),
            ("has nothing", "NOT @", ALONE),
        ],
    ),
    ("balances.account_id", &[]),
    (
        "balances.balance_limit",
        &[
            ("*", LARGEST, LIMIT),
            ("*", "@ + 1", LIMIT),
            ("*", "NULL", LIMIT),
            ("untouched", "0", UNTOUCHED),
            ("untouched", "7", UNTOUCHED),
            ("changed", "0", "it may be beyond a limit that was changed"),
            ("changed", "7", "it may be beyond a limit that was changed"),
        ],
    ),
    ("balances.breach", &[]),
    (
        "balances.category",
        &[
            ("untouched", "'x'", UNTOUCHED),
            ("untouched", "'MEAL'", UNTOUCHED),
        ],
    ),
    ("balances.closed", &[]),
    (
        "balances.credits_frozen",
        &[
            ("main", "NOT @", BY_HAND),
            ("limited", "NOT @", BY_HAND),
            ("merged", "NOT @", BY_HAND),
            ("frozen", "NOT @", BY_HAND),
            ("changed", "NOT @", BY_HAND),
        ],
    ),
    ("balances.currency_code", &[]),
    (
        "balances.debits_frozen",
        &[
            ("main", "NOT @", BY_HAND),
            ("limited", "NOT @", BY_HAND),
            ("merged", "NOT @", BY_HAND),
            ("changed", "NOT @", BY_HAND),
        ],
    ),
    ("balances.held", &[]),
    ("balances.last_operation_id", &[]),
    (
        "balances.overdraft_limit",
        &[
            ("untouched", "@ + 1", UNTOUCHED),
            ("untouched", "7", UNTOUCHED),
        ],
    ),
    ("balances.posted", &[]),
    ("balances.sibling_count", &[]),
    ("balances.update_time", &[]),
    ("balances.version", &[]),
    (
        "card_rules.category",
        &[
            ("*", "'x'", ALONE),
            ("*", "'main'", ALONE),
            ("*", "'MEAL'", ALONE),
        ],
    ),
    (
        "card_rules.kind",
        &[("code", "'MERCHANT'", "a merchant may be called 5411")],
    ),
    (
        "card_rules.pattern",
        &[("merchant", "'x'", ALONE), ("merchant", "'a b'", ALONE)],
    ),
    (
        "card_rules.update_time",
        &[
            ("*", HOUR_LATER, ALONE),
            ("*", HOUR_EARLIER, ALONE),
            ("*", "now()", ALONE),
        ],
    ),
    (
        "card_verdicts.attempt",
        &[
            ("unsettled", "'x'", NEVER),
            ("unsettled", "'a b'", NEVER),
            ("unsettled", "''", NEVER),
        ],
    ),
    (
        "card_verdicts.create_time",
        &[
            ("*", HOUR_LATER, ALONE),
            ("*", HOUR_EARLIER, ALONE),
            ("*", "now()", ALONE),
        ],
    ),
    (
        "card_verdicts.next_try_time",
        &[
            ("*", HOUR_LATER, NEXT_TRY),
            ("*", HOUR_EARLIER, NEXT_TRY),
            ("*", "now()", NEXT_TRY),
            ("*", "'infinity'", NEXT_TRY),
            ("*", "'-infinity'", NEXT_TRY),
        ],
    ),
    (
        "card_verdicts.operation_id",
        &[
            ("unsettled", "'x'", NEVER),
            ("unsettled", "'a b'", NEVER),
            ("unsettled", "''", NEVER),
            ("unsettled", "'opening'", NEVER),
            ("unsettled", "'there-3'", NEVER),
        ],
    ),
    ("card_verdicts.refusal_reason", &[]),
    ("card_verdicts.refuse_time", &[]),
    (
        "card_verdicts.reversal_id",
        &[("reversed", "NULL", "older versions did not write it")],
    ),
    ("card_verdicts.settle_time", &[]),
    ("card_verdicts.settlement_account_id", &[]),
    ("card_verdicts.settlement_category", &[]),
    ("card_verdicts.settlement_id", &[]),
    ("card_verdicts.settlement_method", &[]),
    ("card_verdicts.settlement_note", &[]),
    (
        "card_verdicts.try_count",
        &[
            ("*", "@ + 1", NEXT_TRY),
            ("*", "2147483647", NEXT_TRY),
            ("reversed", "0", NEXT_TRY),
            ("unsettled", "0", NEXT_TRY),
        ],
    ),
    (
        "card_verdicts.unsettled",
        &[
            ("reversed", "NOT @", "the next sweep settles it again"),
            ("unsettled", "NOT @", NEVER),
        ],
    ),
    ("card_verdicts.verdict", &[]),
    ("entry_marks.account_id", &[]),
    ("entry_marks.category", &[]),
    ("entry_marks.create_time", &[]),
    ("entry_marks.operation_id", &[]),
    ("entry_marks.version", &[]),
    ("operation_legs.account_id", &[]),
    ("operation_legs.amount", &[]),
    ("operation_legs.available_after", &[("paid", "0", SAME)]),
    ("operation_legs.category", &[]),
    ("operation_legs.held_after", &[("*", "0", SAME)]),
    ("operation_legs.operation_id", &[]),
    (
        "operation_legs.position",
        &[(
            "reversed",
            "@ + 1",
            "entries of different balances may be in any order",
        )],
    ),
    ("operation_legs.posted_after", &[]),
    ("operation_legs.previous_id", &[]),
    ("operation_legs.refuse_time", &[]),
    ("operation_legs.version", &[]),
    ("operations.amount", &[]),
    (
        "operations.create_time",
        &[
            ("first", HOUR_EARLIER, "nothing was before it"),
            ("refused", HOUR_EARLIER, NO_MONEY),
            ("refused", HOUR_LATER, NO_MONEY),
            ("refused", "now()", NO_MONEY),
            ("freeze", HOUR_EARLIER, NO_MONEY),
            ("freeze", HOUR_LATER, NO_MONEY),
            ("freeze", "now()", NO_MONEY),
        ],
    ),
    ("operations.currency_code", &[]),
    ("operations.description", &[("*", "*", TEXT)]),
    (
        "operations.destination_account_id",
        &[("refused", "'f'", NO_MONEY)],
    ),
    ("operations.destination_amount", &[]),
    ("operations.destination_available_after", &[]),
    (
        "operations.destination_category",
        &[
            ("refused", "'x'", NO_MONEY),
            ("refused", "'FOOD'", NO_MONEY),
            ("refused", "'MEAL'", NO_MONEY),
        ],
    ),
    (
        "operations.destination_held_after",
        &[
            ("first", "0", SAME),
            ("middle", "0", SAME),
            ("marked", "0", SAME),
            ("last", "0", SAME),
            ("to an owner", "0", SAME),
            ("merge", "0", SAME),
            ("post", "0", SAME),
            ("reversal", "0", SAME),
            ("reversal of legs", "0", SAME),
        ],
    ),
    (
        "operations.destination_owner_id",
        &[
            (
                "to an owner",
                "NULL",
                "the account may have been named instead",
            ),
            ("middle", "'them'", "the owner may have been named instead"),
            ("marked", "'them'", "the owner may have been named instead"),
            ("last", "'us'", "the owner may have been named instead"),
            ("refused", "'them'", "the owner may have been named instead"),
        ],
    ),
    ("operations.destination_posted_after", &[]),
    ("operations.destination_previous_id", &[]),
    ("operations.destination_version", &[]),
    ("operations.hold_id", &[]),
    (
        "operations.intent",
        &[(
            "conditional",
            "NULL",
            "a debit of the same outcome may have had no conditions",
        )],
    ),
    ("operations.kind", &[]),
    ("operations.leg_count", &[]),
    (
        "operations.metadata",
        &[
            ("*", MORE_FACTS, TEXT),
            ("*", OTHER_ACCOUNT, TEXT),
            ("*", OTHER_AMOUNT, TEXT),
            ("first", "NULL", TEXT),
        ],
    ),
    (
        "operations.operation_id",
        &[("refused", "'x'", NO_MONEY), ("freeze", "'x'", NO_MONEY)],
    ),
    ("operations.refusal_facts", &[]),
    ("operations.refusal_reason", &[]),
    (
        "operations.reversed_operation_id",
        &[(
            "reversal",
            "'there-3'",
            "it may have reversed another one that is like it",
        )],
    ),
    ("operations.source_account_id", &[]),
    ("operations.source_amount", &[]),
    ("operations.source_available_after", &[("merge", "0", SAME)]),
    (
        "operations.source_categories",
        &[
            ("middle", "'main'", SAME),
            ("marked", "'main'", SAME),
            ("last", "'main'", SAME),
            ("to an owner", "'main'", SAME),
            ("conditional", "'main'", SAME),
            (
                "conditional",
                "'FOOD,main'",
                "another category may have been asked first",
            ),
            (
                "middle",
                "'FOOD,main'",
                "another category may have been asked first",
            ),
            (
                "marked",
                "'FOOD,main'",
                "another category may have been asked first",
            ),
            (
                "last",
                "'FOOD,main'",
                "another category may have been asked first",
            ),
            (
                "to an owner",
                "'FOOD,main'",
                "another category may have been asked first",
            ),
            (
                "asked",
                "'FOOD'",
                "those that did not pay are said nowhere else",
            ),
            (
                "asked",
                "'FOOD,main'",
                "those that did not pay are said nowhere else",
            ),
            (
                "payment",
                "'FOOD'",
                "those that did not pay are said nowhere else",
            ),
            (
                "payment",
                "'FOOD,main'",
                "those that did not pay are said nowhere else",
            ),
        ],
    ),
    ("operations.source_category", &[]),
    (
        "operations.source_held_after",
        &[
            ("middle", "0", SAME),
            ("marked", "0", SAME),
            ("last", "0", SAME),
            ("asked", "0", SAME),
            ("to an owner", "0", SAME),
            ("payment", "0", SAME),
            ("merge", "0", SAME),
            ("post", "0", SAME),
            ("reversal", "0", SAME),
            ("reversal of legs", "0", SAME),
            ("conditional", "0", SAME),
            ("update", "0", SAME),
        ],
    ),
    ("operations.source_posted_after", &[]),
    ("operations.source_previous_id", &[]),
    ("operations.source_version", &[]),
    (
        "schema_history.applied_on",
        &[("*", "*", "nothing depends on it")],
    ),
    ("schema_history.checksum", &[]),
    ("schema_history.name", &[]),
    ("schema_history.version", &[]),
];

/// Rows of every kind, by a name, for each table.
const ROWS: &[(&str, &[(&str, &str)])] = &[
    (
        "accounts",
        &[
            ("settles and has labels", "account_id = 'a'"),
            ("is paid by its owner's name", "account_id = 'b'"),
            ("has nothing", "account_id = 'f'"),
            ("was merged", "account_id = 'c'"),
        ],
    ),
    (
        "balances",
        &[
            ("main", "account_id = 'a' AND category = 'main'"),
            ("limited", "account_id = 'b' AND category = 'main'"),
            ("other", "account_id = 'a' AND category = 'FOOD'"),
            ("untouched", "account_id = 'a' AND category = 'SPARE'"),
            ("merged", "account_id = 'c' AND category = 'main'"),
            ("frozen", "account_id = 'ice' AND category = 'main'"),
            ("changed", "account_id = 'k' AND category = 'main'"),
        ],
    ),
    (
        "operations",
        &[
            ("first", "operation_id = 'opening'"),
            ("middle", "operation_id = 'there-9'"),
            (
                "marked",
                "operation_id = (SELECT operation_id FROM entry_marks WHERE account_id = 'a' AND version = 32)",
            ),
            ("last", "operation_id = 'last'"),
            ("reversal", "operation_id = 'undo'"),
            ("reversal of legs", "operation_id = 'undo-post'"),
            ("asked", "operation_id = 'asked'"),
            ("to an owner", "operation_id = 'to-owner'"),
            ("refused", "operation_id = 'poor'"),
            ("merge", "operation_id = 'merge'"),
            ("post", "operation_id = 'post'"),
            ("payment", "operation_id = 'reversed'"),
            ("freeze", "operation_id = 'freeze'"),
            ("conditional", "operation_id = 'conditional'"),
            ("update", "operation_id = 'update'"),
        ],
    ),
    (
        "operation_legs",
        &[
            ("paid", "operation_id = 'merge' AND account_id = 'c'"),
            ("received", "operation_id = 'merge' AND account_id = 'b'"),
            ("posted", "operation_id = 'post'"),
            ("reversed", "operation_id = 'undo-post'"),
        ],
    ),
    (
        "entry_marks",
        &[("mark", "account_id = 'a' AND version = 32")],
    ),
    (
        "card_rules",
        &[
            ("code", "pattern = '5411'"),
            ("merchant", "pattern = 'uber eats'"),
        ],
    ),
    (
        "card_verdicts",
        &[
            ("kept", "operation_id = 'kept'"),
            ("reversed", "operation_id = 'reversed'"),
            ("unsettled", "operation_id = 'perhaps'"),
        ],
    ),
    (
        "schema_history",
        &[(
            "newest",
            "version = (SELECT max(version) FROM schema_history)",
        )],
    ),
];

/// What a column of this type is changed to.
fn values(column: &str, data_type: &str) -> Vec<String> {
    let of_type: &[&str] = match data_type {
        "bigint" => &[
            "@ + 1",
            "0",
            "7",
            "9223372036854775807",
            "-9223372036854775808",
            "NULL",
        ],
        "integer" => &["@ + 1", "0", "2147483647", "NULL"],
        "boolean" => &["NOT @", "NULL"],
        "timestamp with time zone" => &[
            "@ + interval '1 hour'",
            "@ - interval '1 hour'",
            "now()",
            "'infinity'",
            "'-infinity'",
            "NULL",
        ],
        "text" | "character varying" => &["'x'", "'a b'", "''", "NULL"],
        "jsonb" => &[
            "'null'",
            "'[]'",
            "'{}'",
            "'7'",
            "'[\"a\"]'",
            "'{\"account_id\": [\"a\"]}'",
            "@ || '{\"more\": 1}'",
            "@ || '{\"more\": \"text\"}'",
            "@ - 'account_id'",
            "@ || '{\"account_id\": \"b\"}'",
            "@ || '{\"needed_minor_units\": \"4\"}'",
            "NULL",
        ],
        other => panic!("say what a column of type {other} is changed to"),
    };
    let of_column: &[&str] = match column {
        "kind" => &[
            "'DEBIT'",
            "'CREDIT'",
            "'TRANSFER'",
            "'MERGE'",
            "'POST'",
            "'REVERSAL'",
            "'UNFREEZE'",
            "'UPDATE'",
            "'CLOSE'",
            "'MCC'",
            "'MERCHANT'",
        ],
        "currency_code" => &["'USD'", "'eur'"],
        "refusal_reason" => &["'ACCOUNT_CLOSED'", "'INSUFFICIENT_FUNDS'", "'HOLDS_OPEN'"],
        "verdict" => &["'KEPT'", "'REVERSED'"],
        "account_id" | "source_account_id" | "destination_account_id" => &["'b'", "'f'"],
        "owner_id" | "destination_owner_id" => &["'us'", "'them'"],
        "operation_id" => &["'opening'", "'there-3'"],
        "reversed_operation_id" => &["'opening'", "'there-3'", "'poor'", "'merge'"],
        "category" | "source_category" | "destination_category" | "source_categories" => {
            &["'main'", "'FOOD'", "'MEAL'", "'FOOD,FOOD'", "'FOOD,main'"]
        }
        _ => &[],
    };
    let all = of_type.iter().chain(of_column);
    all.map(|value| value.replace('@', column)).collect()
}

fn owned(account_id: &str, owner_id: &str, settlement: bool) -> CreateAccountRequest {
    CreateAccountRequest {
        owner_id: owner_id.to_owned(),
        settlement,
        ..account(account_id)
    }
}

fn limits(category: &str, overdraft: i64, balance: Option<i64>) -> BalanceLimits {
    BalanceLimits {
        category: category.to_owned(),
        overdraft_limit_minor_units: overdraft,
        balance_limit_minor_units: balance,
    }
}

fn into(category: &str, request: CreditRequest) -> CreditRequest {
    CreditRequest {
        category: category.to_owned(),
        ..request
    }
}

/// A ledger with rows of all kinds.
async fn live() -> Ballast {
    let mut ballast = Ballast::start().await;
    let a = CreateAccountRequest {
        labels: [("colour".to_owned(), "red".to_owned())].into(),
        limits: vec![
            limits("main", 500, None),
            limits("FOOD", 0, Some(10_000)),
            limits("SPARE", 0, None),
        ],
        ..owned("a", "us", true)
    };
    let b = CreateAccountRequest {
        limits: vec![limits("main", 0, Some(10_000))],
        ..owned("b", "them", true)
    };
    let debtor = CreateAccountRequest {
        limits: vec![limits("main", 100, None)],
        ..account("debtor")
    };
    let others = ["c", "d", "f", "holding", "cold", "k", "ice", "gone"].map(account);
    for request in [a, b, debtor].into_iter().chain(others) {
        let opened = ballast.accounts.create_account(request).await;
        opened.expect("opened");
    }
    let balances = &mut ballast.balances;
    let opening = CreditRequest {
        description: "the first".to_owned(),
        metadata: [("from".to_owned(), "nowhere".to_owned())].into(),
        ..credit("opening", "a", 1_000)
    };
    for request in [
        opening,
        into("FOOD", credit("food", "a", 100)),
        credit("b-opening", "b", 100),
        credit("c-opening", "c", 30),
        credit("ice-opening", "ice", 30),
        into("FOOD", credit("c-food", "c", 20)),
        into("FOOD", credit("k-food", "k", 100)),
        credit("mistake", "k", 7),
    ] {
        balances.credit(request).await.expect("posted");
    }
    for round in 0..24 {
        for request in [
            transfer(&format!("there-{round}"), "a", "b", 3),
            transfer(&format!("back-{round}"), "b", "a", 2),
        ] {
            balances.transfer(request).await.expect("posted");
        }
    }
    let asked = DebitRequest {
        categories: strings(["MEAL", "FOOD"]),
        ..debit("asked", "a", 5)
    };
    balances.debit(asked).await.expect("posted");
    let to_owner = TransferRequest {
        destination: Some(Destination::DestinationOwnerId("them".to_owned())),
        ..transfer("to-owner", "a", "", 4)
    };
    balances.transfer(to_owner).await.expect("posted");
    let deep = debit("deep", "a", 1_200);
    balances.debit(deep).await.expect("the overdraft pays");
    let conditional = DebitRequest {
        expected_version: Some(1),
        min_available_after_minor_units: Some(9),
        ..debit("conditional", "ice", 21)
    };
    let conditional = balances.debit(conditional).await;
    conditional.expect("posted");
    let owing = debit("owing", "debtor", 50);
    balances.debit(owing).await.expect("the overdraft pays");
    let sale = post("post", &[("a", 6)], &[("b", 3), ("a/FOOD", 3)]);
    balances.post_operation(sale).await.expect("posted");
    for (id, from) in [("merge", "c"), ("merge-of-nothing", "d")] {
        let merged = balances.merge_accounts(merge(id, from, "b")).await;
        merged.expect("merged");
    }
    for request in [
        reverse_part("undo", "there-1", 2),
        reverse("undo-credit", "mistake"),
        reverse("undo-post", "post"),
    ] {
        let reversed = balances.reverse_operation(request).await;
        reversed.expect("reversed");
    }
    let freeze = FreezeAccountRequest {
        operation_id: "freeze".to_owned(),
        account_id: "ice".to_owned(),
        debits: true,
        ..FreezeAccountRequest::default()
    };
    let frozen = ballast.accounts.freeze_account(freeze).await;
    frozen.expect("frozen");
    let update = UpdateAccountRequest {
        operation_id: "update".to_owned(),
        account_id: "k".to_owned(),
        limits: vec![limits("main", 20, None)],
        ..UpdateAccountRequest::default()
    };
    let updated = ballast.accounts.update_account(update).await;
    updated.expect("updated");
    let close = CloseAccountRequest {
        operation_id: "close".to_owned(),
        account_id: "gone".to_owned(),
        ..CloseAccountRequest::default()
    };
    let closed = ballast.accounts.close_account(close).await;
    closed.expect("closed");
    refuse(&mut ballast).await;
    pay(&mut ballast).await;
    let last = transfer("last", "b", "a", 1);
    ballast.balances.transfer(last).await.expect("posted");
    ballast.assert_in_order().await;
    ballast
}

/// A refused operation for each reason.
async fn refuse(ballast: &mut Ballast) {
    let sql = ballast.database.sql().await;
    sql.batch_execute(
        "UPDATE balances SET debits_frozen = true WHERE account_id = 'cold';
         UPDATE balances SET posted = 5, held = 5 WHERE account_id = 'holding'",
    )
    .await
    .expect("prepared");
    let balances = &mut ballast.balances;
    let poor = TransferRequest {
        source_categories: strings(["FOOD", "main"]),
        ..transfer("poor", "a", "b", 100_000)
    };
    let mut reasons = BTreeSet::new();
    let mut refused = |status: tonic::Status| {
        let rejection = Rejection::of_status(&status);
        reasons.insert(rejection.reason.clone());
    };
    refused(balances.transfer(poor).await.expect_err("poor"));
    for request in [credit("full", "b", 20_000), credit("late", "c", 1)] {
        refused(balances.credit(request).await.expect_err("full, late"));
    }
    refused(
        balances
            .debit(debit("frozen", "cold", 1))
            .await
            .expect_err("frozen"),
    );
    for (id, from) in [("held", "holding"), ("debt", "debtor")] {
        let merged = balances.merge_accounts(merge(id, from, "b")).await;
        refused(merged.expect_err("held, debt"));
    }
    for request in [
        reverse("again", "mistake"),
        reverse_part("too-much", "there-1", 2),
    ] {
        let reversed = balances.reverse_operation(request).await;
        refused(reversed.expect_err("again, too-much"));
    }
    let all = [
        "ACCOUNT_CLOSED",
        "ACCOUNT_FROZEN",
        "ALREADY_REVERSED",
        "BALANCE_LIMIT_EXCEEDED",
        "BALANCE_NEGATIVE",
        "HOLDS_OPEN",
        "INSUFFICIENT_FUNDS",
        "REVERSAL_EXCEEDS_ORIGINAL",
    ];
    assert_eq!(reasons, all.map(str::to_owned).into());
    sql.batch_execute("UPDATE balances SET posted = 0, held = 0 WHERE account_id = 'holding'")
        .await
        .expect("restored");
}

/// Payments with each verdict.
async fn pay(ballast: &mut Ballast) {
    let mut cards = ballast.cards();
    let rule = ballast::rpc::proto::SetMerchantRuleRequest {
        merchant: "UBER EATS".to_owned(),
        category: "FOOD".to_owned(),
    };
    cards.set_merchant_rule(rule).await.expect("set");
    for id in ["kept", "kept", "reversed"] {
        let paid = decided(&mut cards, payment(id, "k", 10, "5411")).await;
        assert_eq!(paid, says("00", "FOOD"));
    }
    // As an instance leaves it that dies; the next one gives the money back.
    let sql = ballast.database.sql().await;
    sql.batch_execute(
        "INSERT INTO card_verdicts (operation_id, attempt, verdict, unsettled, create_time)
         SELECT operation_id, metadata ->> 'attempt', 'REVERSED', true, now() - interval '1 minute'
         FROM operations WHERE operation_id = 'reversed'
         UNION ALL
         SELECT 'perhaps', '1', 'REVERSED', true, now() - interval '1 minute'",
    )
    .await
    .expect("a verdict");
    let next = ballast.sibling().await;
    let unsettled =
        "SELECT count(*) FROM card_verdicts WHERE unsettled AND operation_id = 'reversed'";
    within_reason("the reversal", async {
        while sql
            .query_one(unsettled, &[])
            .await
            .expect("a count")
            .get::<_, i64>(0)
            > 0
        {}
    })
    .await;
    assert!(next.stopped().await);
}

/// What is found now, in the client's own transaction.
async fn found(client: &Client) -> Vec<String> {
    let report = verify::within_transaction(client, |_| {}).await;
    let mut findings = report
        .expect("it runs to its end, whatever it meets")
        .findings;
    findings.extend(
        schema::check(client)
            .await
            .err()
            .map(|error| error.to_string()),
    );
    findings
}

/// What a statement's change is found as; `None` if it changes nothing. It is undone.
async fn tamper(client: &Client, statement: &str) -> Option<Vec<String>> {
    client.batch_execute("BEGIN").await.expect("begun");
    let findings = match client.execute(statement, &[]).await {
        Ok(0) => None,
        Ok(_) => Some(found(client).await),
        // The checks are gone, so it was a NOT NULL, a key or what a number can be.
        Err(error) => {
            let code = error.code().map(|code| code.code().to_owned());
            let code = code.unwrap_or_else(|| panic!("{statement}: {error}"));
            let refused = ["23502", "23505", "22003", "22008"].contains(&code.as_str());
            assert!(refused, "{statement}: {error}");
            Some(vec![format!("the database refuses it with {code}")])
        }
    };
    client.batch_execute("ROLLBACK").await.expect("undone");
    findings
}

/// A connection on which any row can be written.
async fn without_checks(ballast: &Ballast) -> Client {
    let client = ballast.database.sql().await;
    client
        .batch_execute(
            "SET max_parallel_workers_per_gather = 0; SET jit = off;
             DO $$ DECLARE c record; BEGIN
                 FOR c IN SELECT conrelid::regclass AS name, conname FROM pg_constraint
                          WHERE contype = 'c' AND connamespace = 'public'::regnamespace
                 LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.name, c.conname); END LOOP;
             END $$",
        )
        .await
        .expect("the checks are dropped");
    client
}

/// All tables and columns, and the type of each.
async fn catalogue(client: &Client) -> BTreeMap<(String, String), String> {
    let columns = "SELECT c.table_name::text, c.column_name::text, c.data_type::text
                   FROM information_schema.columns c
                   JOIN information_schema.tables t USING (table_schema, table_name)
                   WHERE c.table_schema = 'public' AND t.table_type = 'BASE TABLE'";
    let rows = client.query(columns, &[]).await.expect("the catalogue");
    rows.iter()
        .map(|row| ((row.get(0), row.get(1)), row.get(2)))
        .collect()
}

fn rows_of(table: &str) -> &'static [(&'static str, &'static str)] {
    let rows = ROWS.iter().find(|(name, _)| *name == table);
    rows.unwrap_or_else(|| panic!("say which rows of table {table} are changed"))
        .1
}

/// There are many changes to try, so several tests share the columns.
const PARTS: usize = 4;

#[tokio::test]
async fn a_change_of_any_column_is_found_or_cannot_be() {
    change_columns(0).await;
}

#[tokio::test]
async fn a_change_of_any_column_of_the_second_part_is_found_or_cannot_be() {
    change_columns(1).await;
}

#[tokio::test]
async fn a_change_of_any_column_of_the_third_part_is_found_or_cannot_be() {
    change_columns(2).await;
}

#[tokio::test]
async fn a_change_of_any_column_of_the_fourth_part_is_found_or_cannot_be() {
    change_columns(3).await;
}

/// Changes each column of one part, in each row, to each value.
async fn change_columns(part: usize) {
    let ballast = live().await;
    let client = without_checks(&ballast).await;
    let catalogue = catalogue(&client).await;
    let of_part = |(index, column): (usize, _)| (index % PARTS == part).then_some(column);
    let columns: BTreeMap<_, _> = catalogue.iter().enumerate().filter_map(of_part).collect();
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for ((table, column), data_type) in &columns {
        let name = format!("{table}.{column}");
        let free = COLUMNS.iter().find(|(listed, _)| *listed == name);
        if free.is_none() {
            wrong.push(format!("{name} has no line"));
        }
        let free = free.map_or(&[][..], |(_, free)| free);
        for (row, filter) in rows_of(table) {
            for value in values(column, data_type) {
                let statement = format!(
                    "UPDATE {table} SET {column} = {value} WHERE {filter} AND {column} IS DISTINCT FROM {value}"
                );
                let Some(findings) = tamper(&client, &statement).await else {
                    continue;
                };
                let matches = |(of_row, of_value, _): &&Free| {
                    (*of_row == "*" || of_row == row)
                        && (*of_value == "*" || of_value.replace('@', column) == value)
                };
                let why = free.iter().find(matches);
                used.extend(why.map(|why| (name.clone(), *why)));
                if findings.is_empty() != why.is_some() {
                    wrong.push(format!("{name} of {row} to {value}: {findings:?}, {why:?}"));
                }
            }
        }
    }
    for (name, free) in COLUMNS {
        let (table, column) = name.split_once('.').expect("table.column");
        let key = (table.to_owned(), column.to_owned());
        if !catalogue.contains_key(&key) {
            wrong.push(format!("{name} is no column"));
        }
        if !columns.contains_key(&key) {
            continue;
        }
        let unused = free
            .iter()
            .filter(|free| !used.contains(&((*name).to_owned(), **free)));
        wrong.extend(unused.map(|free| format!("{name}: nothing is like {free:?}")));
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[tokio::test]
async fn rows_that_are_missing_or_twice_are_found() {
    let ballast = live().await;
    let client = without_checks(&ballast).await;
    // What nothing else in the ledger knows of: the rules, a verdict that nobody has acted on, and what moved nothing.
    let unknown = [
        ("operations", "refused"),
        ("operations", "freeze"),
        ("card_rules", "code"),
        ("card_rules", "merchant"),
        ("card_verdicts", "kept"),
        ("card_verdicts", "unsettled"),
    ];
    for (table, rows) in ROWS {
        for (row, filter) in *rows {
            let findings = tamper(&client, &format!("DELETE FROM {table} WHERE {filter}")).await;
            let is_found = !findings.expect("a row").is_empty();
            assert_eq!(
                is_found,
                !unknown.contains(&(*table, *row)),
                "{table}, {row}"
            );
        }
    }

    // With its key a table has nothing twice; without, each row that is there twice is named.
    let keys = "SELECT conrelid::regclass::text, conname::text FROM pg_constraint
                WHERE contype = 'p' AND connamespace = 'public'::regnamespace";
    for key in client.query(keys, &[]).await.expect("the keys") {
        let (table, name): (&str, &str) = (key.get(0), key.get(1));
        if table == "schema_history" {
            continue;
        }
        client.batch_execute("BEGIN").await.expect("begun");
        let (row, filter) = rows_of(table)[0];
        let twice = format!(
            "ALTER TABLE {table} DROP CONSTRAINT {name};
             DROP INDEX IF EXISTS accounts_settlement;
             INSERT INTO {table} SELECT * FROM {table} WHERE {filter}"
        );
        client.batch_execute(&twice).await.expect("written twice");
        let findings = found(&client).await.join("\n");
        for expected in ["has no key", "has 2 rows with"] {
            let expected = format!("table {table} {expected}");
            assert!(findings.contains(&expected), "{table}, {row}: {findings}");
        }
        client.batch_execute("ROLLBACK").await.expect("undone");
    }
}

/// Several rows at once that still fit each other.
#[tokio::test]
async fn changes_that_fit_each_other_are_found_by_what_they_left_out() {
    let ballast = live().await;
    let client = without_checks(&ballast).await;
    let all_currencies = |code: &str| {
        format!(
            "UPDATE accounts SET currency_code = '{code}'; UPDATE balances SET currency_code = '{code}';
             UPDATE operations SET currency_code = '{code}',
                    refusal_facts = refusal_facts || CASE WHEN refusal_facts ? 'currency_code'
                                    THEN '{{\"currency_code\": \"{code}\"}}' ELSE '{{}}' END::jsonb"
        )
    };
    for (what, change, expected) in [
        (
            "all rows in no currency",
            all_currencies("ZZZ"),
            "accounts are in ZZZ",
        ),
        (
            "all rows in what is no currency",
            all_currencies("XTS"),
            "accounts are in XTS",
        ),
        (
            "money that was never there",
            "UPDATE operations SET amount = amount + 5, destination_posted_after = destination_posted_after + 5
             WHERE operation_id = 'food';
             UPDATE operations SET source_posted_after = source_posted_after + 5 WHERE operation_id = 'asked';
             UPDATE balances SET posted = posted + 10 WHERE account_id = 'a' AND category = 'FOOD'"
                .to_owned(),
            "balance a/FOOD",
        ),
        (
            "an overdraft that was always larger",
            "UPDATE balances SET overdraft_limit = 600 WHERE account_id = 'a' AND category = 'main'".to_owned(),
            "available after it",
        ),
        (
            "an account that nobody merged",
            "UPDATE balances SET closed = true WHERE account_id = 'f'".to_owned(),
            "account f: it is closed, and no operation closed it",
        ),
        (
            "a reversal of more than there was",
            "UPDATE operations SET amount = 1 WHERE operation_id = 'there-1'".to_owned(),
            "operation undo: the reversals of an operation move back more than it moved",
        ),
        (
            "legs that go back elsewhere",
            "UPDATE operations SET intent = replace(intent::text, '\"account_id\": \"b\"', '\"account_id\": \"f\"')::jsonb
             WHERE operation_id = 'undo-post'"
                .to_owned(),
            "operation undo-post: its legs are not those of what it reverses",
        ),
        (
            "a merge that never was",
            "UPDATE operations SET refusal_reason = 'ACCOUNT_CLOSED', refusal_facts = '{\"account_id\": \"b\"}'
             WHERE operation_id = 'merge-of-nothing'"
                .to_owned(),
            "account d: it is closed, and no operation closed it",
        ),
        (
            "a closed account that is in use",
            "UPDATE balances SET closed = false WHERE account_id = 'gone'".to_owned(),
            "account gone: an operation closed it, and it is not closed",
        ),
        (
            "an account that thawed by itself",
            "UPDATE balances SET debits_frozen = false WHERE account_id = 'ice'".to_owned(),
            "account ice: its debits are not as its last freeze says",
        ),
        (
            "a payment that kept its money",
            "DELETE FROM operations WHERE operation_id = 'reversed:reversal'".to_owned(),
            "it is settled, and the payment is not given back",
        ),
        (
            "a mistaken time that spreads",
            "UPDATE operations SET create_time = 'infinity' WHERE operation_id = 'last';
             UPDATE balances SET update_time = 'infinity' WHERE last_operation_id = 'last'"
                .to_owned(),
            "operation last: its time is not one",
        ),
    ] {
        client.batch_execute("BEGIN").await.expect("begun");
        client.batch_execute(&change).await.expect("changed");
        let findings = found(&client).await.join("\n");
        assert!(findings.contains(expected), "{what}: {findings}");
        client.batch_execute("ROLLBACK").await.expect("undone");
    }
    assert_eq!(found(&client).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_command_says_how_far_it_is_and_how_much_it_found() {
    let ballast = live().await;
    let (folder, url) = (
        tempfile::tempdir().expect("a folder"),
        ballast.database.url(),
    );
    let run = || binary::run(folder.path(), &["verify", "--database-url", &url]);
    let (code, stdout, stderr) = run();
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    for line in [
        "check 1 of 12, keys: 8 rows",
        "check 2 of 12, chains: ",
        "check 12 of 12, card rules: done in ",
    ] {
        assert!(stderr.contains(line), "{line}: {stderr}");
    }
    // Of many findings some are shown, and all are counted.
    let client = without_checks(&ballast).await;
    let many = "INSERT INTO entry_marks SELECT i * 16, now(), 'nobody', 'main', 'x' FROM generate_series(1, 1500) i";
    client.execute(many, &[]).await.expect("written");
    let (code, stdout, stderr) = run();
    assert_eq!(code, Some(1));
    assert!(
        stdout.contains("finding: 500 more findings of the check chains"),
        "{stdout}"
    );
    assert_eq!(stdout.matches("finding: mark nobody/main").count(), 1_000);
    assert!(stderr.contains("not in order: 1500 findings"), "{stderr}");
}
