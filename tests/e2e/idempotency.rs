//! Idempotency: an operation id has one outcome, for ever, whoever asks, wherever, and however often.

use std::collections::HashMap;

use ballast::rpc::proto::{DebitRequest, Money, TransferRequest, TransferResponse};
use tonic::Code;

use crate::support::*;

#[tokio::test]
async fn replay_returns_the_first_receipt() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    open(&mut ballast, "b", 0).await;
    let first = ballast
        .balances
        .transfer(transfer("t", "a", "b", 30))
        .await
        .expect("posted")
        .into_inner();
    ballast
        .balances
        .transfer(transfer("later", "a", "b", 50))
        .await
        .expect("posted");
    let sibling = ballast.sibling().await;
    for mut balances in [ballast.balances.clone(), sibling.balances.clone()] {
        let again = balances
            .transfer(transfer("t", "a", "b", 30))
            .await
            .expect("a replay")
            .into_inner();
        assert_eq!(
            again,
            TransferResponse {
                replayed: true,
                ..first.clone()
            }
        );
    }
    assert_eq!(posted(&mut ballast.balances, "a").await, 20);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_refusal_is_replayed_even_when_the_money_is_there_by_then() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 10).await;
    let first = Rejection::of(ballast.balances.debit(debit("d", "a", 11)).await);
    ballast
        .balances
        .credit(credit("c", "a", 1_000))
        .await
        .expect("posted");
    assert_eq!(
        Rejection::of(ballast.balances.debit(debit("d", "a", 11)).await),
        first
    );
    assert_eq!(posted(&mut ballast.balances, "a").await, 1_010);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn an_id_with_other_content_names_the_fields_that_differ() {
    let mut ballast = Ballast::start().await;
    for name in ["a", "b", "c"] {
        open(&mut ballast, name, 100).await;
    }
    let good = || TransferRequest {
        metadata: HashMap::from([("k".to_owned(), "v".to_owned())]),
        ..transfer("t", "a", "b", 1)
    };
    ballast.balances.transfer(good()).await.expect("posted");
    let dollars = Some(Money {
        currency_code: "USD".to_owned(),
        minor_units: 1,
    });
    let rows: [(TransferRequest, &str); 8] = [
        (
            TransferRequest {
                source_account_id: "c".to_owned(),
                ..good()
            },
            "source_account_id",
        ),
        (
            TransferRequest {
                destination: transfer("", "", "c", 1).destination,
                ..good()
            },
            "destination_account_id",
        ),
        (
            TransferRequest {
                destination_category: "X".to_owned(),
                ..good()
            },
            "destination_category",
        ),
        (
            TransferRequest {
                source_categories: strings(["main", "X"]),
                ..good()
            },
            "source_categories",
        ),
        (
            TransferRequest {
                amount: dollars,
                ..good()
            },
            "amount.currency_code",
        ),
        (
            TransferRequest {
                description: "x".to_owned(),
                ..good()
            },
            "description",
        ),
        (
            TransferRequest {
                metadata: HashMap::new(),
                ..good()
            },
            "metadata",
        ),
        (
            TransferRequest {
                amount: eur(2),
                description: "x".to_owned(),
                ..good()
            },
            "amount.minor_units,description",
        ),
    ];
    for (request, fields) in rows {
        let rejection = Rejection::of(ballast.balances.transfer(request).await);
        let rejection = rejection.expect(Code::AlreadyExists, "OPERATION_ID_REUSED");
        assert_eq!(
            rejection.facts(),
            [("fields", fields), ("operation_id", "t")]
        );
    }
    let other_kind = Rejection::of(ballast.balances.debit(debit("t", "a", 1)).await);
    assert_eq!(
        other_kind.metadata["fields"],
        "kind,destination_account_id,destination_category,metadata"
    );
    let explicit = TransferRequest {
        source_categories: strings(["main"]),
        destination_category: "main".to_owned(),
        ..good()
    };
    assert!(
        ballast
            .balances
            .transfer(explicit)
            .await
            .expect("main is what an empty field means")
            .into_inner()
            .replayed
    );
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn one_id_from_sixty_four_callers_on_two_instances_has_one_effect() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 1_000).await;
    open(&mut ballast, "b", 0).await;
    let sibling = ballast.sibling().await;
    for round in 0..10 {
        let id = format!("t-{round}");
        let calls: Vec<_> = (0..64)
            .map(|caller| {
                let mut balances = if caller % 2 == 0 {
                    ballast.own_balances()
                } else {
                    sibling.own_balances()
                };
                let request = transfer(&id, "a", "b", 7);
                tokio::spawn(async move {
                    balances
                        .transfer(request)
                        .await
                        .expect("an answer")
                        .into_inner()
                })
            })
            .collect();
        let mut answers = Vec::new();
        for call in calls {
            answers.push(call.await.expect("no panic"));
        }
        assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
        assert!(
            answers
                .iter()
                .all(|answer| answer.entries == answers[0].entries)
        );
    }
    assert_eq!(posted(&mut ballast.balances, "a").await, 1_000 - 70);
    ballast.assert_in_order().await;
}

/// The ids collide, the accounts do not: no lock brings the callers together, only the key of the operation.
#[tokio::test]
async fn one_id_on_different_accounts_is_decided_by_its_key() {
    let mut ballast = Ballast::start().await;
    for index in 0..16 {
        open(&mut ballast, &format!("a-{index}"), 100).await;
    }
    let sibling = ballast.sibling().await;
    for round in 0..10 {
        let calls: Vec<_> = (0..16)
            .map(|index| {
                let mut balances = if index % 2 == 0 {
                    ballast.own_balances()
                } else {
                    sibling.own_balances()
                };
                let request: DebitRequest = debit(&format!("d-{round}"), &format!("a-{index}"), 1);
                tokio::spawn(async move { balances.debit(request).await })
            })
            .collect();
        let mut posted_count = 0;
        for call in calls {
            match call.await.expect("no panic") {
                Ok(_) => posted_count += 1,
                Err(status) => {
                    let rejection = Rejection::of_status(&status)
                        .expect(Code::AlreadyExists, "OPERATION_ID_REUSED");
                    assert_eq!(rejection.metadata["fields"], "source_account_id");
                }
            }
        }
        assert_eq!(posted_count, 1);
    }
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn an_id_is_known_even_if_its_new_content_could_not_be_recorded() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    open(&mut ballast, "b", 0).await;
    let posted = ballast.balances.transfer(transfer("t", "a", "b", 30)).await;
    posted.expect("posted");
    let elsewhere = ballast.balances.transfer(transfer("t", "a", "nobody", 30));
    Rejection::of(elsewhere.await).expect(Code::AlreadyExists, "OPERATION_ID_REUSED");
    let unknown = ballast
        .balances
        .transfer(transfer("new", "a", "nobody", 30));
    Rejection::of(unknown.await).expect(Code::NotFound, "ACCOUNT_NOT_FOUND");
}
