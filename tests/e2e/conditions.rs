//! Conditions: a movement happens only if the balance has the expected version, and keeps what is to stay available.

use ballast::rpc::proto::{
    BalanceLimits, CreateAccountRequest, CreditRequest, DebitRequest, GetOperationRequest,
    TransferRequest,
};
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::*;

fn at_version(version: i64, request: DebitRequest) -> DebitRequest {
    DebitRequest {
        expected_version: Some(version),
        ..request
    }
}

#[tokio::test]
async fn an_unmet_condition_is_a_refusal_that_stays() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    open(&mut ballast, "b", 0).await;
    let balances = &mut ballast.balances;

    let stale = at_version(0, debit("stale", "a", 10));
    let refused = Rejection::of(balances.debit(stale.clone()).await)
        .expect(Code::FailedPrecondition, "VERSION_MISMATCH");
    let facts = [
        ("account_id", "a"),
        ("category", "main"),
        ("expected_version", "0"),
        ("version", "1"),
    ];
    assert_eq!(refused.facts(), facts);
    assert!(refused.has_precondition_failure);
    let met = at_version(1, debit("met", "a", 10));
    let first = balances.debit(met.clone()).await.expect("posted");
    let first = first.into_inner();
    let operation = first.operation.clone().expect("an operation");
    assert_eq!(operation.expected_version, Some(1));

    // A replay gets the first answer, although the version is another one by now; without the condition it is no replay.
    let again = balances.debit(met.clone()).await.expect("replayed");
    let again = again.into_inner();
    assert_eq!((again.replayed, again.operation), (true, first.operation));
    let without = Rejection::of(balances.debit(debit("met", "a", 10)).await)
        .expect(Code::AlreadyExists, "OPERATION_ID_REUSED");
    assert_eq!(without.metadata["fields"], "expected_version");
    let mut sibling = ballast.sibling().await;
    let late = Rejection::of(sibling.balances.debit(stale).await);
    assert_eq!(late, refused);

    let balances = &mut ballast.balances;
    let keeping = |id: &str, min| TransferRequest {
        min_available_after_minor_units: Some(min),
        ..transfer(id, "a", "b", 40)
    };
    let refused = Rejection::of(balances.transfer(keeping("low", 51)).await)
        .expect(Code::FailedPrecondition, "MIN_AVAILABLE_NOT_MET");
    let facts = [
        ("account_id", "a"),
        ("available_after_minor_units", "50"),
        ("category", "main"),
        ("currency_code", "EUR"),
        ("min_available_after_minor_units", "51"),
    ];
    assert_eq!(refused.facts(), facts);
    let kept = balances.transfer(keeping("enough", 50)).await;
    kept.expect("exactly what is to stay stays");
    // Of a credit it is the version of what receives.
    let expecting = |id: &str, version| CreditRequest {
        expected_version: Some(version),
        ..credit(id, "b", 1)
    };
    let refused = Rejection::of(balances.credit(expecting("b-stale", 0)).await);
    refused.expect(Code::FailedPrecondition, "VERSION_MISMATCH");
    let credited = balances.credit(expecting("b-met", 1)).await;
    credited.expect("posted");
    let asked = GetOperationRequest {
        operation_id: "low".to_owned(),
        ..GetOperationRequest::default()
    };
    let found = balances.get_operation(asked).await.expect("known");
    let found = found.into_inner().operation.expect("an operation");
    assert_eq!(found.min_available_after_minor_units, Some(51));
    ballast.assert_in_order().await;
}

/// The condition is about the category that pays, and what is missing altogether is said first.
#[tokio::test]
async fn the_category_that_pays_has_to_keep_it() {
    let mut ballast = Ballast::start().await;
    let request = CreateAccountRequest {
        limits: vec![BalanceLimits {
            category: "MEAL".to_owned(),
            overdraft_limit_minor_units: 30,
            balance_limit_minor_units: None,
        }],
        ..account("a")
    };
    let opened = ballast.accounts.create_account(request).await;
    opened.expect("opened");
    let balances = &mut ballast.balances;
    balances
        .credit(credit("c", "a", 100))
        .await
        .expect("posted");
    let pay = |id: &str, amount, min| DebitRequest {
        categories: strings(["MEAL", "main"]),
        min_available_after_minor_units: Some(min),
        ..debit(id, "a", amount)
    };
    let refused = Rejection::of(balances.debit(pay("much", 101, 1_000)).await);
    refused.expect(Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
    let refused = Rejection::of(balances.debit(pay("meal", 20, 11)).await);
    let refused = refused.expect(Code::FailedPrecondition, "MIN_AVAILABLE_NOT_MET");
    assert_eq!(refused.metadata["category"], "MEAL");
    assert_eq!(refused.metadata["available_after_minor_units"], "10");
    balances.debit(pay("main", 40, 60)).await.expect("posted");
    let mut negative = pay("negative", 1, -1);
    negative.expected_version = Some(-1);
    let rejection = Rejection::of(balances.debit(negative).await)
        .expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    let fields = ["expected_version", "min_available_after_minor_units"];
    assert_eq!(rejection.fields, fields);
    ballast.assert_in_order().await;
}

/// Many callers of two instances change one balance, each only as it read it: of each version one succeeds.
#[tokio::test]
async fn of_racing_callers_one_changes_each_version() {
    const CALLERS: usize = 8;
    const CHANGES: i64 = 40;
    let mut ballast = Ballast::start().await;
    let sibling = ballast.sibling().await;
    open(&mut ballast, "a", 1_000).await;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let instance = if caller % 2 == 0 { &ballast } else { &sibling };
        let mut balances = instance.own_balances();
        callers.spawn(async move {
            let mut won = 0;
            for version in 1..=CHANGES {
                let id = format!("{version}-{caller}");
                let request = at_version(version, debit(&id, "a", 1));
                match balances.debit(request).await {
                    Ok(_) => won += 1,
                    Err(status) => {
                        let refused = Rejection::of_status(&status);
                        let refused = refused.expect(Code::FailedPrecondition, "VERSION_MISMATCH");
                        let found: i64 = refused.metadata["version"].parse().expect("a version");
                        assert!(found > version, "{found} {version}");
                    }
                }
            }
            won
        });
    }
    let mut won = 0;
    while let Some(count) = callers.join_next().await {
        won += count.expect("no caller fails");
    }
    assert_eq!(won, CHANGES);
    assert_eq!(posted(&mut ballast.balances, "a").await, 1_000 - CHANGES);
    ballast.assert_in_order().await;
}
