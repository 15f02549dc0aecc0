//! Accounts: opened once however often they are asked for, and read with all their balances.

use std::collections::HashMap;

use ballast::rpc::proto::{
    AccountState, BalanceLimits, BatchGetAccountsRequest, CreateAccountRequest, GetAccountRequest,
    ListAccountsRequest,
};
use tonic::Code;

use crate::support::*;

fn full(account_id: &str) -> CreateAccountRequest {
    CreateAccountRequest {
        account_id: account_id.to_owned(),
        owner_id: "acme".to_owned(),
        currency_code: "BRL".to_owned(),
        settlement: true,
        labels: HashMap::from([("team".to_owned(), "cards ☕".to_owned())]),
        limits: vec![
            BalanceLimits {
                category: "MEAL".to_owned(),
                overdraft_limit_minor_units: 0,
                balance_limit_minor_units: Some(500),
            },
            BalanceLimits {
                category: String::new(),
                overdraft_limit_minor_units: 70,
                balance_limit_minor_units: None,
            },
        ],
    }
}

#[tokio::test]
async fn an_account_is_created_once_and_then_returned() {
    let mut ballast = Ballast::start().await;
    let first = ballast
        .accounts
        .create_account(full("a"))
        .await
        .expect("opened")
        .into_inner();
    assert!(first.created);
    let account = first.account.expect("an account");
    assert_eq!(
        (account.owner_id.as_str(), account.currency_code.as_str()),
        ("acme", "BRL")
    );
    assert_eq!(
        (account.settlement, account.state()),
        (true, AccountState::Open)
    );
    assert_eq!(account.labels["team"], "cards ☕");
    let balances: Vec<_> = account
        .balances
        .iter()
        .map(|b| {
            (
                b.category.as_str(),
                b.overdraft_limit_minor_units,
                b.balance_limit_minor_units,
                b.available_minor_units,
            )
        })
        .collect();
    assert_eq!(
        balances,
        [("MEAL", 0, Some(500), 0), ("main", 70, None, 70)]
    );

    let second = ballast
        .accounts
        .create_account(full("a"))
        .await
        .expect("found")
        .into_inner();
    assert!(!second.created);
    assert_eq!(second.account.as_ref(), Some(&account));
    assert_eq!(account_of(&mut ballast.accounts, "a").await, account);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn an_account_with_other_content_is_refused_with_the_fields_that_differ() {
    let mut ballast = Ballast::start().await;
    ballast
        .accounts
        .create_account(full("a"))
        .await
        .expect("opened");
    let other = CreateAccountRequest {
        owner_id: "other".to_owned(),
        currency_code: "EUR".to_owned(),
        settlement: false,
        labels: HashMap::new(),
        limits: Vec::new(),
        ..full("a")
    };
    let rejection = Rejection::of(ballast.accounts.create_account(other).await)
        .expect(Code::AlreadyExists, "ACCOUNT_EXISTS");
    assert_eq!(
        rejection.facts(),
        [
            ("account_id", "a"),
            ("fields", "owner_id,currency_code,settlement,labels,limits")
        ]
    );
}

#[tokio::test]
async fn an_owner_has_one_settlement_account() {
    let mut ballast = Ballast::start().await;
    ballast
        .accounts
        .create_account(full("a"))
        .await
        .expect("opened");
    let rejection = Rejection::of(ballast.accounts.create_account(full("b")).await);
    let rejection = rejection.expect(Code::AlreadyExists, "SETTLEMENT_ACCOUNT_EXISTS");
    assert_eq!(
        rejection.facts(),
        [("account_id", "a"), ("owner_id", "acme")]
    );
    let plain = CreateAccountRequest {
        settlement: false,
        ..full("b")
    };
    assert!(
        ballast
            .accounts
            .create_account(plain)
            .await
            .expect("a second, plain account")
            .into_inner()
            .created
    );
}

#[tokio::test]
async fn two_hundred_callers_create_one_account() {
    let ballast = Ballast::start().await;
    let other = ballast.sibling().await;
    let calls = (0..200).map(|index| {
        let instance = if index % 2 == 0 { &ballast } else { &other };
        let mut accounts = instance.accounts.clone();
        tokio::spawn(async move {
            accounts
                .create_account(full("a"))
                .await
                .expect("an answer")
                .into_inner()
        })
    });
    let mut answers = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        answers.push(call.await.expect("no panic"));
    }
    assert_eq!(answers.iter().filter(|answer| answer.created).count(), 1);
    assert!(
        answers
            .iter()
            .all(|answer| answer.account == answers[0].account)
    );
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn many_accounts_are_read_in_the_order_of_the_request() {
    let mut ballast = Ballast::start().await;
    for name in ["a", "b", "c"] {
        open(&mut ballast, name, 5).await;
    }
    let request = BatchGetAccountsRequest {
        account_ids: strings(["c", "nobody", "a", "c"]),
    };
    let response = ballast
        .accounts
        .batch_get_accounts(request)
        .await
        .expect("an answer")
        .into_inner();
    let found: Vec<_> = response
        .accounts
        .iter()
        .map(|account| account.account_id.as_str())
        .collect();
    assert_eq!(
        (found, response.not_found_account_ids),
        (vec!["c", "a"], strings(["nobody"]))
    );
    assert_eq!(response.accounts[0].balances[0].posted_minor_units, 5);

    let missing = GetAccountRequest {
        account_id: "nobody".to_owned(),
    };
    let rejection = Rejection::of(ballast.accounts.get_account(missing).await)
        .expect(Code::NotFound, "ACCOUNT_NOT_FOUND");
    assert!(rejection.has_resource_info);
}

#[tokio::test]
async fn the_accounts_of_an_owner_come_in_pages() {
    let mut ballast = Ballast::start().await;
    for index in 0..7 {
        let request = CreateAccountRequest {
            settlement: false,
            ..full(&format!("a-{index}"))
        };
        ballast
            .accounts
            .create_account(request)
            .await
            .expect("opened");
    }
    open(&mut ballast, "of-another-owner", 0).await;
    let mut request = ListAccountsRequest {
        owner_id: "acme".to_owned(),
        page_size: 3,
        page_token: String::new(),
    };
    let mut pages = Vec::new();
    loop {
        let page = ballast
            .accounts
            .list_accounts(request.clone())
            .await
            .expect("a page")
            .into_inner();
        pages.push(
            page.accounts
                .iter()
                .map(|account| account.account_id.clone())
                .collect::<Vec<_>>(),
        );
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(
        pages,
        [
            strings(["a-0", "a-1", "a-2"]),
            strings(["a-3", "a-4", "a-5"]),
            strings(["a-6"])
        ]
    );

    let foreign = ListAccountsRequest {
        owner_id: "other".to_owned(),
        ..request
    };
    let rejection = Rejection::of(ballast.accounts.list_accounts(foreign).await);
    assert_eq!(
        rejection
            .expect(Code::InvalidArgument, "INVALID_ARGUMENT")
            .fields,
        ["page_token"]
    );
}
