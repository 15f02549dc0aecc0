//! MergeAccounts: everything of one account goes to another in one operation, and the first account closes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ballast::rpc::proto::list_operations_request::Filter;
use ballast::rpc::proto::transfer_request::Destination;
use ballast::rpc::proto::{
    AccountState, BalanceLimits, CreateAccountRequest, CreditRequest, GetOperationRequest,
    ListOperationsRequest, MergeAccountsRequest, MergeAccountsResponse, Operation, OperationKind,
    OperationState, TransferRequest,
};
use tonic::Code;

use crate::support::instance::Balances;
use crate::support::*;

fn credit_of(operation_id: &str, account_id: &str, category: &str, amount: i64) -> CreditRequest {
    CreditRequest {
        category: category.to_owned(),
        ..credit(operation_id, account_id, amount)
    }
}

async fn merged(
    balances: &mut Balances,
    operation_id: &str,
    from: &str,
    to: &str,
) -> MergeAccountsResponse {
    let answer = balances.merge_accounts(merge(operation_id, from, to)).await;
    answer.expect("merged").into_inner()
}

/// a with FOOD 30, MEAL 0 and main 100; b with FOOD 5 and main 7.
async fn two_accounts(ballast: &mut Ballast) {
    open(ballast, "a", 100).await;
    open(ballast, "b", 7).await;
    let credits = [
        credit_of("a-food", "a", "FOOD", 30),
        credit_of("a-meal", "a", "MEAL", 4),
        credit_of("b-food", "b", "FOOD", 5),
    ];
    for request in credits {
        ballast.balances.credit(request).await.expect("credited");
    }
    let mut emptied = debit("a-eats", "a", 4);
    emptied.categories = strings(["MEAL"]);
    ballast.balances.debit(emptied).await.expect("debited");
}

async fn history(balances: &mut Balances, account_id: &str) -> Vec<Operation> {
    let request = ListOperationsRequest {
        filter: Some(Filter::AccountId(account_id.to_owned())),
        ..ListOperationsRequest::default()
    };
    let listed = balances.list_operations(request).await;
    listed.expect("a page").into_inner().operations
}

#[tokio::test]
async fn all_categories_move_at_once_and_the_source_closes() {
    let mut ballast = Ballast::start().await;
    two_accounts(&mut ballast).await;
    let first = merged(&mut ballast.balances, "m", "a", "b").await;
    assert!(!first.replayed);
    let operation = first.operation.clone().expect("an operation");
    assert_eq!(operation.kind(), OperationKind::Merge);
    assert_eq!(operation.state(), OperationState::Posted);
    assert_eq!(operation.amount, None);
    let entries: Vec<_> = first
        .entries
        .iter()
        .map(|entry| {
            let name = format!("{}/{}", entry.account_id, entry.category);
            let (amount, after) = (entry.amount_minor_units, entry.posted_after_minor_units);
            (name, entry.version, amount, after)
        })
        .collect();
    let entry = |name: &str, version, amount, after| (name.to_owned(), version, amount, after);
    assert_eq!(
        entries,
        [
            entry("a/FOOD", 2, -30, 0),
            entry("b/FOOD", 2, 30, 35),
            entry("a/main", 2, -100, 0),
            entry("b/main", 2, 100, 107),
        ]
    );
    let after: Vec<_> = first
        .balances
        .iter()
        .map(|b| b.available_minor_units)
        .collect();
    assert_eq!(after, [0, 35, 0, 107]);

    // The same again, and what anyone reads of it.
    let again = merged(&mut ballast.balances, "m", "a", "b").await;
    assert!(again.replayed);
    assert_eq!(
        (&again.operation, &again.entries, &again.balances),
        (&first.operation, &first.entries, &first.balances)
    );
    let request = GetOperationRequest {
        operation_id: "m".to_owned(),
        ..GetOperationRequest::default()
    };
    let read = ballast.balances.get_operation(request).await;
    let read = read.expect("recorded").into_inner();
    assert_eq!(
        (&read.operation, &read.entries),
        (&first.operation, &first.entries)
    );
    for account_id in ["a", "b"] {
        let listed = history(&mut ballast.balances, account_id).await;
        assert_eq!(listed[0], operation, "of {account_id}, once");
        assert_eq!(listed.iter().filter(|o| o.operation_id == "m").count(), 1);
    }

    let source = account_of(&mut ballast.accounts, "a").await;
    assert_eq!(source.state(), AccountState::Closed);
    assert!(source.balances.iter().all(|b| b.posted_minor_units == 0));
    for request in [
        transfer("late-1", "a", "b", 1),
        transfer("late-2", "b", "a", 1),
    ] {
        Rejection::of(ballast.balances.transfer(request).await)
            .expect(Code::FailedPrecondition, "ACCOUNT_CLOSED");
    }
    ballast.assert_in_order().await;

    // Another instance, as after a restart, gives the same answer.
    let database = ballast.database.clone();
    assert!(ballast.stopped().await);
    let mut ballast = Ballast::start_on(database, |_| {}).await;
    let again = merged(&mut ballast.balances, "m", "a", "b").await;
    assert!(again.replayed);
    assert_eq!(again.entries, first.entries);
}

#[tokio::test]
async fn an_empty_account_merges_and_is_in_the_history() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    open(&mut ballast, "b", 7).await;
    let answer = merged(&mut ballast.balances, "m", "a", "b").await;
    assert_eq!((answer.entries.len(), answer.balances.len()), (0, 0));
    assert!(merged(&mut ballast.balances, "m", "a", "b").await.replayed);
    for account_id in ["a", "b"] {
        let listed = history(&mut ballast.balances, account_id).await;
        assert_eq!(Some(&listed[0]), answer.operation.as_ref());
    }
    let source = account_of(&mut ballast.accounts, "a").await;
    assert_eq!(source.state(), AccountState::Closed);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_merge_creates_the_categories_that_the_destination_has_not() {
    let mut ballast = Ballast::start().await;
    two_accounts(&mut ballast).await;
    open(&mut ballast, "c", 0).await;
    merged(&mut ballast.balances, "m", "a", "c").await;
    assert_eq!(
        balance_of(&mut ballast.balances, "c", "FOOD")
            .await
            .posted_minor_units,
        30
    );
    assert_eq!(posted(&mut ballast.balances, "c").await, 100);
    merged(&mut ballast.balances, "n", "c", "b").await;
    assert_eq!(
        balance_of(&mut ballast.balances, "b", "FOOD")
            .await
            .posted_minor_units,
        35
    );
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn an_id_means_one_merge() {
    let mut ballast = Ballast::start().await;
    for name in ["a", "b", "c"] {
        open(&mut ballast, name, 10).await;
    }
    merged(&mut ballast.balances, "m", "a", "b").await;
    let reused = |rejection: Rejection, fields: &str| {
        let rejection = rejection.expect(Code::AlreadyExists, "OPERATION_ID_REUSED");
        assert_eq!(
            rejection.facts(),
            [("fields", fields), ("operation_id", "m")]
        );
    };
    let other = ballast.balances.merge_accounts(merge("m", "a", "c")).await;
    reused(Rejection::of(other), "destination_account_id");
    let described = MergeAccountsRequest {
        description: "other".to_owned(),
        ..merge("m", "a", "b")
    };
    let other = ballast.balances.merge_accounts(described).await;
    reused(Rejection::of(other), "description");
    let other = ballast.balances.transfer(transfer("m", "a", "b", 10)).await;
    reused(
        Rejection::of(other),
        "kind,source_categories,destination_category,amount.minor_units",
    );
    let other = ballast
        .balances
        .merge_accounts(merge("b-opening", "b", "c"))
        .await;
    reused_of_a_credit(Rejection::of(other));
    ballast.assert_in_order().await;
}

fn reused_of_a_credit(rejection: Rejection) {
    let rejection = rejection.expect(Code::AlreadyExists, "OPERATION_ID_REUSED");
    let fields = rejection.facts()[0].1.to_owned();
    assert!(fields.starts_with("kind,source_account_id"), "{fields}");
}

#[tokio::test]
async fn what_cannot_be_merged_is_refused_and_nothing_moves() {
    let mut ballast = Ballast::start().await;
    two_accounts(&mut ballast).await;
    let limited = CreateAccountRequest {
        limits: vec![BalanceLimits {
            category: "FOOD".to_owned(),
            overdraft_limit_minor_units: 0,
            balance_limit_minor_units: Some(29),
        }],
        ..account("full")
    };
    let overdrawn = CreateAccountRequest {
        limits: vec![BalanceLimits {
            category: String::new(),
            overdraft_limit_minor_units: 50,
            balance_limit_minor_units: None,
        }],
        ..account("debtor")
    };
    let dollars = CreateAccountRequest {
        currency_code: "USD".to_owned(),
        ..account("dollars")
    };
    for request in [limited, overdrawn, dollars] {
        ballast
            .accounts
            .create_account(request)
            .await
            .expect("opened");
    }
    for name in ["debits-frozen", "credits-frozen", "closed", "holding"] {
        open(&mut ballast, name, 0).await;
    }
    let spent = debit("spent", "debtor", 20);
    ballast.balances.debit(spent).await.expect("debited");
    let sql = ballast.database.sql().await;
    sql.batch_execute(
        "UPDATE balances SET debits_frozen = true WHERE account_id = 'debits-frozen';
         UPDATE balances SET credits_frozen = true WHERE account_id = 'credits-frozen';
         UPDATE balances SET closed = true WHERE account_id = 'closed';
         UPDATE balances SET posted = 5, held = 5 WHERE account_id = 'holding'",
    )
    .await
    .expect("prepared");

    let rows = [
        ("a", "full", "BALANCE_LIMIT_EXCEEDED", true),
        ("debtor", "b", "BALANCE_NEGATIVE", true),
        ("debits-frozen", "b", "ACCOUNT_FROZEN", true),
        ("a", "credits-frozen", "ACCOUNT_FROZEN", true),
        ("closed", "b", "ACCOUNT_CLOSED", true),
        ("a", "closed", "ACCOUNT_CLOSED", true),
        ("holding", "b", "HOLDS_OPEN", true),
        ("a", "dollars", "CURRENCY_MISMATCH", false),
    ];
    for (from, to, reason, is_recorded) in rows {
        let id = format!("{from}-{to}");
        let request = merge(&id, from, to);
        for _ in 0..2 {
            let answer = ballast.balances.merge_accounts(request.clone()).await;
            Rejection::of(answer).expect(Code::FailedPrecondition, reason);
        }
        let listed = history(&mut ballast.balances, from).await;
        let found = listed.iter().find(|operation| operation.operation_id == id);
        assert_eq!(found.is_some(), is_recorded, "{id}");
        if let Some(operation) = found {
            assert_eq!(operation.state(), OperationState::Refused);
            assert_eq!(operation.kind(), OperationKind::Merge);
        }
    }
    let unknown = ballast
        .balances
        .merge_accounts(merge("x", "a", "nobody"))
        .await;
    Rejection::of(unknown).expect(Code::NotFound, "ACCOUNT_NOT_FOUND");
    let same = ballast.balances.merge_accounts(merge("x", "a", "a")).await;
    let same = Rejection::of(same).expect(Code::InvalidArgument, "SAME_BALANCE");
    assert_eq!(same.fields, ["destination_account_id"]);
    assert_eq!(same.facts(), [("account_id", "a")]);
    let empty = ballast.balances.merge_accounts(merge("", "", "")).await;
    let empty = Rejection::of(empty).expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(
        empty.fields,
        [
            "operation_id",
            "source_account_id",
            "destination_account_id"
        ]
    );

    assert_eq!(posted(&mut ballast.balances, "a").await, 100);
    assert_eq!(posted(&mut ballast.balances, "full").await, 0);
    sql.batch_execute(
        "UPDATE balances SET posted = 0, held = 0 WHERE account_id = 'holding';
         UPDATE balances SET closed = false WHERE account_id = 'closed'",
    )
    .await
    .expect("restored");
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn the_settlement_of_an_owner_goes_to_the_owner_s_other_account_and_to_nobody_else() {
    let mut ballast = Ballast::start().await;
    let owned = |account_id: &str, settlement| CreateAccountRequest {
        owner_id: "ann".to_owned(),
        settlement,
        ..account(account_id)
    };
    for request in [
        owned("old", true),
        owned("new", false),
        owned("newest", false),
    ] {
        ballast
            .accounts
            .create_account(request)
            .await
            .expect("opened");
    }
    open(&mut ballast, "of-ben", 50).await;
    let answer = ballast
        .balances
        .merge_accounts(merge("m-1", "old", "of-ben"))
        .await;
    let rejection = Rejection::of(answer).expect(Code::FailedPrecondition, "SETTLEMENT_ACCOUNT");
    assert_eq!(
        rejection.facts(),
        [("account_id", "old"), ("owner_id", "ann")]
    );

    let to_ann = |id: &str| TransferRequest {
        destination: Some(Destination::DestinationOwnerId("ann".to_owned())),
        ..transfer(id, "of-ben", "", 10)
    };
    let (first, second) = (to_ann("t-1"), to_ann("t-2"));
    ballast
        .balances
        .transfer(first.clone())
        .await
        .expect("posted");
    merged(&mut ballast.balances, "m-2", "old", "new").await;
    merged(&mut ballast.balances, "m-3", "new", "newest").await;
    let settles = async |name: &str, accounts: &mut _| account_of(accounts, name).await.settlement;
    for (name, expected) in [("old", false), ("new", false), ("newest", true)] {
        assert_eq!(
            settles(name, &mut ballast.accounts).await,
            expected,
            "{name}"
        );
    }
    ballast.balances.transfer(second).await.expect("posted");
    assert_eq!(posted(&mut ballast.balances, "newest").await, 20);
    let replay = ballast
        .balances
        .transfer(first)
        .await
        .expect("the first answer");
    assert!(replay.into_inner().replayed);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn of_two_merges_in_opposite_directions_one_wins() {
    let mut ballast = Ballast::start().await;
    let mut other = ballast.sibling().await;
    for round in 0..10 {
        let [a, b] = ["a", "b"].map(|name| format!("{name}-{round}"));
        for name in [&a, &b] {
            open(&mut ballast, name, 10).await;
        }
        let (there, back) = (format!("there-{round}"), format!("back-{round}"));
        let (first, second) = tokio::join!(
            ballast.balances.merge_accounts(merge(&there, &a, &b)),
            other.balances.merge_accounts(merge(&back, &b, &a)),
        );
        assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
        let loser = if first.is_ok() { second } else { first };
        Rejection::of(loser).expect(Code::FailedPrecondition, "ACCOUNT_CLOSED");
        let sum = posted(&mut ballast.balances, &a).await + posted(&mut ballast.balances, &b).await;
        assert_eq!(sum, 20);
    }
    let sql = ballast.database.sql().await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let deadlocks: i64 = sql.query_one(deadlocks, &[]).await.expect("a count").get(0);
    assert_eq!(deadlocks, 0);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn the_same_merge_at_two_instances_happens_once() {
    let mut ballast = Ballast::start().await;
    let mut other = ballast.sibling().await;
    for round in 0..10 {
        let (a, b) = (format!("a-{round}"), format!("b-{round}"));
        open(&mut ballast, &a, 10).await;
        open(&mut ballast, &b, 0).await;
        let request = merge(&format!("m-{round}"), &a, &b);
        let (first, second) = tokio::join!(
            ballast.balances.merge_accounts(request.clone()),
            other.balances.merge_accounts(request),
        );
        let answers = [first, second].map(|answer| answer.expect("merged").into_inner());
        assert_eq!(answers.iter().filter(|answer| answer.replayed).count(), 1);
        assert_eq!(answers[0].entries, answers[1].entries);
        assert_eq!(posted(&mut ballast.balances, &b).await, 10);
    }
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_merge_among_running_transfers_loses_no_money() {
    let mut ballast = Ballast::start().await;
    let other = ballast.sibling().await;
    for name in ["a", "b", "c"] {
        open(&mut ballast, name, 1_000).await;
    }
    let merged_yet = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..12)
        .map(|client: usize| {
            let instance = if client.is_multiple_of(2) {
                &ballast
            } else {
                &other
            };
            let (mut balances, merged_yet) = (instance.own_balances(), merged_yet.clone());
            tokio::spawn(async move {
                let names = ["a", "b", "c"];
                let (from, to) = (names[client % 3], names[(client + 1 + client / 6) % 3]);
                let (mut before, mut refused) = (0, 0);
                // Some before, some across, some after the merge.
                for index in 0.. {
                    let is_after = merged_yet.load(Ordering::Acquire);
                    let request = transfer(&format!("t-{client}-{index}"), from, to, 1);
                    match balances.transfer(request).await {
                        Ok(_) => before += usize::from(!is_after),
                        Err(status) => {
                            let rejection = Rejection::of_status(&status);
                            match rejection.reason.as_str() {
                                "ACCOUNT_CLOSED" => refused += 1,
                                "CONTENTION" => {}
                                other => panic!("{other}"),
                            }
                        }
                    }
                    if is_after && index > 20 {
                        break;
                    }
                }
                (before, refused)
            })
        })
        .collect();
    let sql = ballast.database.sql().await;
    let count = "SELECT count(*) FROM operations WHERE kind = 'TRANSFER'";
    while sql
        .query_one(count, &[])
        .await
        .expect("a count")
        .get::<_, i64>(0)
        < 50
    {
        tokio::task::yield_now().await;
    }
    let answer = loop {
        match ballast.balances.merge_accounts(merge("m", "a", "b")).await {
            Ok(answer) => break answer.into_inner(),
            Err(status) => {
                Rejection::of_status(&status).expect(Code::Aborted, "CONTENTION");
            }
        }
    };
    merged_yet.store(true, Ordering::Release);
    assert!(!answer.replayed);
    let (mut before, mut refused) = (0, 0);
    for client in clients {
        let counts = client.await.expect("no surprise");
        before += counts.0;
        refused += counts.1;
    }
    assert!(before > 0 && refused > 0, "{before} {refused}");
    assert_eq!(posted(&mut ballast.balances, "a").await, 0);
    let rest = posted(&mut ballast.balances, "b").await + posted(&mut ballast.balances, "c").await;
    assert_eq!(rest, 3_000);
    ballast.assert_in_order().await;
}
