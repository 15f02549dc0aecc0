//! Unreadable rows: what somebody changed in the database so that it cannot be read is listed as such, and hides nothing else.

use std::io::Read;
use std::process::Stdio;

use ballast::rpc::proto::list_operations_request::Filter;
use ballast::rpc::proto::{
    AccountState, BatchGetAccountsRequest, CreateAccountRequest, Direction, GetAccountRequest,
    GetOperationRequest, ListAccountsRequest, ListEntriesRequest, ListOperationsRequest, Operation,
    OperationState,
};
use tonic::Code;

use crate::support::instance::Balances;
use crate::support::*;

const OWNER: &str = "us";

/// Two accounts of an owner, with 20 operations between them and some refused ones.
async fn live() -> Ballast {
    let mut ballast = Ballast::start().await;
    for name in ["a", "b"] {
        let request = CreateAccountRequest {
            owner_id: OWNER.to_owned(),
            labels: [("colour".to_owned(), "red".to_owned())].into(),
            ..account(name)
        };
        let opened = ballast.accounts.create_account(request).await;
        opened.expect("opened");
    }
    let balances = &mut ballast.balances;
    balances
        .credit(credit("opening", "a", 100))
        .await
        .expect("posted");
    for index in 0..20 {
        let request = transfer(&format!("t-{index}"), "a", "b", 1);
        balances.transfer(request).await.expect("posted");
        let refused = debit(&format!("r-{index}"), "a", 1_000);
        Rejection::of(balances.debit(refused).await);
    }
    ballast
}

async fn change(ballast: &Ballast, statements: &str) {
    let sql = ballast.database.sql().await;
    let checks = "ALTER TABLE operations DROP CONSTRAINT IF EXISTS operations_source_shape,
                                         DROP CONSTRAINT IF EXISTS operations_destination_shape";
    sql.batch_execute(checks)
        .await
        .expect("any row can be written");
    sql.batch_execute(statements).await.expect("changed");
}

async fn listed(
    balances: &mut Balances,
    filter: Filter,
    direction: Direction,
    page_size: i32,
) -> Vec<Operation> {
    let mut request = ListOperationsRequest {
        filter: Some(filter),
        direction: direction.into(),
        page_size,
        page_token: String::new(),
    };
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

#[tokio::test]
async fn an_operation_that_cannot_be_read_is_listed_as_such_among_all_others() {
    let mut ballast = live().await;
    let of_owner = || Filter::OwnerId(OWNER.to_owned());
    let of_account = || Filter::AccountId("a".to_owned());
    let whole = listed(
        &mut ballast.balances,
        of_owner(),
        Direction::Unspecified,
        50,
    )
    .await;
    assert_eq!(whole.len(), 41);
    change(
        &ballast,
        "UPDATE operations SET metadata = '[]' WHERE operation_id = 't-3';
         UPDATE operations SET kind = 'WHAT' WHERE operation_id = 't-7';
         UPDATE operations SET refusal_facts = '{}' WHERE operation_id = 'r-5';
         UPDATE operations SET refusal_reason = 'WHAT' WHERE operation_id = 'r-6';
         UPDATE operations SET currency_code = 'euro' WHERE operation_id = 't-11';
         UPDATE operations SET create_time = 'infinity' WHERE operation_id = 'r-12'",
    )
    .await;
    let changed = ["t-3", "t-7", "r-5", "r-6", "t-11", "r-12"];
    for page_size in [1, 7, 50] {
        for filter in [of_owner(), of_account()] {
            let found = listed(
                &mut ballast.balances,
                filter,
                Direction::Unspecified,
                page_size,
            )
            .await;
            assert_eq!(found.len(), whole.len(), "pages of {page_size}");
            // Its time is the latest, so it comes first; all others are where they were.
            assert_eq!(found[0].operation_id, "r-12");
            let before = whole.iter().filter(|one| one.operation_id != "r-12");
            for (one, before) in found[1..].iter().zip(before) {
                assert_eq!(one.operation_id, before.operation_id);
                if !changed.contains(&one.operation_id.as_str()) {
                    assert_eq!(one, before);
                }
            }
            for one in found
                .iter()
                .filter(|one| changed.contains(&one.operation_id.as_str()))
            {
                let shown = Operation {
                    operation_id: one.operation_id.clone(),
                    unreadable: one.unreadable.clone(),
                    ..Operation::default()
                };
                assert_eq!((one, one.unreadable.is_empty()), (&shown, false));
                assert_eq!(one.state(), OperationState::Unspecified);
            }
        }
    }
    // Nobody knows its direction, so it is in each; and the statement of the balance is whole.
    for direction in [
        Direction::Incoming,
        Direction::Outgoing,
        Direction::Internal,
    ] {
        let found = listed(&mut ballast.balances, of_owner(), direction, 50).await;
        let unreadable = found.iter().filter(|one| !one.unreadable.is_empty());
        assert_eq!(unreadable.count(), changed.len(), "{direction:?}");
    }
    let statement = ListEntriesRequest {
        account_id: "b".to_owned(),
        ..ListEntriesRequest::default()
    };
    let statement = ballast.balances.list_entries(statement).await;
    let entries = statement.expect("a page").into_inner().entries;
    assert_eq!(entries.len(), 20);
    assert!(entries.iter().all(|entry| entry.unreadable.is_empty()));
    // Asked about alone, it is an error: nobody may take an answer for "it happened".
    for id in changed {
        let request = GetOperationRequest {
            operation_id: id.to_owned(),
            ..Default::default()
        };
        let answer = ballast.balances.get_operation(request).await;
        let failed = Rejection::of(answer).expect(Code::Internal, "INTERNAL");
        assert_eq!(failed.facts(), [("outcome", "none")], "it only reads");
    }
    // Sent again it is an error, too, and not one that says that nothing happened: the money has moved.
    let again = ballast.balances.transfer(transfer("t-3", "a", "b", 1));
    let failed = Rejection::of(again.await).expect(Code::Internal, "INTERNAL");
    assert_eq!(failed.facts(), [("outcome", "unknown")]);
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_is_listed_as_such_among_all_others() {
    let mut ballast = live().await;
    let statement = |oldest_first| ListEntriesRequest {
        account_id: "b".to_owned(),
        oldest_first,
        ..ListEntriesRequest::default()
    };
    let whole = ballast.balances.list_entries(statement(true)).await;
    let whole = whole.expect("a page").into_inner().entries;
    change(
        &ballast,
        "UPDATE operations SET amount = NULL WHERE operation_id = 't-3';
         UPDATE operations SET create_time = '-infinity' WHERE operation_id = 't-9'",
    )
    .await;
    for oldest_first in [true, false] {
        let found = ballast.balances.list_entries(statement(oldest_first)).await;
        let mut found = found.expect("a page").into_inner().entries;
        if !oldest_first {
            found.reverse();
        }
        assert_eq!(found.len(), whole.len());
        for (index, (found, whole)) in found.iter().zip(&whole).enumerate() {
            match index {
                3 | 9 => {
                    let shown = |entry: &ballast::rpc::proto::Entry| {
                        (
                            entry.account_id.clone(),
                            entry.version,
                            entry.operation_id.clone(),
                        )
                    };
                    assert_eq!(shown(found), shown(whole));
                    assert_eq!(
                        (found.unreadable.is_empty(), found.create_time),
                        (false, None)
                    );
                }
                _ => assert_eq!(found, whole),
            }
        }
    }
}

#[tokio::test]
async fn an_account_that_cannot_be_read_is_listed_as_such_among_all_others() {
    let mut ballast = live().await;
    for broken in [
        "labels = '[]'",
        "labels = '{\"a\": 1}'",
        "create_time = 'infinity'",
    ] {
        let (labels, time) = ("'{\"colour\": \"red\"}'", "now()");
        let restored = format!("UPDATE accounts SET labels = {labels}, create_time = {time}");
        change(&ballast, &restored).await;
        let breaking = format!("UPDATE accounts SET {broken} WHERE account_id = 'a'");
        change(&ballast, &breaking).await;
        let list = ListAccountsRequest {
            owner_id: OWNER.to_owned(),
            ..ListAccountsRequest::default()
        };
        let list = ballast.accounts.list_accounts(list).await;
        let batch = BatchGetAccountsRequest {
            account_ids: strings(["a", "b"]),
        };
        let batch = ballast.accounts.batch_get_accounts(batch).await;
        let one = GetAccountRequest {
            account_id: "a".to_owned(),
        };
        let one = ballast.accounts.get_account(one).await;
        let (list, batch) = (
            list.expect("a page").into_inner().accounts,
            batch.expect("both").into_inner().accounts,
        );
        assert_eq!(list, batch);
        let one = one.expect("one").into_inner().account.expect("one");
        assert_eq!((&list[0], list.len()), (&one, 2));
        assert_eq!(
            (one.account_id.as_str(), one.owner_id.as_str()),
            ("a", OWNER)
        );
        assert_eq!(one.state(), AccountState::Unspecified);
        assert!(!one.unreadable.is_empty() && one.balances.is_empty());
        assert_eq!(
            (list[1].state(), list[1].balances.len()),
            (AccountState::Open, 1)
        );
        // Its money is there and moves.
        assert_eq!(posted(&mut ballast.balances, "a").await, 80);
        let merged = ballast.balances.merge_accounts(merge("m", "a", "b")).await;
        Rejection::of(merged).expect(Code::Internal, "INTERNAL");
        let again = ballast.accounts.create_account(account("a")).await;
        let failed = Rejection::of(again).expect(Code::Internal, "INTERNAL");
        assert_eq!(failed.facts(), [("outcome", "unknown")], "it is open");
    }
}

#[tokio::test]
async fn the_log_names_an_unreadable_row_once() {
    let ballast = live().await;
    change(
        &ballast,
        "UPDATE operations SET metadata = '[]' WHERE operation_id IN ('t-3', 't-4')",
    )
    .await;
    let (folder, url) = (
        tempfile::tempdir().expect("a folder"),
        ballast.database.url(),
    );
    let (mut read, write) = std::io::pipe().expect("a pipe");
    let mut command = binary::command(folder.path(), &["--database-url", &url]);
    command.stderr(Stdio::from(write));
    let running = binary::Running::start_command(command);
    let mut balances = running.balances();
    for _ in 0..3 {
        let filter = Filter::AccountId("b".to_owned());
        let found = listed(&mut balances, filter, Direction::Unspecified, 50).await;
        assert_eq!(found.len(), 20);
    }
    running.stopped().await;
    let mut log = String::new();
    read.read_to_string(&mut log).expect("the log");
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("cannot be read"))
        .collect();
    assert_eq!(lines.len(), 2, "{log}");
    for (line, id) in lines.iter().zip(["t-3", "t-4"]) {
        assert!(line.contains("ERROR"), "{line}");
        assert!(lines.iter().any(|line| line.contains(id)), "{log}");
    }
}
