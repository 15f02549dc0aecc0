//! Debit, Credit and Transfer: what moves, what the answer says, and what is there afterwards.

use std::collections::HashMap;

use ballast::rpc::proto::transfer_request::Destination;
use ballast::rpc::proto::{
    BalanceLimits, CreateAccountRequest, CreditRequest, DebitRequest, OperationKind,
    OperationState, TransferRequest,
};

use crate::support::*;

#[tokio::test]
async fn a_transfer_moves_money_and_says_all_about_it() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    open(&mut ballast, "b", 5).await;
    let request = TransferRequest {
        description: "rent, März".to_owned(),
        metadata: HashMap::from([("invoice".to_owned(), "7".to_owned())]),
        ..transfer("t", "a", "b", 30)
    };
    let response = ballast
        .balances
        .transfer(request)
        .await
        .expect("posted")
        .into_inner();
    assert!(!response.replayed);

    let operation = response.operation.expect("an operation");
    assert_eq!(
        (operation.kind(), operation.state()),
        (OperationKind::Transfer, OperationState::Posted)
    );
    assert_eq!(operation.amount, eur(30));
    let sides =
        [&operation.source, &operation.destination].map(|side| side.clone().expect("a side"));
    assert_eq!(
        sides.map(|side| (side.account_id, side.category)),
        [("a", "main"), ("b", "main")].map(|(a, c)| (a.into(), c.into()))
    );
    assert_eq!(
        (
            operation.description.as_str(),
            operation.metadata["invoice"].as_str()
        ),
        ("rent, März", "7")
    );

    let entries: Vec<_> = response
        .entries
        .iter()
        .map(|e| {
            (
                e.account_id.as_str(),
                e.version,
                e.amount_minor_units,
                e.posted_after_minor_units,
            )
        })
        .collect();
    assert_eq!(entries, [("a", 2, -30, 70), ("b", 2, 30, 35)]);
    assert!(
        response
            .entries
            .iter()
            .all(|entry| entry.create_time == operation.create_time)
    );
    let after: Vec<_> = response
        .balances
        .iter()
        .map(|b| {
            (
                b.account_id.as_str(),
                b.currency_code.as_str(),
                b.posted_minor_units,
                b.available_minor_units,
                b.version,
            )
        })
        .collect();
    assert_eq!(after, [("a", "EUR", 70, 70, 2), ("b", "EUR", 35, 35, 2)]);
    assert_eq!(
        (
            posted(&mut ballast.balances, "a").await,
            posted(&mut ballast.balances, "b").await
        ),
        (70, 35)
    );
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn debit_and_credit_have_one_side() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    let credited = ballast
        .balances
        .credit(credit("c", "a", 50))
        .await
        .expect("posted")
        .into_inner();
    let debited = ballast
        .balances
        .debit(debit("d", "a", 20))
        .await
        .expect("posted")
        .into_inner();
    let (credited_operation, debited_operation) = (
        credited.operation.expect("one"),
        debited.operation.expect("one"),
    );
    assert_eq!(
        (credited_operation.source, credited_operation.kind),
        (None, OperationKind::Credit.into())
    );
    assert_eq!(
        (debited_operation.destination, debited_operation.kind),
        (None, OperationKind::Debit.into())
    );
    assert_eq!((credited.entries.len(), debited.entries.len()), (1, 1));
    assert_eq!(debited.balances[0].posted_minor_units, 30);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn the_first_category_that_covers_the_whole_amount_pays() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "card", 0).await;
    for (category, minor_units) in [("MEAL", 30), ("CASH", 100)] {
        let request = CreditRequest {
            category: category.to_owned(),
            ..credit(category, "card", minor_units)
        };
        ballast
            .balances
            .credit(request)
            .await
            .expect("a new category begins with its first credit");
    }
    let pay = |id: &str, minor_units| DebitRequest {
        categories: strings(["MEAL", "CASH"]),
        ..debit(id, "card", minor_units)
    };
    let mut payers = Vec::new();
    for (id, minor_units) in [("1", 30), ("2", 40), ("3", 60)] {
        let response = ballast
            .balances
            .debit(pay(id, minor_units))
            .await
            .expect("covered")
            .into_inner();
        payers.push(
            response
                .operation
                .and_then(|operation| operation.source)
                .expect("a source")
                .category,
        );
    }
    assert_eq!(payers, ["MEAL", "CASH", "CASH"]);
    let rejection = Rejection::of(ballast.balances.debit(pay("4", 1)).await);
    assert_eq!(
        (
            rejection.metadata["categories"].as_str(),
            rejection.metadata["available_minor_units"].as_str()
        ),
        ("MEAL,CASH", "0,0")
    );

    let names: Vec<_> = account_of(&mut ballast.accounts, "card")
        .await
        .balances
        .into_iter()
        .map(|balance| balance.category)
        .collect();
    assert_eq!(names, ["CASH", "MEAL", "main"]);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn money_moves_between_the_categories_of_one_account() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "card", 100).await;
    let inside = TransferRequest {
        destination_category: "FOOD".to_owned(),
        ..transfer("t", "card", "card", 40)
    };
    ballast.balances.transfer(inside).await.expect("posted");
    assert_eq!(posted(&mut ballast.balances, "card").await, 60);
    assert_eq!(
        balance_of(&mut ballast.balances, "card", "FOOD")
            .await
            .posted_minor_units,
        40
    );
    assert_eq!(
        balance_of(&mut ballast.balances, "card", "NEVER")
            .await
            .version,
        0
    );
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_transfer_to_an_owner_reaches_the_settlement_account() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    for (name, settlement) in [("shop-1", false), ("shop-2", true)] {
        let request = CreateAccountRequest {
            owner_id: "shop".to_owned(),
            settlement,
            ..account(name)
        };
        ballast
            .accounts
            .create_account(request)
            .await
            .expect("opened");
    }
    let to_owner = |owner: &str| TransferRequest {
        destination: Some(Destination::DestinationOwnerId(owner.to_owned())),
        ..transfer("t", "a", "", 10)
    };
    let response = ballast
        .balances
        .transfer(to_owner("shop"))
        .await
        .expect("posted")
        .into_inner();
    let operation = response.operation.expect("an operation");
    assert_eq!(operation.destination_owner_id, "shop");
    assert_eq!(
        operation.destination.expect("a destination").account_id,
        "shop-2"
    );
    let again = ballast
        .balances
        .transfer(to_owner("shop"))
        .await
        .expect("a replay")
        .into_inner();
    assert!(again.replayed);
    let nobody = Rejection::of(ballast.balances.transfer(to_owner("nobody")).await);
    nobody.expect(tonic::Code::NotFound, "ACCOUNT_NOT_FOUND");
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn an_overdraft_is_used_up_to_its_limit() {
    let mut ballast = Ballast::start().await;
    let limits = vec![BalanceLimits {
        overdraft_limit_minor_units: 50,
        ..BalanceLimits::default()
    }];
    ballast
        .accounts
        .create_account(CreateAccountRequest {
            limits,
            ..account("a")
        })
        .await
        .expect("opened");
    let response = ballast
        .balances
        .debit(debit("1", "a", 50))
        .await
        .expect("covered")
        .into_inner();
    let balance = &response.balances[0];
    assert_eq!(
        (balance.posted_minor_units, balance.available_minor_units),
        (-50, 0)
    );
    Rejection::of(ballast.balances.debit(debit("2", "a", 1)).await)
        .expect(tonic::Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
    let replay = ballast
        .balances
        .debit(debit("1", "a", 50))
        .await
        .expect("a replay")
        .into_inner();
    assert_eq!(replay.balances, response.balances);
    ballast.assert_in_order().await;
}
