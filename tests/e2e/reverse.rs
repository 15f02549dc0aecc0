//! ReverseOperation: what an operation moved goes back, as a whole or in parts, and never more than it moved.

use std::collections::BTreeMap;

use ballast::rpc::proto::list_operations_request::Filter;
use ballast::rpc::proto::{
    CreditRequest, GetOperationRequest, GetOperationResponse, ListOperationsRequest, Money,
    OperationKind, OperationState, ReverseOperationRequest, ReverseOperationResponse,
    SubmitOperationsRequest, TransferRequest,
};
use tonic::Code;

use crate::support::cards::*;
use crate::support::instance::Balances;
use crate::support::*;

/// A reversal that is refused, with the reason and some of its facts.
type Refused = (
    ReverseOperationRequest,
    &'static str,
    &'static [(&'static str, &'static str)],
);

async fn reversed(
    balances: &mut Balances,
    request: ReverseOperationRequest,
) -> ReverseOperationResponse {
    let answer = balances.reverse_operation(request).await;
    answer.expect("reversed").into_inner()
}

async fn rejected(balances: &mut Balances, request: ReverseOperationRequest) -> Rejection {
    Rejection::of(balances.reverse_operation(request).await)
}

async fn operation(balances: &mut Balances, operation_id: &str) -> GetOperationResponse {
    let request = GetOperationRequest {
        operation_id: operation_id.to_owned(),
        ..GetOperationRequest::default()
    };
    let found = balances.get_operation(request).await;
    found.expect("known").into_inner()
}

/// Account, category and amount of each entry.
fn moved(answer: &ReverseOperationResponse) -> Vec<(&str, &str, i64)> {
    answer
        .entries
        .iter()
        .map(|entry| {
            (
                entry.account_id.as_str(),
                entry.category.as_str(),
                entry.amount_minor_units,
            )
        })
        .collect()
}

#[tokio::test]
async fn a_refund_goes_from_the_category_that_received_to_the_one_that_paid() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "card", 5).await;
    open(&mut ballast, "shop", 0).await;
    let balances = &mut ballast.balances;
    let food = CreditRequest {
        category: "FOOD".to_owned(),
        ..credit("food", "card", 100)
    };
    balances.credit(food).await.expect("credited");
    let sale = TransferRequest {
        source_categories: strings(["main", "FOOD"]),
        destination_category: "SALES".to_owned(),
        ..transfer("sale", "card", "shop", 60)
    };
    balances.transfer(sale).await.expect("posted");

    let refund = ReverseOperationRequest {
        description: "a broken cup".to_owned(),
        ..reverse_part("refund", "sale", 25)
    };
    let first = reversed(balances, refund.clone()).await;
    let expected = [("shop", "SALES", -25), ("card", "FOOD", 25)];
    assert_eq!(moved(&first), expected);
    let posted = first.operation.clone().expect("an operation");
    assert_eq!(posted.kind(), OperationKind::Reversal);
    assert_eq!(posted.state(), OperationState::Posted);
    assert_eq!(posted.reversed_operation_id, "sale");
    assert_eq!(posted.amount, eur(25));
    let rest = reversed(balances, reverse_part("rest", "sale", 35)).await;
    assert_eq!(rest.balances[1].posted_minor_units, 100);

    // Whoever asks later, on whichever instance, gets the same; and the original shows them.
    let mut sibling = ballast.sibling().await;
    let again = reversed(&mut sibling.balances, refund.clone()).await;
    let replayed = ReverseOperationResponse {
        replayed: true,
        ..first.clone()
    };
    assert_eq!(again, replayed);
    let found = operation(&mut sibling.balances, "refund").await;
    assert_eq!(
        (found.operation, found.entries),
        (first.operation, first.entries)
    );
    let original = operation(&mut sibling.balances, "sale").await;
    assert_eq!(original.reversal_operation_ids, ["refund", "rest"]);
    assert_eq!(original.reversed_minor_units, 60);

    let other = ReverseOperationRequest {
        reversed_operation_id: "food".to_owned(),
        ..refund
    };
    let reused = rejected(&mut ballast.balances, other)
        .await
        .expect(Code::AlreadyExists, "OPERATION_ID_REUSED");
    assert_eq!(reused.metadata["fields"], "reversed_operation_id");
    let list = ListOperationsRequest {
        filter: Some(Filter::AccountId("shop".to_owned())),
        ..ListOperationsRequest::default()
    };
    let listed = ballast.balances.list_operations(list).await;
    let listed = listed.expect("a page").into_inner().operations;
    let ids: Vec<&str> = listed.iter().map(|one| one.operation_id.as_str()).collect();
    assert_eq!(ids, ["rest", "refund", "sale"]);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn debits_credits_and_posts_are_reversed_too() {
    let mut ballast = Ballast::start().await;
    for (name, money) in [("a", 100), ("b", 0), ("c", 0)] {
        open(&mut ballast, name, money).await;
    }
    let balances = &mut ballast.balances;
    balances.debit(debit("out", "a", 30)).await.expect("posted");
    let back = reversed(balances, reverse("out-back", "out")).await;
    assert_eq!(moved(&back), [("a", "main", 30)]);
    let back = reversed(balances, reverse_part("in-back", "a-opening", 40)).await;
    assert_eq!(moved(&back), [("a", "main", -40)]);
    let sale = post("sale", &[("a", 60)], &[("b", 50), ("c/TAX", 10)]);
    balances.post_operation(sale).await.expect("posted");
    let part = rejected(balances, reverse_part("sale-back", "sale", 60))
        .await
        .expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(part.fields, ["amount"]);
    let back = reversed(balances, reverse("sale-back", "sale")).await;
    let expected = [("c", "TAX", -10), ("b", "main", -50), ("a", "main", 60)];
    assert_eq!(moved(&back), expected);
    let operation = operation(balances, "sale").await;
    assert_eq!(operation.reversal_operation_ids, ["sale-back"]);
    let twice = rejected(balances, reverse("sale-back-2", "sale"))
        .await
        .expect(Code::FailedPrecondition, "ALREADY_REVERSED");
    assert_eq!(twice.metadata["reversed_operation_id"], "sale");
    assert!(twice.has_precondition_failure);
    let mut sibling = ballast.sibling().await;
    let again = reversed(&mut sibling.balances, reverse("sale-back", "sale")).await;
    assert!(again.replayed);
    assert_eq!(moved(&again), expected);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn what_cannot_be_reversed_is_said_and_recorded_if_it_is_a_refusal() {
    let mut ballast = Ballast::start().await;
    for (name, money) in [("a", 100), ("b", 0), ("c", 10)] {
        open(&mut ballast, name, money).await;
    }
    let balances = &mut ballast.balances;
    let pay = balances.transfer(transfer("pay", "a", "b", 50)).await;
    pay.expect("posted");
    let poor = balances.debit(debit("poor", "a", 1_000)).await;
    poor.expect_err("refused");
    let merged = balances.merge_accounts(merge("merge", "c", "a")).await;
    merged.expect("merged");
    let spent = balances.debit(debit("spent", "b", 20)).await;
    spent.expect("posted");
    reversed(balances, reverse_part("part", "pay", 10)).await;

    for (original, cause) in [
        ("poor", "REFUSED"),
        ("merge", "MERGE"),
        ("part", "REVERSAL"),
    ] {
        let never = rejected(balances, reverse("free", original))
            .await
            .expect(Code::FailedPrecondition, "NOT_REVERSIBLE");
        assert_eq!(never.metadata["cause"], cause);
        assert!(!never.has_precondition_failure);
    }
    rejected(balances, reverse("free", "nothing"))
        .await
        .expect(Code::NotFound, "OPERATION_NOT_FOUND");
    let dollars = ReverseOperationRequest {
        amount: Some(Money {
            currency_code: "USD".to_owned(),
            minor_units: 1,
        }),
        ..reverse("free", "pay")
    };
    rejected(balances, dollars)
        .await
        .expect(Code::FailedPrecondition, "CURRENCY_MISMATCH");

    let refused: [Refused; 3] = [
        (
            reverse("too-much", "pay"),
            "REVERSAL_EXCEEDS_ORIGINAL",
            &[
                ("original_minor_units", "50"),
                ("reversed_minor_units", "10"),
                ("amount_minor_units", "50"),
            ],
        ),
        (
            reverse_part("no-funds", "pay", 35),
            "INSUFFICIENT_FUNDS",
            &[("account_id", "b"), ("available_minor_units", "30")],
        ),
        (
            reverse("closed", "c-opening"),
            "ACCOUNT_CLOSED",
            &[("account_id", "c")],
        ),
    ];
    for (request, reason, facts) in refused {
        let first = rejected(balances, request.clone())
            .await
            .expect(Code::FailedPrecondition, reason);
        for (name, value) in facts {
            assert_eq!(first.metadata[*name], *value, "{reason}");
        }
        assert!(first.has_precondition_failure, "{reason}");
        // Whatever happens meanwhile, it stays refused.
        let rescue = credit(&format!("rescue-{reason}"), "b", 10);
        balances.credit(rescue).await.expect("credited");
        let again = rejected(balances, request.clone()).await;
        assert_eq!(again.facts(), first.facts());
        let found = operation(balances, &request.operation_id).await.operation;
        let found = found.expect("an operation");
        assert_eq!(found.state(), OperationState::Refused);
        assert_eq!(found.reversed_operation_id, request.reversed_operation_id);
    }
    reversed(balances, reverse_part("free", "pay", 40)).await;
    for (field, request) in [
        ("operation_id", reverse("", "pay")),
        ("operation_id", reverse("mine:reversal", "pay")),
        ("reversed_operation_id", reverse("id", "no id")),
        ("amount.minor_units", reverse_part("id", "pay", 0)),
    ] {
        let invalid = rejected(balances, request)
            .await
            .expect(Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(invalid.fields, [field]);
    }
    ballast.assert_in_order().await;
}

/// Many callers on two instances give back one unit or three of the same sale, until nothing is left.
#[tokio::test]
async fn racing_reversals_never_move_more_than_the_original_and_use_it_up() {
    const ORIGINAL: i64 = 101;
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "buyer", ORIGINAL).await;
    open(&mut ballast, "shop", 1_000).await;
    let sale = transfer("sale", "buyer", "shop", ORIGINAL);
    ballast.balances.transfer(sale).await.expect("posted");
    let sibling = ballast.sibling().await;
    let callers: Vec<_> = (0..24)
        .map(|caller: i64| {
            let mut balances = match caller % 2 {
                0 => ballast.own_balances(),
                _ => sibling.own_balances(),
            };
            tokio::spawn(async move {
                let (mut posted, mut reasons) = (0, BTreeMap::new());
                for round in 0.. {
                    let amount = 1 + 2 * (caller / 2 % 2);
                    let id = format!("back-{caller}-{round}");
                    let answer = balances
                        .reverse_operation(reverse_part(&id, "sale", amount))
                        .await;
                    let Err(status) = answer else {
                        posted += amount;
                        continue;
                    };
                    let reason = Rejection::of_status(&status).reason;
                    let is_end = reason == "ALREADY_REVERSED";
                    *reasons.entry(reason).or_insert(0) += 1;
                    if is_end {
                        break;
                    }
                }
                (posted, reasons)
            })
        })
        .collect();
    let mut total = 0;
    for caller in callers {
        let (posted, reasons) = caller.await.expect("no panic");
        total += posted;
        let known = ["ALREADY_REVERSED", "REVERSAL_EXCEEDS_ORIGINAL"];
        let unknown = reasons
            .keys()
            .find(|reason| !known.contains(&reason.as_str()));
        assert_eq!(unknown, None);
    }
    assert_eq!(total, ORIGINAL);
    let original = operation(&mut ballast.balances, "sale").await;
    assert_eq!(original.reversed_minor_units, ORIGINAL);
    assert_eq!(posted(&mut ballast.balances, "buyer").await, ORIGINAL);
    assert_eq!(posted(&mut ballast.balances, "shop").await, 1_000);
    ballast.assert_in_order().await;
}

/// One id sent by many callers at once is one reversal.
#[tokio::test]
async fn one_reversal_sent_many_times_at_once_posts_once() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    let paid = ballast.balances.debit(debit("paid", "a", 60)).await;
    paid.expect("posted");
    let sibling = ballast.sibling().await;
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let mut balances = match caller % 2 {
                0 => ballast.own_balances(),
                _ => sibling.own_balances(),
            };
            tokio::spawn(async move { reversed(&mut balances, reverse("back", "paid")).await })
        })
        .collect();
    let mut first_count = 0;
    for caller in callers {
        let answer = caller.await.expect("no panic");
        first_count += usize::from(!answer.replayed);
        assert_eq!(answer.balances[0].posted_minor_units, 100);
    }
    assert_eq!(first_count, 1);
    ballast.assert_in_order().await;
}

/// Among others of all kinds, in batches and streams, as by its own RPC.
#[tokio::test]
async fn it_is_a_member_like_all_others() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    let paid = ballast.balances.debit(debit("paid", "a", 60)).await;
    paid.expect("posted");
    let members = vec![
        member(reverse_part("1", "paid", 10).into()),
        credit_member("2", "a", 1),
        member(reverse("3", "unknown").into()),
        member(reverse_part("4", "paid", 61).into()),
        member(reverse_part("5:reversal", "paid", 1).into()),
    ];
    let results = execute(&mut ballast.balances, members.clone()).await;
    assert_eq!(posted_of(&results[0]).balances.len(), 1);
    posted_of(&results[1]);
    assert_eq!(error_of(&results[2]).reason, "OPERATION_NOT_FOUND");
    assert_eq!(error_of(&results[3]).reason, "REVERSAL_EXCEEDS_ORIGINAL");
    assert_eq!(error_of(&results[4]).reason, "INVALID_ARGUMENT");
    let requests = members
        .into_iter()
        .map(|operation| SubmitOperationsRequest {
            operation: Some(operation),
        });
    let stream = ballast
        .balances
        .submit_operations(futures_util::stream::iter(requests.collect::<Vec<_>>()))
        .await;
    let mut stream = stream.expect("a stream opens").into_inner();
    let mut streamed = BTreeMap::new();
    while let Some(message) = stream.message().await.expect("no error") {
        let result = message.result.expect("a result");
        streamed.insert(result.operation_id.clone(), result);
    }
    assert!(posted_of(&streamed["1"]).replayed);
    assert_eq!(error_of(&streamed["3"]).reason, "OPERATION_NOT_FOUND");
    assert_eq!(error_of(&streamed["4"]).reason, "REVERSAL_EXCEEDS_ORIGINAL");
    ballast.assert_in_order().await;
}

/// Ballast may give a card payment back by itself, so nobody else does.
#[tokio::test]
async fn a_card_payment_is_not_reversed() {
    let mut ballast = Ballast::start().await;
    open_card(&mut ballast, "card", [100, 0, 0]).await;
    let mut cards = ballast.cards();
    let paid = decided(&mut cards, payment("paid", "card", 60, "5411")).await;
    assert_eq!(paid.0, "00");
    let refused = rejected(&mut ballast.balances, reverse("back", "paid"))
        .await
        .expect(Code::FailedPrecondition, "NOT_REVERSIBLE");
    assert_eq!(refused.metadata["cause"], "CARD_PAYMENT");
    ballast.assert_in_order().await;
}
