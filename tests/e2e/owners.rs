//! Owners: their accounts, the one that receives for them, and transfers that name an owner on either side.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ballast::rpc::proto::list_operations_request::Filter;
use ballast::rpc::proto::transfer_request::Destination;
use ballast::rpc::proto::{
    BalanceLimits, CreateAccountRequest, DebitRequest, Direction, ListOperationsRequest, Operation,
    OperationState, TransferRequest,
};
use tonic::Code;

use crate::support::instance::Balances;
use crate::support::*;

fn owned(account_id: &str, owner_id: &str, settlement: bool) -> CreateAccountRequest {
    CreateAccountRequest {
        owner_id: owner_id.to_owned(),
        settlement,
        ..account(account_id)
    }
}

/// ann: ann-main (settles) and ann-savings; ben: ben-main (settles, at most 50), ben-old; cat: cat-main, settles nothing.
async fn people(ballast: &mut Ballast) {
    let limited = CreateAccountRequest {
        limits: vec![BalanceLimits {
            balance_limit_minor_units: Some(50),
            ..BalanceLimits::default()
        }],
        ..owned("ben-main", "ben", true)
    };
    let requests = [
        owned("ann-main", "ann", true),
        owned("ann-savings", "ann", false),
        limited,
        owned("ben-old", "ben", false),
        owned("cat-main", "cat", false),
    ];
    for request in requests {
        let opened = ballast.accounts.create_account(request).await;
        opened.expect("opened");
    }
    let opening = credit("opening", "ann-main", 1_000);
    ballast.balances.credit(opening).await.expect("credited");
}

fn to_owner(operation_id: &str, from: &str, owner_id: &str, minor_units: i64) -> TransferRequest {
    TransferRequest {
        destination: Some(Destination::DestinationOwnerId(owner_id.to_owned())),
        ..transfer(operation_id, from, "", minor_units)
    }
}

fn of_owner(owner_id: &str, direction: Direction, page_size: i32) -> ListOperationsRequest {
    ListOperationsRequest {
        filter: Some(Filter::OwnerId(owner_id.to_owned())),
        direction: direction.into(),
        page_size,
        page_token: String::new(),
    }
}

async fn listed(balances: &mut Balances, mut request: ListOperationsRequest) -> Vec<Operation> {
    let mut found = Vec::new();
    loop {
        let page = balances.list_operations(request.clone()).await;
        let page = page.expect("a page").into_inner();
        found.extend(page.operations);
        if page.next_page_token.is_empty() {
            return found;
        }
        request.page_token = page.next_page_token;
    }
}

fn ids(operations: &[Operation]) -> Vec<&str> {
    let ids = operations.iter();
    ids.map(|operation| operation.operation_id.as_str())
        .collect()
}

#[tokio::test]
async fn of_many_settlement_accounts_at_once_one_is_opened_and_the_others_name_it() {
    let ballast = Ballast::start().await;
    let sibling = ballast.sibling().await;
    let calls: Vec<_> = (0..40)
        .map(|index| {
            let instance = [&ballast, &sibling][index % 2];
            let mut accounts = instance.accounts.clone();
            tokio::spawn(async move {
                let request = owned(&format!("a-{index}"), "ann", true);
                accounts.create_account(request).await
            })
        })
        .collect();
    let (mut opened, mut named) = (Vec::new(), BTreeSet::new());
    for call in calls {
        match call.await.expect("no panic") {
            Ok(response) => {
                let response = response.into_inner();
                assert!(response.created);
                opened.push(response.account.expect("an account").account_id);
            }
            Err(status) => {
                let rejection = Rejection::of_status(&status);
                let rejection = rejection.expect(Code::AlreadyExists, "SETTLEMENT_ACCOUNT_EXISTS");
                assert_eq!(rejection.metadata["owner_id"], "ann");
                named.insert(rejection.metadata["account_id"].clone());
            }
        }
    }
    assert_eq!(opened.len(), 1);
    assert_eq!(named, BTreeSet::from_iter(opened));
}

#[tokio::test]
async fn a_transfer_to_an_owner_arrives_at_the_settlement_account() {
    let mut ballast = Ballast::start().await;
    people(&mut ballast).await;
    let first = ballast
        .balances
        .transfer(to_owner("t", "ann-main", "ben", 30));
    let first = first.await.expect("posted").into_inner();
    let operation = first.operation.expect("an operation");
    assert_eq!(operation.destination_owner_id, "ben");
    assert_eq!(
        operation.destination.expect("a balance").account_id,
        "ben-main"
    );
    let again = ballast
        .balances
        .transfer(to_owner("t", "ann-main", "ben", 30));
    assert!(again.await.expect("the first answer").into_inner().replayed);
    assert_eq!(posted(&mut ballast.balances, "ben-main").await, 30);

    for owner_id in ["cat", "nobody"] {
        let request = to_owner("nowhere", "ann-main", owner_id, 1);
        let rejection = Rejection::of(ballast.balances.transfer(request).await);
        let rejection = rejection.expect(Code::NotFound, "ACCOUNT_NOT_FOUND");
        assert_eq!(rejection.facts(), [("owner_id", owner_id)]);
    }
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_recipient_that_would_overflow_refuses_and_the_sender_keeps_its_money() {
    let mut ballast = Ballast::start().await;
    people(&mut ballast).await;
    let rejection = Rejection::of(
        ballast
            .balances
            .transfer(to_owner("t", "ann-main", "ben", 51))
            .await,
    );
    let rejection = rejection.expect(Code::FailedPrecondition, "BALANCE_LIMIT_EXCEEDED");
    assert_eq!(rejection.metadata["account_id"], "ben-main");
    assert_eq!(rejection.metadata["limit_minor_units"], "50");
    let sender = balance_of(&mut ballast.balances, "ann-main", "").await;
    assert_eq!((sender.posted_minor_units, sender.version), (1_000, 1));
    let recipient = balance_of(&mut ballast.balances, "ben-main", "").await;
    assert_eq!((recipient.posted_minor_units, recipient.version), (0, 0));
    // Both see why.
    for (owner_id, direction) in [("ann", Direction::Outgoing), ("ben", Direction::Incoming)] {
        let found = listed(&mut ballast.balances, of_owner(owner_id, direction, 10)).await;
        let refused = found.first().expect("the refused transfer");
        let reason = refused.refusal.as_ref().map(|r| r.reason.as_str());
        assert_eq!(
            (refused.state(), reason),
            (OperationState::Refused, Some("BALANCE_LIMIT_EXCEEDED"))
        );
    }
    ballast.assert_in_order().await;
}

/// Sender and recipient each see every transfer with its state, from their own side.
#[tokio::test]
async fn both_owners_list_every_transfer_from_their_side() {
    let mut ballast = Ballast::start().await;
    people(&mut ballast).await;
    let (mut sent, mut within) = (Vec::new(), Vec::new());
    for index in 0..12 {
        let id = format!("t-{index:02}");
        // From the sixth on ben's account is full.
        let result = ballast
            .balances
            .transfer(to_owner(&id, "ann-main", "ben", 10));
        assert_eq!(result.await.is_ok(), index < 5);
        sent.insert(0, id);
        let id = format!("own-{index:02}");
        let result = transfer(&id, "ann-main", "ann-savings", 1);
        ballast.balances.transfer(result).await.expect("posted");
        within.insert(0, id);
    }
    for page_size in [1, 5, 100] {
        let mut list = async |owner_id: &str, direction| {
            let request = of_owner(owner_id, direction, page_size);
            listed(&mut ballast.balances, request).await
        };
        let outgoing = list("ann", Direction::Outgoing).await;
        assert_eq!(ids(&outgoing), sent, "pages of {page_size}");
        assert_eq!(list("ben", Direction::Incoming).await, outgoing);
        let refused = outgoing.iter().filter(|o| o.refusal.is_some()).count();
        assert_eq!(refused, 7);
        assert_eq!(ids(&list("ann", Direction::Internal).await), within);
        assert_eq!(
            ids(&list("ann", Direction::Incoming).await),
            ["opening"],
            "money from outside"
        );
        assert_eq!(ids(&list("ben", Direction::Outgoing).await), [""; 0]);
        assert_eq!(list("ann", Direction::Unspecified).await.len(), 25);
    }
}

#[tokio::test]
async fn pages_stay_what_they_were_while_transfers_arrive() {
    let mut ballast = Ballast::start().await;
    people(&mut ballast).await;
    for index in 0..40 {
        let request = transfer(&format!("old-{index}"), "ann-main", "ann-savings", 1);
        ballast.balances.transfer(request).await.expect("posted");
    }
    let all = of_owner("ann", Direction::Unspecified, 1000);
    let before = listed(&mut ballast.balances, all).await;
    let (mut writer, stop) = (ballast.own_balances(), Arc::new(AtomicBool::new(false)));
    let stopping = stop.clone();
    let writing = tokio::spawn(async move {
        let mut count = 0;
        while !stopping.load(Ordering::Acquire) {
            let request = to_owner(&format!("new-{count}"), "ann-main", "ann", 1);
            // From ann to ann: refused or not, it is listed.
            let request = TransferRequest {
                source_account_id: "ann-savings".to_owned(),
                ..request
            };
            let _refused_once_empty = writer.transfer(request).await;
            count += 1;
        }
        count
    });
    let found = listed(
        &mut ballast.balances,
        of_owner("ann", Direction::Unspecified, 3),
    )
    .await;
    stop.store(true, Ordering::Release);
    assert!(writing.await.expect("no panic") > 0);
    let found = ids(&found);
    let unique: BTreeSet<_> = found.iter().collect();
    assert_eq!(unique.len(), found.len(), "nothing is listed twice");
    assert!(
        found.ends_with(&ids(&before)),
        "nothing old is missing: {found:?}"
    );
}

#[tokio::test]
async fn an_asserted_owner_guards_the_account_that_pays() {
    let mut ballast = Ballast::start().await;
    people(&mut ballast).await;
    let guarded = |id: &str, from: &str, owner_id: &str| TransferRequest {
        source_owner_id: owner_id.to_owned(),
        ..to_owner(id, from, "ben", 10)
    };
    let guarded_debit = |id: &str, from: &str, owner_id: &str| DebitRequest {
        owner_id: owner_id.to_owned(),
        ..debit(id, from, 10)
    };
    let balances = &mut ballast.balances;
    let mismatch = |rejection: Rejection| {
        let rejection = rejection.expect(Code::FailedPrecondition, "OWNER_MISMATCH");
        let facts = [("account_id", "ann-main"), ("owner_id", "ben")];
        assert_eq!(rejection.facts(), facts);
        assert!(!rejection.has_precondition_failure);
    };
    // Not recorded: the same ids are free for what comes next.
    mismatch(Rejection::of(
        balances.transfer(guarded("t", "ann-main", "ben")).await,
    ));
    mismatch(Rejection::of(
        balances.debit(guarded_debit("d", "ann-main", "ben")).await,
    ));
    assert_eq!(posted(balances, "ann-main").await, 1_000);
    let transferred = balances.transfer(guarded("t", "ann-main", "ann")).await;
    assert!(!transferred.expect("posted").into_inner().replayed);
    let debited = balances
        .debit(guarded_debit("d", "ann-main", "ann"))
        .await
        .expect("posted");
    assert!(!debited.into_inner().replayed);
    assert_eq!(posted(balances, "ann-main").await, 980);

    // A guard is no content: a replay comes with it or without it, and a wrong one stays wrong.
    let replayed = balances.transfer(guarded("t", "ann-main", "")).await;
    assert!(replayed.expect("the first answer").into_inner().replayed);
    let replayed = balances.debit(guarded_debit("d", "ann-main", "ann")).await;
    assert!(replayed.expect("the first answer").into_inner().replayed);
    mismatch(Rejection::of(
        balances.transfer(guarded("t", "ann-main", "ben")).await,
    ));

    let unknown = Rejection::of(balances.transfer(guarded("u", "nobody", "ann")).await);
    let unknown = unknown.expect(Code::NotFound, "ACCOUNT_NOT_FOUND");
    assert_eq!(unknown.facts(), [("account_id", "nobody")]);
    let malformed = guarded("m", "ann-main", "a b");
    let malformed = Rejection::of(balances.transfer(malformed).await);
    let malformed = malformed.expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(malformed.fields, ["source_owner_id"]);
    let malformed = Rejection::of(balances.debit(guarded_debit("m", "a b", "é")).await);
    assert_eq!(malformed.fields, ["account_id", "owner_id"]);
    ballast.assert_in_order().await;
}

/// Opens accounts of an owner in bulk, as many as would take long one by one.
async fn open_many(ballast: &Ballast, owner_id: &str, count: usize) {
    let sql = ballast.database.sql().await;
    let open = format!(
        "INSERT INTO accounts (account_id, owner_id, currency_code, settlement, create_time)
         SELECT format('{owner_id}-%s', lpad(i::text, 5, '0')), '{owner_id}', 'EUR', false, now()
         FROM generate_series(1, {count}) i;
         INSERT INTO balances (account_id, category, currency_code)
         SELECT account_id, 'main', 'EUR' FROM accounts WHERE owner_id = '{owner_id}';
         ANALYZE accounts, balances"
    );
    sql.batch_execute(&open).await.expect("opened");
}

/// Every account of an owner counts, for what is listed and for the directions, however many there are.
#[tokio::test]
async fn an_owner_of_thousands_of_accounts_lists_all_operations_in_their_directions() {
    let mut ballast = Ballast::start().await;
    open_many(&ballast, "many", 2_500).await;
    open(&mut ballast, "shop", 10_000).await;
    let of = |number: usize| format!("many-{number:05}");
    let balances = &mut ballast.balances;
    let mut expected = [vec![], vec![], vec![]];
    // Accounts from everywhere in the order of ids, of which only some are among the first thousand.
    for number in (100..=2_500).step_by(160) {
        let next = of(2_600 - number);
        let [incoming, internal, outgoing] =
            ["in", "within", "out"].map(|what| format!("{what}-{number:05}"));
        for request in [
            transfer(&incoming, "shop", &of(number), 50),
            transfer(&internal, &of(number), &next, 20),
            transfer(&outgoing, &next, "shop", 10),
        ] {
            balances.transfer(request).await.expect("posted");
        }
        let refused = format!("refused-{number:05}");
        let poor = transfer(&refused, &of(number), "shop", 1_000);
        Rejection::of(balances.transfer(poor).await);
        expected[0].insert(0, incoming);
        expected[1].insert(0, internal);
        expected[2].splice(0..0, [refused, outgoing]);
    }
    let directions = [
        Direction::Incoming,
        Direction::Internal,
        Direction::Outgoing,
    ];
    for page_size in [3, 50, 1000] {
        for (direction, expected) in directions.into_iter().zip(&expected) {
            let found = listed(balances, of_owner("many", direction, page_size)).await;
            assert_eq!(
                ids(&found),
                *expected,
                "{direction:?}, pages of {page_size}"
            );
        }
        let all = listed(
            balances,
            of_owner("many", Direction::Unspecified, page_size),
        )
        .await;
        let all: BTreeSet<_> = ids(&all).into_iter().collect();
        let expected: BTreeSet<_> = expected.iter().flatten().map(String::as_str).collect();
        assert_eq!(all, expected, "pages of {page_size}");
    }
}
