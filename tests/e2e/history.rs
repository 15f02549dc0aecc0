//! History: what happened stays readable, page by page, and a balance can be looked up at any time of its past.

use ballast::rpc::proto::list_operations_request::Filter;
use ballast::rpc::proto::transfer_request::Destination;
use ballast::rpc::proto::{
    CreateAccountRequest, Direction, GetBalanceRequest, GetOperationRequest, ListEntriesRequest,
    ListOperationsRequest, Operation, OperationState, TransferRequest,
};

use crate::support::instance::Balances;
use crate::support::*;

async fn pages(balances: &mut Balances, mut request: ListOperationsRequest) -> Vec<Vec<Operation>> {
    let mut pages = Vec::new();
    loop {
        let page = balances
            .list_operations(request.clone())
            .await
            .expect("a page")
            .into_inner();
        pages.push(page.operations);
        if page.next_page_token.is_empty() {
            return pages;
        }
        request.page_token = page.next_page_token;
    }
}

fn ids(operations: &[Operation]) -> Vec<&str> {
    operations
        .iter()
        .map(|operation| operation.operation_id.as_str())
        .collect()
}

fn of_account(account_id: &str, page_size: i32) -> ListOperationsRequest {
    ListOperationsRequest {
        filter: Some(Filter::AccountId(account_id.to_owned())),
        page_size,
        ..ListOperationsRequest::default()
    }
}

#[tokio::test]
async fn operations_are_listed_newest_first_refused_ones_included() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 10).await;
    open(&mut ballast, "b", 0).await;
    ballast
        .balances
        .transfer(transfer("t-1", "a", "b", 4))
        .await
        .expect("posted");
    Rejection::of(
        ballast
            .balances
            .transfer(transfer("t-2", "a", "b", 7))
            .await,
    );
    Rejection::of(
        ballast
            .balances
            .transfer(transfer("t-3", "b", "a", 5))
            .await,
    );
    ballast
        .balances
        .transfer(transfer("t-4", "b", "a", 4))
        .await
        .expect("posted");

    let expected = ["t-4", "t-3", "t-2", "t-1", "a-opening"];
    for page_size in [1, 2, 4, 5, 100] {
        let found = pages(&mut ballast.balances, of_account("a", page_size)).await;
        assert!(found.iter().all(|page| page.len() <= page_size as usize));
        assert_eq!(ids(&found.concat()), expected, "pages of {page_size}");
    }
    let all = pages(&mut ballast.balances, of_account("a", 100))
        .await
        .concat();
    let refused = &all[2];
    assert_eq!(
        (
            refused.state(),
            refused.refusal.as_ref().map(|r| r.reason.as_str())
        ),
        (OperationState::Refused, Some("INSUFFICIENT_FUNDS"))
    );
    let one = GetOperationRequest {
        operation_id: "t-2".to_owned(),
        ..GetOperationRequest::default()
    };
    let one = ballast
        .balances
        .get_operation(one)
        .await
        .expect("recorded")
        .into_inner();
    assert_eq!(
        (one.operation.as_ref(), one.entries.len()),
        (Some(refused), 0)
    );
    let posted = GetOperationRequest {
        operation_id: "t-1".to_owned(),
        ..GetOperationRequest::default()
    };
    let posted = ballast
        .balances
        .get_operation(posted)
        .await
        .expect("recorded")
        .into_inner();
    assert_eq!(
        (posted.operation.as_ref(), posted.entries.len()),
        (Some(&all[3]), 2)
    );
    assert!(
        pages(&mut ballast.balances, of_account("nobody", 0))
            .await
            .concat()
            .is_empty()
    );
}

#[tokio::test]
async fn an_owner_sees_each_direction_and_a_page_stays_what_it_was() {
    let mut ballast = Ballast::start().await;
    for name in ["own-1", "own-2"] {
        let request = CreateAccountRequest {
            owner_id: "me".to_owned(),
            settlement: name == "own-1",
            ..account(name)
        };
        ballast
            .accounts
            .create_account(request)
            .await
            .expect("opened");
    }
    open(&mut ballast, "shop", 100).await;
    let to_me = |id: &str| TransferRequest {
        destination: Some(Destination::DestinationOwnerId("me".to_owned())),
        ..transfer(id, "shop", "", 10)
    };
    for index in 0..5 {
        ballast
            .balances
            .transfer(to_me(&format!("in-{index}")))
            .await
            .expect("posted");
        ballast
            .balances
            .transfer(transfer(&format!("own-{index}"), "own-1", "own-2", 5))
            .await
            .expect("posted");
        ballast
            .balances
            .transfer(transfer(&format!("out-{index}"), "own-2", "shop", 1))
            .await
            .expect("posted");
    }
    let of_me = |direction: Direction| ListOperationsRequest {
        filter: Some(Filter::OwnerId("me".to_owned())),
        direction: direction.into(),
        page_size: 2,
        page_token: String::new(),
    };
    for (direction, prefix) in [
        (Direction::Incoming, "in"),
        (Direction::Outgoing, "out"),
        (Direction::Internal, "own"),
    ] {
        let found = pages(&mut ballast.balances, of_me(direction))
            .await
            .concat();
        let expected: Vec<String> = (0..5)
            .rev()
            .map(|index| format!("{prefix}-{index}"))
            .collect();
        assert_eq!(ids(&found), expected);
    }
    let all = pages(&mut ballast.balances, of_me(Direction::Unspecified)).await;
    assert_eq!(
        all.concat().len(),
        15,
        "an operation with both sides here is listed once"
    );

    let first = ballast
        .balances
        .list_operations(of_me(Direction::Unspecified))
        .await
        .expect("a page")
        .into_inner();
    ballast
        .balances
        .transfer(to_me("later"))
        .await
        .expect("posted");
    let second = ListOperationsRequest {
        page_token: first.next_page_token,
        ..of_me(Direction::Unspecified)
    };
    let second = ballast
        .balances
        .list_operations(second)
        .await
        .expect("a page")
        .into_inner();
    assert_eq!(ids(&second.operations), ids(&all[1]));
}

#[tokio::test]
async fn a_statement_reads_from_both_ends() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    for index in 1..=5 {
        ballast
            .balances
            .credit(credit(&index.to_string(), "a", index))
            .await
            .expect("posted");
    }
    let mut read = async |oldest_first: bool| {
        let mut request = ListEntriesRequest {
            account_id: "a".to_owned(),
            oldest_first,
            page_size: 2,
            ..Default::default()
        };
        let mut found = Vec::new();
        loop {
            let page = ballast
                .balances
                .list_entries(request.clone())
                .await
                .expect("a page")
                .into_inner();
            found.extend(
                page.entries
                    .iter()
                    .map(|e| (e.version, e.amount_minor_units, e.posted_after_minor_units)),
            );
            if page.next_page_token.is_empty() {
                return found;
            }
            request.page_token = page.next_page_token;
        }
    };
    let mut expected = vec![(1, 1, 1), (2, 2, 3), (3, 3, 6), (4, 4, 10), (5, 5, 15)];
    assert_eq!(read(true).await, expected);
    expected.reverse();
    assert_eq!(read(false).await, expected);
}

#[tokio::test]
async fn a_balance_is_known_at_every_time_of_its_past() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    let mut times = Vec::new();
    for index in 1..=20 {
        let response = ballast
            .balances
            .credit(credit(&index.to_string(), "a", index))
            .await
            .expect("posted")
            .into_inner();
        times.push(response.entries[0].create_time.expect("a time"));
    }
    let mut at = async |time: prost_types::Timestamp| {
        let request = GetBalanceRequest {
            account_id: "a".to_owned(),
            category: String::new(),
            at_time: Some(time),
        };
        let balance = ballast
            .balances
            .get_balance(request)
            .await
            .expect("an answer")
            .into_inner()
            .balance
            .expect("one");
        (balance.version, balance.posted_minor_units)
    };
    for (index, time) in (1..).zip(&times) {
        assert_eq!(at(*time).await, (index, index * (index + 1) / 2));
        let just_before = prost_types::Timestamp {
            nanos: time.nanos - 1_000,
            ..*time
        };
        if time.nanos >= 1_000 {
            assert_eq!(at(just_before).await.0, index - 1);
        }
    }
    assert_eq!(at(prost_types::Timestamp::default()).await, (0, 0));
    let food = GetBalanceRequest {
        account_id: "a".to_owned(),
        category: "FOOD".to_owned(),
        at_time: Some(times[3]),
    };
    let balance = ballast.balances.get_balance(food.clone()).await;
    let balance = balance.expect("zero").into_inner().balance.expect("one");
    assert_eq!((balance.version, balance.posted_minor_units), (0, 0));
    let nobody = GetBalanceRequest {
        account_id: "nobody".to_owned(),
        ..food
    };
    let unknown = Rejection::of(ballast.balances.get_balance(nobody).await);
    unknown.expect(tonic::Code::NotFound, "ACCOUNT_NOT_FOUND");
}

/// The clock of the database was an hour ahead until now.
async fn set_clock_back(ballast: &Ballast) {
    let sql = ballast.database.sql().await;
    let ahead =
        "UPDATE balances SET update_time = update_time + interval '1 hour' WHERE version > 0;
                 UPDATE operations SET create_time = create_time + interval '1 hour';
                 UPDATE entry_marks SET create_time = create_time + interval '1 hour'";
    sql.batch_execute(ahead).await.expect("ahead");
}

/// What happens after the clock was set back comes after what happened before, on the same accounts: refused operations, other
/// categories and merges of nothing included.
#[tokio::test]
async fn an_account_s_history_keeps_its_order_when_the_clock_is_set_back() {
    let mut ballast = Ballast::start().await;
    for (name, minor_units) in [("a", 100), ("b", 100), ("empty", 0)] {
        open(&mut ballast, name, minor_units).await;
    }
    for index in 0..20 {
        let id = format!("before-{index:02}");
        let posted = ballast.balances.transfer(transfer(&id, "a", "b", 1)).await;
        posted.expect("posted");
    }
    set_clock_back(&ballast).await;
    let balances = &mut ballast.balances;
    let mut expected: Vec<String> = (0..20).map(|index| format!("before-{index:02}")).collect();
    for index in 0..3 {
        let ids = ["refused", "other", "posted"].map(|what| format!("{what}-{index}"));
        let [refused, other, posted] = &ids;
        let poor = transfer(refused, "a", "b", 1_000);
        Rejection::of(balances.transfer(poor).await);
        let other = ballast::rpc::proto::CreditRequest {
            category: "FOOD".to_owned(),
            ..credit(other, "a", 1)
        };
        balances.credit(other).await.expect("posted");
        let posted = transfer(posted, "a", "b", 1);
        balances.transfer(posted).await.expect("posted");
        expected.extend(ids);
    }
    let nothing = merge("merge-of-nothing", "empty", "a");
    balances.merge_accounts(nothing).await.expect("merged");
    expected.push("merge-of-nothing".to_owned());
    expected.reverse();
    expected.push("a-opening".to_owned());
    for page_size in [1, 2, 7, 100] {
        let found = pages(balances, of_account("a", page_size)).await.concat();
        assert_eq!(ids(&found), expected, "pages of {page_size}");
    }
    ballast.assert_in_order().await;
}

/// Refused operations set no time, so after the clock was set back again they may sort among each other in another order than
/// they came in. None is lost and none comes twice, whenever the pages are read.
#[tokio::test]
async fn pages_are_whole_while_the_clock_is_set_back_again_and_again() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    let mut expected = std::collections::BTreeSet::from(["a-opening".to_owned()]);
    for round in 0..4 {
        for index in 0..4 {
            let (refused, posted) = (format!("r-{round}-{index}"), format!("p-{round}-{index}"));
            Rejection::of(ballast.balances.debit(debit(&refused, "a", 1_000)).await);
            let request = debit(&posted, "a", 1);
            ballast.balances.debit(request).await.expect("posted");
            expected.extend([refused, posted]);
        }
        set_clock_back(&ballast).await;
    }
    let all = pages(&mut ballast.balances, of_account("a", 1000))
        .await
        .concat();
    for page_size in [1, 3, 5] {
        let found = pages(&mut ballast.balances, of_account("a", page_size))
            .await
            .concat();
        assert_eq!(ids(&found), ids(&all), "pages of {page_size}");
    }
    assert_eq!(ids(&all).len(), expected.len(), "nothing comes twice");
    let all: std::collections::BTreeSet<_> = ids(&all).into_iter().map(str::to_owned).collect();
    assert_eq!(all, expected);
}
