//! PostOperation: any number of debits and credits as one operation, all of them or none.

use ballast::rpc::proto::list_operations_request::Filter;
use ballast::rpc::proto::operation_result::Outcome;
use ballast::rpc::proto::{
    BalanceLimits, CreateAccountRequest, Direction, Entry, GetBalanceRequest, GetOperationRequest,
    LegSide, ListEntriesRequest, ListOperationsRequest, Money, OperationKind, OperationState,
    PostOperationRequest, PostOperationResponse, PostingLeg,
};
use tonic::Code;

use crate::support::instance::Balances;
use crate::support::*;

/// A change of a request that breaks one rule.
type Break = fn(&mut PostOperationRequest);

async fn posted_legs(
    balances: &mut Balances,
    request: PostOperationRequest,
) -> PostOperationResponse {
    let answer = balances.post_operation(request).await;
    answer.expect("posted").into_inner()
}

async fn operation_ids(
    balances: &mut Balances,
    account_id: &str,
    direction: Direction,
) -> Vec<String> {
    let request = ListOperationsRequest {
        filter: Some(Filter::AccountId(account_id.to_owned())),
        direction: direction.into(),
        ..ListOperationsRequest::default()
    };
    let listed = balances.list_operations(request).await;
    let listed = listed.expect("a page").into_inner().operations;
    listed.into_iter().map(|one| one.operation_id).collect()
}

/// The account and the amount of each entry.
fn moved(entries: &[Entry]) -> Vec<(&str, i64)> {
    entries
        .iter()
        .map(|entry| (entry.account_id.as_str(), entry.amount_minor_units))
        .collect()
}

#[tokio::test]
async fn a_sale_with_fee_and_tax_is_one_operation() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "buyer", 100).await;
    for name in ["seller", "fees", "tax"] {
        open(&mut ballast, name, 0).await;
    }
    let sale = post(
        "sale",
        &[("buyer", 100)],
        &[("seller", 85), ("fees", 10), ("tax", 5)],
    );
    let balances = &mut ballast.balances;
    let first = posted_legs(balances, sale.clone()).await;
    let expected = [("buyer", -100), ("seller", 85), ("fees", 10), ("tax", 5)];
    assert_eq!(moved(&first.entries), expected);
    let after: Vec<i64> = first
        .balances
        .iter()
        .map(|balance| balance.posted_minor_units)
        .collect();
    assert_eq!(after, [0, 85, 10, 5]);
    let operation = first.operation.clone().expect("an operation");
    assert_eq!(operation.kind(), OperationKind::Post);
    assert_eq!(operation.state(), OperationState::Posted);
    assert_eq!((operation.source, operation.destination), (None, None));
    assert_eq!(operation.legs, sale.legs);

    // Whoever asks later, on whichever instance, gets the same.
    let mut sibling = ballast.sibling().await;
    let again = posted_legs(&mut sibling.balances, sale.clone()).await;
    let replayed = PostOperationResponse {
        replayed: true,
        ..first.clone()
    };
    assert_eq!(again, replayed);
    let asked = GetOperationRequest {
        operation_id: "sale".to_owned(),
        ..GetOperationRequest::default()
    };
    let found = sibling.balances.get_operation(asked).await.expect("known");
    let found = found.into_inner();
    assert_eq!(
        (found.operation, found.entries),
        (first.operation, first.entries)
    );

    for (account_id, direction, is_listed) in [
        ("buyer", Direction::Outgoing, true),
        ("buyer", Direction::Incoming, false),
        ("seller", Direction::Incoming, true),
        ("tax", Direction::Incoming, true),
        ("tax", Direction::Unspecified, true),
    ] {
        let listed = operation_ids(&mut ballast.balances, account_id, direction).await;
        assert_eq!(
            listed.contains(&"sale".to_owned()),
            is_listed,
            "{account_id} {direction:?}"
        );
    }
    let mut other = sale;
    other.legs.swap(2, 3);
    let reused = Rejection::of(ballast.balances.post_operation(other).await)
        .expect(Code::AlreadyExists, "OPERATION_ID_REUSED");
    assert_eq!(reused.metadata["fields"], "legs");
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn currencies_are_exchanged_through_accounts_that_have_both() {
    let mut ballast = Ballast::start().await;
    for (name, code) in [
        ("alice-eur", "EUR"),
        ("desk-eur", "EUR"),
        ("alice-usd", "USD"),
        ("desk-usd", "USD"),
    ] {
        let request = CreateAccountRequest {
            currency_code: code.to_owned(),
            ..account(name)
        };
        ballast
            .accounts
            .create_account(request)
            .await
            .expect("opened");
    }
    let usd = |minor_units| {
        Some(Money {
            currency_code: "USD".to_owned(),
            minor_units,
        })
    };
    let mut opening = credit("opening-usd", "desk-usd", 1_000);
    opening.amount = usd(1_000);
    ballast.balances.credit(opening).await.expect("credited");
    let opening = credit("opening-eur", "alice-eur", 100);
    ballast.balances.credit(opening).await.expect("credited");
    let exchange = |id: &str, dollars| {
        let mut exchange = post(id, &[("alice-eur", 100)], &[("desk-eur", 100)]);
        let in_dollars = [
            leg(LegSide::Debit, "desk-usd", 1),
            leg(LegSide::Credit, "alice-usd", 1),
        ];
        exchange.legs.extend(in_dollars.map(|leg| PostingLeg {
            amount: usd(dollars),
            ..leg
        }));
        exchange
    };
    // What the desk has not is not exchanged at all.
    let refused = ballast
        .balances
        .post_operation(exchange("too-much", 1_001))
        .await;
    let refused = Rejection::of(refused).expect(Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
    assert_eq!(refused.metadata["leg"], "2");
    assert_eq!(refused.metadata["currency_code"], "USD");
    assert!(refused.has_precondition_failure);
    assert_eq!(posted(&mut ballast.balances, "alice-eur").await, 100);
    posted_legs(&mut ballast.balances, exchange("exchange", 110)).await;
    for (name, expected) in [
        ("alice-eur", 0),
        ("desk-eur", 100),
        ("alice-usd", 110),
        ("desk-usd", 890),
    ] {
        assert_eq!(
            posted(&mut ballast.balances, name).await,
            expected,
            "{name}"
        );
    }
    ballast.assert_in_order().await;
}

/// What enters a balance can leave it in the same operation, if that comes later. Each leg has an entry, which history shows.
#[tokio::test]
async fn legs_see_those_before_them() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    open(&mut ballast, "b", 0).await;
    let legs = |id: &str, order: [usize; 4]| {
        let legs = [
            leg(LegSide::Debit, "", 10),
            leg(LegSide::Credit, "a/FOOD", 10),
            leg(LegSide::Debit, "a/FOOD", 10),
            leg(LegSide::Credit, "b", 10),
        ];
        PostOperationRequest {
            operation_id: id.to_owned(),
            legs: order.map(|index| legs[index].clone()).into(),
            ..PostOperationRequest::default()
        }
    };
    let early = ballast
        .balances
        .post_operation(legs("early", [0, 2, 1, 3]))
        .await;
    let early = Rejection::of(early).expect(Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
    assert_eq!(early.metadata["leg"], "1");
    let first = posted_legs(&mut ballast.balances, legs("through", [0, 1, 2, 3])).await;
    assert_eq!(moved(&first.entries), [("a", 10), ("a", -10), ("b", 10)]);
    let versions: Vec<i64> = first.entries.iter().map(|entry| entry.version).collect();
    assert_eq!(versions, [1, 2, 1]);
    for round in 0..20 {
        let request = legs(&format!("through-{round}"), [0, 1, 2, 3]);
        posted_legs(&mut ballast.balances, request).await;
    }
    let mut sibling = ballast.sibling().await;
    let again = posted_legs(&mut sibling.balances, legs("through", [0, 1, 2, 3])).await;
    assert_eq!(again.entries, first.entries);

    let statement = ListEntriesRequest {
        account_id: "a".to_owned(),
        category: "FOOD".to_owned(),
        oldest_first: true,
        ..ListEntriesRequest::default()
    };
    let listed = ballast
        .balances
        .list_entries(statement)
        .await
        .expect("a page");
    let listed = listed.into_inner().entries;
    let expected: Vec<(i64, i64)> = (1..=42)
        .map(|version| (version, version % 2 * 10))
        .collect();
    let found: Vec<(i64, i64)> = listed
        .iter()
        .map(|entry| (entry.version, entry.posted_after_minor_units))
        .collect();
    assert_eq!(found, expected);
    let at_time = first.operation.expect("an operation").create_time;
    let then = GetBalanceRequest {
        account_id: "a".to_owned(),
        category: "FOOD".to_owned(),
        at_time,
    };
    let then = ballast.balances.get_balance(then).await.expect("known");
    let then = then.into_inner().balance.expect("a balance");
    assert_eq!((then.version, then.posted_minor_units), (2, 0));
    ballast.assert_in_order().await;
}

/// A refused operation is recorded once, and found by each of its accounts.
#[tokio::test]
async fn a_refusal_names_the_leg_and_is_listed_for_every_account() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "payer", 5).await;
    open(&mut ballast, "rich", 1_000).await;
    open(&mut ballast, "closed", 0).await;
    open(&mut ballast, "heir", 0).await;
    let limited = CreateAccountRequest {
        limits: vec![BalanceLimits {
            category: String::new(),
            overdraft_limit_minor_units: 0,
            balance_limit_minor_units: Some(7),
        }],
        ..account("limited")
    };
    ballast
        .accounts
        .create_account(limited)
        .await
        .expect("opened");
    let merged = ballast
        .balances
        .merge_accounts(merge("close", "closed", "heir"))
        .await;
    merged.expect("merged");
    let cases = [
        (
            "poor",
            post("poor", &[("rich", 10), ("payer", 6)], &[("heir", 16)]),
            ("INSUFFICIENT_FUNDS", "1"),
        ),
        (
            "full",
            post(
                "full",
                &[("rich", 8)],
                &[("heir", 1), ("limited", 4), ("limited", 3)],
            ),
            ("", ""),
        ),
        (
            "over",
            post("over", &[("rich", 5)], &[("heir", 4), ("limited", 1)]),
            ("BALANCE_LIMIT_EXCEEDED", "2"),
        ),
        (
            "late",
            post(
                "late",
                &[("rich", 5)],
                &[("heir", 2), ("closed", 2), ("limited", 1)],
            ),
            ("ACCOUNT_CLOSED", "2"),
        ),
    ];
    for (id, request, (reason, leg)) in cases {
        let accounts: Vec<String> = request
            .legs
            .iter()
            .map(|leg| leg.account_id.clone())
            .collect();
        let answer = ballast.balances.post_operation(request.clone()).await;
        if reason.is_empty() {
            assert_eq!(
                moved(&answer.expect("posted").into_inner().entries).len(),
                4
            );
        } else {
            let refused = Rejection::of(answer).expect(Code::FailedPrecondition, reason);
            assert_eq!(refused.metadata["leg"], leg, "{id}");
            // Whatever happens meanwhile, it stays refused.
            let rescue = credit(&format!("rescue-{id}"), "payer", 100);
            ballast.balances.credit(rescue).await.expect("credited");
            let again = Rejection::of(ballast.balances.post_operation(request).await);
            assert_eq!(again.facts(), refused.facts());
        }
        for account_id in accounts {
            let all = Direction::Unspecified;
            let listed = operation_ids(&mut ballast.balances, &account_id, all).await;
            assert!(
                listed.contains(&id.to_owned()),
                "{id} of {account_id}: {listed:?}"
            );
        }
    }
    // What is no refusal leaves its id free.
    for (code, reason, request) in [
        (
            Code::NotFound,
            "ACCOUNT_NOT_FOUND",
            post("free", &[("rich", 1)], &[("nobody", 1)]),
        ),
        (Code::FailedPrecondition, "CURRENCY_MISMATCH", {
            let mut request = post("free", &[("rich", 1)], &[("heir", 1)]);
            for leg in &mut request.legs {
                if let Some(amount) = &mut leg.amount {
                    amount.currency_code = "USD".to_owned();
                }
            }
            request
        }),
    ] {
        let answer = ballast.balances.post_operation(request).await;
        let rejection = Rejection::of(answer).expect(code, reason);
        assert!(rejection.metadata.contains_key("leg"), "{rejection:?}");
    }
    let free = post("free", &[("rich", 1)], &[("heir", 1)]);
    posted_legs(&mut ballast.balances, free).await;
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn each_broken_rule_is_named() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 10).await;
    let rows: [(&str, Break); 12] = [
        ("operation_id", |request| request.operation_id.clear()),
        ("legs", |request| request.legs.clear()),
        ("legs", |request| request.legs.truncate(1)),
        ("legs", |request| {
            request.legs = vec![leg(LegSide::Debit, "a", 1); 101]
        }),
        ("legs", |request| {
            request
                .legs
                .iter_mut()
                .for_each(|leg| leg.account_id.clear());
        }),
        ("legs", |request| {
            request.legs[1].amount = eur(2);
        }),
        ("legs[0].side", |request| request.legs[0].side = 0),
        ("legs[1].amount", |request| request.legs[1].amount = None),
        ("legs[1].amount.minor_units", |request| {
            request.legs[1].amount = eur(0)
        }),
        ("legs[1].account_id", |request| {
            "a b".clone_into(&mut request.legs[1].account_id)
        }),
        ("legs[1].categories", |request| {
            request.legs[1].categories = strings(["FOOD", "MEAL"]);
        }),
        ("legs[0].categories[1]", |request| {
            request.legs[0].categories = strings(["FOOD", "FOOD"]);
        }),
    ];
    for (field, change) in rows {
        let mut request = post("op", &[("a", 1)], &[("b", 1)]);
        change(&mut request);
        let answer = ballast.balances.post_operation(request).await;
        let rejection = Rejection::of(answer).expect(Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(rejection.fields, [field], "{rejection:?}");
    }
    let outside = PostOperationRequest {
        legs: vec![
            PostingLeg {
                categories: strings(["FOOD"]),
                ..leg(LegSide::Debit, "", 1)
            },
            leg(LegSide::Credit, "a", 1),
        ],
        ..post("op", &[], &[])
    };
    let answer = ballast.balances.post_operation(outside).await;
    Rejection::of(answer).expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    ballast.assert_in_order().await;
}

/// Among others of all kinds, in batches and streams, as by its own RPC.
#[tokio::test]
async fn it_is_a_member_like_all_others() {
    let mut ballast = Ballast::start().await;
    for name in ["a", "b", "c"] {
        open(&mut ballast, name, 100).await;
    }
    let members = vec![
        member(post("1", &[("a", 10)], &[("b", 5), ("c", 5)]).into()),
        credit_member("2", "a", 1),
        member(post("3", &[("b", 1_000)], &[("c", 1_000)]).into()),
        member(post("4", &[("b", 1)], &[("c", 2)]).into()),
    ];
    let results = execute(&mut ballast.balances, members).await;
    let posted_balances = posted_of(&results[0]).balances.len();
    assert_eq!(posted_balances, 3);
    posted_of(&results[1]);
    assert_eq!(error_of(&results[2]).reason, "INSUFFICIENT_FUNDS");
    assert_eq!(error_of(&results[2]).metadata["leg"], "0");
    assert_eq!(error_of(&results[3]).reason, "INVALID_ARGUMENT");
    let unanswered = results
        .iter()
        .filter(|result| !matches!(result.outcome, Some(Outcome::Posted(_) | Outcome::Error(_))));
    assert_eq!(unanswered.count(), 0);
    ballast.assert_in_order().await;
}

/// The answer to a batch has room for the balances of so many legs.
#[tokio::test]
async fn a_batch_has_a_limited_number_of_legs() {
    let ballast = Ballast::start().await;
    let legs: Vec<(&str, i64)> = vec![("a", 1); 50];
    let members = |count: usize| -> Vec<_> {
        let request = |index: usize| post(&index.to_string(), &legs, &legs);
        (0..count)
            .map(|index| member(request(index).into()))
            .collect()
    };
    let mut balances = ballast.balances.clone();
    let answer = balances.execute_batch(batch(members(201))).await;
    let rejection = Rejection::of(answer).expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(rejection.fields, ["operations"]);
    let results = execute(&mut balances, members(200)).await;
    assert_eq!(error_of(&results[199]).reason, "ACCOUNT_NOT_FOUND");
}
