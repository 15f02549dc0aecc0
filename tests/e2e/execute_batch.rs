//! ExecuteBatch: many operations in one call, each with the outcome that its own RPC would have given it.

use std::time::Duration;

use ballast::rpc::proto::operation_request::Request as Kind;
use ballast::rpc::proto::operation_result::Outcome;
use ballast::rpc::proto::transfer_request::Destination;
use ballast::rpc::proto::{
    BalanceLimits, CreateAccountRequest, CreditRequest, Money, OperationRequest, OperationResult,
    TransferRequest,
};
use prost::Message;
use tonic::{Code, Status};

use crate::support::errors::assert_same;
use crate::support::*;

/// The error of the operation's own RPC.
async fn unary_error(ballast: &Ballast, operation: OperationRequest) -> Status {
    let mut balances = ballast.balances.clone();
    let answer = match operation.request.expect("an operation") {
        Kind::Debit(debit) => balances.debit(*debit).await.map(drop),
        Kind::Credit(credit) => balances.credit(*credit).await.map(drop),
        Kind::Transfer(transfer) => balances.transfer(*transfer).await.map(drop),
        Kind::Post(post) => balances.post_operation(*post).await.map(drop),
        Kind::Reverse(reverse) => balances.reverse_operation(*reverse).await.map(drop),
    };
    answer.expect_err("its own RPC gives an error too")
}

fn ids(results: &[OperationResult]) -> Vec<&str> {
    results
        .iter()
        .map(|result| result.operation_id.as_str())
        .collect()
}

async fn transaction_count(ballast: &Ballast) -> i64 {
    let count = "SELECT count(DISTINCT xmin::text) FROM operations";
    let sql = ballast.database.sql().await;
    sql.query_one(count, &[]).await.expect("a count").get(0)
}

#[tokio::test]
async fn each_member_has_the_outcome_of_its_own_rpc_in_the_order_of_the_request() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 1_000).await;
    open(&mut ballast, "b", 0).await;
    for (name, settlement, limit) in [("shop", true, None), ("jar", false, Some(5))] {
        let limits = BalanceLimits {
            balance_limit_minor_units: limit,
            ..BalanceLimits::default()
        };
        let request = CreateAccountRequest {
            settlement,
            limits: vec![limits],
            ..account(name)
        };
        ballast
            .accounts
            .create_account(request)
            .await
            .expect("opened");
    }
    for (name, state) in [("frozen", "debits_frozen"), ("closed", "closed")] {
        open(&mut ballast, name, 0).await;
        let freeze = format!("UPDATE balances SET {state} = true WHERE account_id = '{name}'");
        let sql = ballast.database.sql().await;
        sql.batch_execute(&freeze).await.expect("a state is set");
    }
    let to_owner = |operation_id: &str, owner: &str| {
        member(Kind::from(TransferRequest {
            destination: Some(Destination::DestinationOwnerId(owner.to_owned())),
            ..transfer(operation_id, "a", "", 3)
        }))
    };
    let moved = |operation_id: &str, from: &str, to: &str, minor_units| {
        member(Kind::from(transfer(operation_id, from, to, minor_units)))
    };
    let dollars = CreditRequest {
        amount: Some(Money {
            currency_code: "USD".to_owned(),
            minor_units: 1,
        }),
        ..credit("dollars", "a", 1)
    };
    let long = "x".repeat(100);
    let rows = [
        ("", debit_member("first", "a", 10)),
        ("INVALID_ARGUMENT", debit_member("bad", "a", -1)),
        ("INSUFFICIENT_FUNDS", debit_member("poor", "b", 1_000)),
        ("", moved("second", "a", "b", 20)),
        ("INVALID_ARGUMENT", debit_member(&long, "a b", 1)),
        (
            "INVALID_ARGUMENT",
            member(Kind::from(TransferRequest::default())),
        ),
        ("SAME_BALANCE", moved("same", "a", "a", 1)),
        ("ACCOUNT_NOT_FOUND", credit_member("nobody", "nobody", 1)),
        ("ACCOUNT_NOT_FOUND", to_owner("no-owner", "nobody")),
        ("", to_owner("third", "shop-owner")),
        ("CURRENCY_MISMATCH", member(Kind::from(dollars))),
        ("OPERATION_ID_REUSED", credit_member("a-opening", "a", 1)),
        ("BALANCE_LIMIT_EXCEEDED", credit_member("full", "jar", 6)),
        ("ACCOUNT_FROZEN", debit_member("cold", "frozen", 1)),
        ("ACCOUNT_CLOSED", credit_member("late", "closed", 1)),
        ("", credit_member("fourth", "b", 5)),
    ];
    let operations: Vec<_> = rows
        .iter()
        .map(|(_, operation)| operation.clone())
        .collect();
    let results = execute(&mut ballast.balances, operations).await;
    let cut = "x".repeat(64);
    assert_eq!(
        ids(&results),
        [
            "first",
            "bad",
            "poor",
            "second",
            &cut,
            "",
            "same",
            "nobody",
            "no-owner",
            "third",
            "dollars",
            "a-opening",
            "full",
            "cold",
            "late",
            "fourth"
        ]
    );
    for ((reason, operation), result) in rows.into_iter().zip(&results) {
        if reason.is_empty() {
            assert!(!posted_of(result).replayed);
        } else {
            let error = error_of(result);
            assert_eq!(error.reason, reason);
            // A refusal is recorded, so its own RPC replays it; what is not recorded is found again.
            assert_same(error, &unary_error(&ballast, operation).await);
        }
    }
    let violations = &error_of(&results[1]).field_violations;
    assert_eq!(violations[0].field, "amount.minor_units");
    let moved = &posted_of(&results[3]).balances;
    let shown = |index: usize| (moved[index].account_id.as_str(), moved[index].version);
    assert_eq!((shown(0).0, shown(1).0, moved.len()), ("a", "b", 2));
    assert_eq!(
        posted(&mut ballast.balances, "a").await,
        1_000 - 10 - 20 - 3
    );
    assert_eq!(posted(&mut ballast.balances, "b").await, 20 + 5);
    assert_eq!(posted(&mut ballast.balances, "shop").await, 3);
    let sql = ballast.database.sql().await;
    sql.batch_execute("UPDATE balances SET closed = false WHERE account_id = 'closed'")
        .await
        .expect("restored");
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_member_without_an_operation_is_malformed_alone() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    let operations = vec![OperationRequest::default(), credit_member("c", "a", 1)];
    let results = execute(&mut ballast.balances, operations).await;
    let error = error_of(&results[0]);
    assert_eq!((error.code, error.reason.as_str()), (3, "INVALID_ARGUMENT"));
    assert_eq!(error.field_violations[0].field, "request");
    posted_of(&results[1]);
}

#[tokio::test]
async fn a_batch_sent_again_is_replayed_also_by_another_instance() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    open(&mut ballast, "b", 0).await;
    let operations: Vec<_> = (0..50)
        .map(|index| member(Kind::from(transfer(&format!("t-{index}"), "a", "b", 3))))
        .collect();
    let first = execute(&mut ballast.balances, operations.clone()).await;
    let mut sibling = ballast.sibling().await;
    let again = execute(&mut sibling.balances, operations).await;
    let mut posted_count = 0;
    for (first, again) in first.iter().zip(&again) {
        assert_eq!(first.operation_id, again.operation_id);
        if again.outcome == first.outcome {
            // 33 times 3 is all there was: the others were refused, and stay so.
            assert_eq!(error_of(first).reason, "INSUFFICIENT_FUNDS");
            continue;
        }
        let (first, again) = (posted_of(first), posted_of(again));
        assert!(again.replayed && !first.replayed);
        assert_eq!(
            (&again.balances, again.create_time),
            (&first.balances, first.create_time)
        );
        posted_count += 1;
    }
    assert_eq!(posted_count, 33);
    assert_eq!(posted(&mut ballast.balances, "b").await, 99);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn two_members_with_one_id_happen_once() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    open(&mut ballast, "b", 0).await;
    let operations = vec![
        credit_member("twice", "a", 7),
        credit_member("twice", "a", 7),
        credit_member("other", "a", 1),
        credit_member("other", "b", 1),
    ];
    let results = execute(&mut ballast.balances, operations).await;
    let replays = [&results[0], &results[1]].map(|result| posted_of(result).replayed);
    assert_eq!(replays.iter().filter(|replayed| **replayed).count(), 1);
    // Which of two contents wins is not promised. That exactly one does, is.
    let reused: Vec<_> = results[2..]
        .iter()
        .filter_map(|result| match &result.outcome {
            Some(ballast::rpc::proto::operation_result::Outcome::Error(error)) => Some(error),
            _ => None,
        })
        .collect();
    assert_eq!(reused.len(), 1);
    assert_eq!(reused[0].reason, "OPERATION_ID_REUSED");
    let (a, b) = (
        posted(&mut ballast.balances, "a").await,
        posted(&mut ballast.balances, "b").await,
    );
    assert_eq!(a + b, 7 + 1);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_batch_has_from_1_to_10_000_members_and_at_most_8_mib() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    for count in [0, 10_001] {
        let operations = (0..count).map(|index| credit_member(&index.to_string(), "a", 1));
        let refused = ballast
            .balances
            .execute_batch(batch(operations.collect()))
            .await;
        let rejection = Rejection::of(refused).expect(Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(rejection.fields, ["operations"]);
    }
    let padded = |count: usize| {
        let members = (0..count).map(|index| {
            member(Kind::from(CreditRequest {
                description: "x".repeat(1 << 20),
                ..credit(&format!("large-{index}"), "a", 1)
            }))
        });
        batch(members.collect())
    };
    let request = padded(8);
    assert!(request.encoded_len() > 8 << 20);
    let rejection = Rejection::of(ballast.balances.execute_batch(request).await);
    let rejection = rejection.expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(rejection.fields, ["request"]);
    // Seven MiB are read; that a description is too long is its member's affair.
    let answered = ballast
        .balances
        .execute_batch(padded(7))
        .await
        .expect("answered");
    let results = answered.into_inner().results;
    assert!(
        results
            .iter()
            .all(|result| error_of(result).field_violations[0].field == "description")
    );
    assert_eq!(posted(&mut ballast.balances, "a").await, 0);
}

#[tokio::test]
async fn ten_thousand_members_on_one_account_are_few_transactions() {
    let mut ballast = Ballast::start().await;
    let (payer, merchant) = ("p".repeat(64), "m".repeat(64));
    for account_id in [&payer, &merchant] {
        let request = CreateAccountRequest {
            owner_id: "owner".to_owned(),
            ..account(account_id)
        };
        let opened = ballast.accounts.create_account(request).await;
        opened.expect("an account is opened");
    }
    let opening = credit("opening", &payer, 10_000_000);
    ballast.balances.credit(opening).await.expect("posted");
    let before = transaction_count(&ballast).await;
    let operations: Vec<_> = (0..10_000)
        .map(|index| {
            let operation_id = format!("{index:0>64}");
            member(Kind::from(transfer(
                &operation_id,
                &payer,
                &merchant,
                index % 7 + 1,
            )))
        })
        .collect();
    let sum: i64 = (0..10_000).map(|index| index % 7 + 1).sum();
    let answered = ballast.balances.execute_batch(batch(operations)).await;
    let response = answered.expect("a batch is answered").into_inner();
    assert_eq!(response.results.len(), 10_000);
    for (index, result) in response.results.iter().enumerate() {
        assert_eq!(result.operation_id, format!("{index:0>64}"));
        posted_of(result);
    }
    // The longest ids that there are, and it is within what a client receives by default.
    let size = response.encoded_len();
    assert!(size < 4 << 20, "{size} bytes");
    assert_eq!(posted(&mut ballast.balances, &merchant).await, sum);
    let transactions = transaction_count(&ballast).await - before;
    assert!(
        transactions < 100,
        "10,000 members made {transactions} transactions"
    );
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_full_queue_makes_a_batch_wait_and_not_fail() {
    let change = |config: &mut ballast::server::ServerConfig| config.batcher.queue_depth_max = 4;
    let mut ballast = Ballast::start_with(change).await;
    open(&mut ballast, "a", 0).await;
    let operations = (0..100)
        .map(|index| credit_member(&index.to_string(), "a", 1))
        .collect();
    for result in execute(&mut ballast.balances, operations).await {
        posted_of(&result);
    }
    assert_eq!(posted(&mut ballast.balances, "a").await, 100);
}

#[tokio::test]
async fn a_deadline_is_an_outcome_of_members_and_a_replay_tells_the_truth() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "locked", 0).await;
    // The first credit makes the connections, which takes a while on a busy machine.
    open(&mut ballast, "free", 1).await;
    let lock = ballast.lock("locked").await;
    let operations = |timeout_ms: u64| -> Vec<OperationRequest> {
        let one = |index: usize| {
            let account_id = ["locked", "free"][index % 2];
            credit_member(&format!("{timeout_ms}-{index}"), account_id, 1)
        };
        (0..20).map(one).collect()
    };
    // On a busy machine those on the free account may need more time, which the others wait for in vain.
    let (operations, results) = 'in_time: {
        for timeout_ms in [1_500, 6_000, 20_000] {
            let operations = operations(timeout_ms);
            let request = within(batch(operations.clone()), Duration::from_millis(timeout_ms));
            let answered = patient(&ballast).execute_batch(request).await;
            let answered = answered.expect("the call itself is OK").into_inner();
            let is_posted =
                |result: &OperationResult| matches!(result.outcome, Some(Outcome::Posted(_)));
            if answered.results.iter().filter(|it| is_posted(it)).count() == 10 {
                break 'in_time (operations, answered.results);
            }
        }
        panic!("no batch was executed in time")
    };
    let request = within(credit("alone", "locked", 1), Duration::from_millis(100));
    let alone = patient(&ballast)
        .credit(request)
        .await
        .expect_err("a deadline");
    for (index, result) in results.iter().enumerate() {
        match index % 2 {
            0 => {
                assert_eq!(error_of(result).metadata["outcome"], "none");
                assert_same(error_of(result), &alone);
            }
            _ => drop(posted_of(result)),
        }
    }
    lock.release().await;
    let again = execute(&mut ballast.balances, operations).await;
    for (index, result) in again.iter().enumerate() {
        assert_eq!(posted_of(result).replayed, index % 2 == 1);
    }
    assert_eq!(posted(&mut ballast.balances, "locked").await, 10);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_batch_whose_time_is_over_at_once_changes_nothing() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    let operations: Vec<_> = (0..600)
        .map(|index| credit_member(&index.to_string(), "a", 1))
        .collect();
    let request = within(batch(operations), Duration::ZERO);
    match patient(&ballast).execute_batch(request).await {
        Ok(answered) => {
            for result in answered.into_inner().results {
                let error = error_of(&result);
                assert_eq!(
                    (error.reason.as_str(), error.metadata["outcome"].as_str()),
                    ("DEADLINE", "none")
                );
            }
        }
        // On a busy machine it may be over before the batch is taken apart.
        Err(status) => {
            let rejection = Rejection::of_status(&status);
            let rejection = rejection.expect(Code::DeadlineExceeded, "DEADLINE");
            assert_eq!(rejection.facts(), [("outcome", "none")]);
        }
    }
    assert_eq!(posted(&mut ballast.balances, "a").await, 0);
}

#[tokio::test]
async fn contention_is_the_outcome_of_those_members_alone() {
    let change = |config: &mut ballast::server::ServerConfig| {
        config.batcher.lock_wait_max = Duration::from_millis(100);
    };
    let mut ballast = Ballast::start_with(change).await;
    open(&mut ballast, "locked", 0).await;
    open(&mut ballast, "free", 0).await;
    let _lock = ballast.lock("locked").await;
    let operations = vec![
        credit_member("1", "locked", 1),
        credit_member("2", "free", 1),
    ];
    let results = execute(&mut ballast.balances, operations).await;
    let error = error_of(&results[0]);
    assert_eq!(error.reason, "CONTENTION");
    assert!(error.retry_delay_ms > 0);
    assert_same(
        error,
        &unary_error(&ballast, credit_member("1", "locked", 1)).await,
    );
    posted_of(&results[1]);
}

#[tokio::test]
async fn a_batch_whose_client_leaves_is_sent_again_and_happens_once() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    let operations: Vec<_> = (0..5_000)
        .map(|index| credit_member(&index.to_string(), "a", 1))
        .collect();
    for round in 1..=3 {
        let (mut balances, operations) = (ballast.own_balances(), operations.clone());
        let call = tokio::spawn(async move { balances.execute_batch(batch(operations)).await });
        // It leaves in the middle, each time a little later.
        while posted(&mut ballast.balances, "a").await < round * 500 {
            tokio::task::yield_now().await;
        }
        call.abort();
        let _left = call.await;
    }
    let results = execute(&mut ballast.balances, operations).await;
    let replayed = results
        .iter()
        .filter(|result| posted_of(result).replayed)
        .count();
    assert!(replayed >= 1_500, "{replayed}");
    assert_eq!(posted(&mut ballast.balances, "a").await, 5_000);
    ballast.assert_in_order().await;
}
