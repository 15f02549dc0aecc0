//! Limits that change: by an operation, only to what the balance keeps, or on purpose to what it does not keep yet.

use ballast::rpc::proto::{
    Balance, BalanceLimits, GetBalanceRequest, OperationKind, UpdateAccountRequest,
    UpdateAccountResponse,
};
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::*;

fn limits(category: &str, overdraft: i64, balance: Option<i64>) -> BalanceLimits {
    BalanceLimits {
        category: category.to_owned(),
        overdraft_limit_minor_units: overdraft,
        balance_limit_minor_units: balance,
    }
}

fn update(id: &str, limits: &[BalanceLimits]) -> UpdateAccountRequest {
    UpdateAccountRequest {
        operation_id: id.to_owned(),
        account_id: "a".to_owned(),
        limits: limits.to_vec(),
        ..UpdateAccountRequest::default()
    }
}

fn with_breach(request: UpdateAccountRequest) -> UpdateAccountRequest {
    UpdateAccountRequest {
        allow_breach: true,
        ..request
    }
}

fn only(path: &str, request: UpdateAccountRequest) -> UpdateAccountRequest {
    UpdateAccountRequest {
        update_mask: Some(prost_types::FieldMask {
            paths: vec![path.to_owned()],
        }),
        ..request
    }
}

async fn updated(ballast: &mut Ballast, request: UpdateAccountRequest) -> UpdateAccountResponse {
    let answer = ballast.accounts.update_account(request).await;
    answer.expect("updated").into_inner()
}

fn limits_of(balance: &Balance) -> (i64, Option<i64>) {
    let overdraft = balance.overdraft_limit_minor_units;
    (overdraft, balance.balance_limit_minor_units)
}

#[tokio::test]
async fn limits_change_by_an_operation_with_an_entry_of_zero() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    let request = update(
        "up",
        &[limits("", 50, Some(500)), limits("MEAL", 0, Some(70))],
    );
    let first = updated(&mut ballast, request.clone()).await;
    let operation = first.operation.clone().expect("an operation");
    assert_eq!(operation.kind(), OperationKind::Update);
    let change = operation.account_change.clone().expect("a change");
    assert_eq!(change.limits.len(), 2);
    let entries: Vec<_> = first
        .entries
        .iter()
        .map(|entry| {
            (
                entry.category.as_str(),
                entry.amount_minor_units,
                entry.version,
            )
        })
        .collect();
    assert_eq!(entries, [("main", 0, 2), ("MEAL", 0, 1)]);
    assert_eq!(first.balances[0].available_minor_units, 150);
    let balance = balance_of(&mut ballast.balances, "a", "").await;
    assert_eq!(limits_of(&balance), (50, Some(500)));
    let balance = balance_of(&mut ballast.balances, "a", "MEAL").await;
    assert_eq!(limits_of(&balance), (0, Some(70)));

    let deep = ballast.balances.debit(debit("deep", "a", 150)).await;
    deep.expect("the overdraft pays");
    let mut meal = credit("meal", "a", 71);
    "MEAL".clone_into(&mut meal.category);
    let refused = Rejection::of(ballast.balances.credit(meal).await);
    refused.expect(Code::FailedPrecondition, "BALANCE_LIMIT_EXCEEDED");

    // Again, on another instance.
    let mut sibling = ballast.sibling().await;
    let again = updated(&mut sibling, request.clone()).await;
    let replayed = UpdateAccountResponse {
        replayed: true,
        ..first.clone()
    };
    assert_eq!(again, replayed);
    let other = with_breach(update("up", &request.limits[..1]));
    let reused = Rejection::of(ballast.accounts.update_account(other).await)
        .expect(Code::AlreadyExists, "OPERATION_ID_REUSED");
    assert_eq!(reused.metadata["fields"], "limits,allow_breach");

    // What the mask leaves out stays; what it names and the request leaves out is no limit.
    let mask = only(
        "balance_limit_minor_units",
        update("free", &[limits("", 0, None)]),
    );
    updated(&mut ballast, mask).await;
    let balance = balance_of(&mut ballast.balances, "a", "").await;
    assert_eq!(limits_of(&balance), (50, None));
    // What was available then, under the limits of then.
    let then = GetBalanceRequest {
        account_id: "a".to_owned(),
        category: String::new(),
        at_time: operation.create_time,
    };
    let then = ballast.balances.get_balance(then).await.expect("known");
    let then = then.into_inner().balance.expect("a balance");
    assert_eq!(then.available_minor_units, 150);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_breach_is_refused_or_allowed_and_then_only_gets_smaller() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    updated(&mut ballast, update("start", &[limits("", 100, None)])).await;
    let balances = &mut ballast.balances;
    balances.debit(debit("owe", "a", 80)).await.expect("posted");

    let lower = update("lower", &[limits("", 30, None)]);
    let refused = Rejection::of(ballast.accounts.update_account(lower).await)
        .expect(Code::FailedPrecondition, "OVERDRAFT_IN_USE");
    let facts = [
        ("account_id", "a"),
        ("category", "main"),
        ("currency_code", "EUR"),
        ("overdraft_limit_minor_units", "30"),
        ("used_minor_units", "80"),
    ];
    assert_eq!(refused.facts(), facts);
    assert!(refused.has_precondition_failure);
    let lower = with_breach(update("breach", &[limits("", 30, None)]));
    let answer = updated(&mut ballast, lower).await;
    assert_eq!(answer.balances[0].available_minor_units, -50);
    let balances = &mut ballast.balances;
    let more = Rejection::of(balances.debit(debit("more", "a", 1)).await);
    more.expect(Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
    let less = balances.credit(credit("less", "a", 20)).await;
    less.expect("it owes less, and still too much");
    ballast.assert_in_order().await;
    let balances = &mut ballast.balances;
    let enough = balances.credit(credit("enough", "a", 140)).await;
    enough.expect("it has 80");
    balances
        .debit(debit("spend", "a", 100))
        .await
        .expect("posted");
    let deep = Rejection::of(balances.debit(debit("deep", "a", 11)).await);
    deep.expect(Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
    balances
        .credit(credit("rich", "a", 100))
        .await
        .expect("posted");

    // The same above a balance limit.
    let cap = update("cap", &[limits("", 0, Some(60))]);
    let refused = Rejection::of(ballast.accounts.update_account(cap).await)
        .expect(Code::FailedPrecondition, "BALANCE_ABOVE_LIMIT");
    assert_eq!(refused.metadata["posted_minor_units"], "80");
    let cap = with_breach(update("cap-breach", &[limits("", 0, Some(60))]));
    updated(&mut ballast, cap).await;
    let balances = &mut ballast.balances;
    let more = Rejection::of(balances.credit(credit("too-much", "a", 1)).await);
    more.expect(Code::FailedPrecondition, "BALANCE_LIMIT_EXCEEDED");
    balances
        .debit(debit("down", "a", 10))
        .await
        .expect("posted");
    ballast.assert_in_order().await;
    let balances = &mut ballast.balances;
    balances
        .debit(debit("kept", "a", 30))
        .await
        .expect("posted");
    balances
        .credit(credit("up-to", "a", 20))
        .await
        .expect("posted");
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn each_broken_rule_is_named() {
    let mut ballast = Ballast::start().await;
    let empty = Rejection::of(ballast.accounts.update_account(update("op", &[])).await)
        .expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(empty.fields, ["limits"]);
    let request = only("labels", update("op", &[limits("", -1, Some(-1))]));
    let rejection = Rejection::of(ballast.accounts.update_account(request).await)
        .expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    let fields = [
        "update_mask",
        "limits[0].overdraft_limit_minor_units",
        "limits[0].balance_limit_minor_units",
    ];
    assert_eq!(rejection.fields, fields);
}

/// Limits go up and down while others debit and credit, on two instances: whatever the order, the ledger fits.
#[tokio::test]
async fn limits_change_under_load() {
    let mut ballast = Ballast::start().await;
    let sibling = ballast.sibling().await;
    open(&mut ballast, "a", 100).await;
    let mut callers = JoinSet::new();
    for caller in 0..12 {
        let instance = if caller % 2 == 0 { &ballast } else { &sibling };
        let mut balances = instance.own_balances();
        let mut accounts = instance.accounts.clone();
        callers.spawn(async move {
            for number in 0..25_i64 {
                let id = format!("{caller}-{number}");
                let answer = match caller % 3 {
                    0 => balances.debit(debit(&id, "a", 40)).await.map(drop),
                    1 => balances.credit(credit(&id, "a", 35)).await.map(drop),
                    _ => {
                        let cap = (number % 2 == 0).then_some(90 + number);
                        let mut request = update(&id, &[limits("", number % 5 * 30, cap)]);
                        request.allow_breach = number % 3 != 0;
                        accounts.update_account(request).await.map(drop)
                    }
                };
                if let Err(status) = answer {
                    let refused = Rejection::of_status(&status);
                    assert!(refused.has_precondition_failure, "{refused:?}");
                }
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.expect("no caller fails");
    }
    ballast.assert_in_order().await;
}
