//! Short deadlines: what runs out of time says so, and says what it left behind. OVERLOADED is a full queue, nothing else.

use std::time::Duration;

use ballast::rpc::proto::account_service_client::AccountServiceClient;
use ballast::rpc::proto::balance_service_client::BalanceServiceClient;
use ballast::rpc::proto::card_service_client::CardServiceClient;
use ballast::rpc::proto::list_operations_request::Filter;
use ballast::rpc::proto::{
    GetAccountRequest, GetBalanceRequest, GetOperationRequest, ListOperationsRequest,
    ListRulesRequest, SetMccRuleRequest,
};
use futures_util::future::join_all;
use tonic::{Code, Status};

use crate::support::patient::Http;
use crate::support::*;

/// Reads, and the one write that is served as reads are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    GetBalance,
    GetAccount,
    ListOperations,
    GetOperation,
    CreateAccount,
    ListRules,
}

const CALLS: [Call; 6] = [
    Call::GetBalance,
    Call::GetAccount,
    Call::ListOperations,
    Call::GetOperation,
    Call::CreateAccount,
    Call::ListRules,
];

/// Clients that wait for an answer beyond their deadline.
#[derive(Clone)]
struct Clients {
    balances: BalanceServiceClient<Http>,
    accounts: AccountServiceClient<Http>,
    cards: CardServiceClient<Http>,
}

impl Clients {
    fn new(ballast: &Ballast) -> Self {
        Self {
            balances: patient(ballast),
            accounts: patient_with_accounts(ballast),
            cards: patient_with_cards(ballast),
        }
    }

    /// What a call is answered; `name` is the account that it opens.
    async fn send(&mut self, call: Call, name: &str, timeout: Duration) -> Result<(), Status> {
        let Self {
            balances,
            accounts,
            cards,
        } = self;
        match call {
            Call::GetBalance => {
                let request = GetBalanceRequest {
                    account_id: "a".to_owned(),
                    ..GetBalanceRequest::default()
                };
                balances.get_balance(within(request, timeout)).await?;
            }
            Call::GetAccount => {
                let account_id = "a".to_owned();
                let request = GetAccountRequest { account_id };
                accounts.get_account(within(request, timeout)).await?;
            }
            Call::ListOperations => {
                let request = ListOperationsRequest {
                    filter: Some(Filter::AccountId("a".to_owned())),
                    ..ListOperationsRequest::default()
                };
                balances.list_operations(within(request, timeout)).await?;
            }
            Call::GetOperation => {
                let operation_id = "a-opening".to_owned();
                let request = GetOperationRequest {
                    operation_id,
                    ..GetOperationRequest::default()
                };
                balances.get_operation(within(request, timeout)).await?;
            }
            Call::CreateAccount => {
                let request = within(account(name), timeout);
                accounts.create_account(request).await?;
            }
            Call::ListRules => {
                let request = within(ListRulesRequest::default(), timeout);
                cards.list_rules(request).await?;
            }
        }
        Ok(())
    }
}

/// The outcome that a status of a passed deadline names.
fn outcome(call: Call, status: &Status) -> String {
    let rejection = Rejection::of_status(status);
    assert_eq!(
        (rejection.code, rejection.reason.as_str()),
        (Code::DeadlineExceeded, "DEADLINE"),
        "{call:?}: {status:?}"
    );
    let outcome = rejection.metadata["outcome"].clone();
    assert!(
        outcome == "none" || outcome == "unknown" && call == Call::CreateAccount,
        "{call:?}: {status:?}"
    );
    assert_eq!(
        outcome == "unknown",
        status.message().contains("send the same request again"),
        "{status:?}"
    );
    assert!(!status.message().contains("operation_id"), "{status:?}");
    outcome
}

/// Which of the accounts exist.
async fn existing(ballast: &Ballast, names: &[String]) -> Vec<String> {
    let sql = ballast.database.sql().await;
    let query = "SELECT account_id FROM accounts WHERE account_id = ANY($1) ORDER BY 1";
    let rows = sql.query(query, &[&names]).await.expect("rows");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Comes back when no statement of the requests runs any more.
async fn until_idle(ballast: &Ballast) {
    let sql = ballast.database.sql().await;
    let running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                   AND application_name = 'ballast requests' AND state <> 'idle'";
    let count = async || -> i64 { sql.query_one(running, &[]).await.expect("a count").get(0) };
    while count().await > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_time_says_so_and_never_that_others_wait() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 1).await;
    let clients = Clients::new(&ballast);
    let mut unsent = Vec::new();
    let mut late = 0;
    for call in CALLS {
        for micros in [1, 50, 200, 1_000, 3_000] {
            let timeout = Duration::from_micros(micros);
            let calls = (0..20).map(|number| {
                let mut clients = clients.clone();
                async move {
                    let name = format!("n-{micros}-{number}");
                    let answer = clients.send(call, &name, timeout).await;
                    answer.err().map(|status| (name, status))
                }
            });
            for (name, status) in join_all(calls).await.into_iter().flatten() {
                late += 1;
                let is_unsent = outcome(call, &status) == "none";
                if is_unsent && call == Call::CreateAccount {
                    unsent.push(name);
                }
            }
        }
    }
    assert!(late >= 20 * CALLS.len(), "a microsecond is too short");
    until_idle(&ballast).await;
    assert_eq!(existing(&ballast, &unsent).await, Vec::<String>::new());
    ballast.assert_in_order().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_is_a_deadline_and_says_what_was_sent() {
    let mut ballast = Ballast::start_with(|config| config.store.request_connections = 1).await;
    open(&mut ballast, "a", 1).await;
    let mut clients = Clients::new(&ballast);
    for first in CALLS {
        let lock = ballast
            .lock_with(
                "LOCK TABLE accounts, balances, operations, card_rules IN ACCESS EXCLUSIVE MODE",
            )
            .await;
        // The first one hangs in the database, all others wait for its connection.
        let timeout = Duration::from_millis(300);
        let was_sent = first == Call::CreateAccount;
        // Long enough for it to be sent, also on a busy machine.
        let timeout_of_first = if was_sent { 10 * timeout } else { timeout };
        let status = clients.send(first, "sent", timeout_of_first).await;
        let outcome_of_first = outcome(first, &status.expect_err("it hangs"));
        assert_eq!(outcome_of_first == "unknown", was_sent, "{first:?}");
        if was_sent {
            for call in CALLS {
                let status = clients.send(call, "unsent", timeout).await;
                let status = status.expect_err("it waits");
                assert_eq!(outcome(call, &status), "none", "{call:?}");
            }
        }
        lock.release().await;
        let roomy = Duration::from_secs(20);
        clients.send(first, "sent", roomy).await.expect("served");
    }
    until_idle(&ballast).await;
    let names = strings(["sent", "unsent"]);
    assert_eq!(existing(&ballast, &names).await, ["sent"]);
}

#[tokio::test]
async fn a_full_line_for_connections_is_overloaded() {
    let mut ballast = Ballast::start_with(|config| {
        config.store.request_connections = 1;
        config.store.request_queue_depth_max = 2;
    })
    .await;
    open(&mut ballast, "a", 1).await;
    let lock = ballast
        .lock_with("LOCK TABLE balances IN ACCESS EXCLUSIVE MODE")
        .await;
    let read = || {
        let mut balances = ballast.balances.clone();
        tokio::spawn(async move {
            let request = GetBalanceRequest {
                account_id: "a".to_owned(),
                ..GetBalanceRequest::default()
            };
            balances.get_balance(request).await
        })
    };
    let first = read();
    ballast.until_waiting(|count| count == 1).await;
    let mut others: Vec<_> = (0..10).map(|_| read()).collect();
    // One has the connection and two wait for it.
    let mut overloaded = 0;
    while overloaded < 8 {
        let position = others.iter().position(|read| read.is_finished());
        let Some(position) = position else {
            tokio::task::yield_now().await;
            continue;
        };
        let rejection = Rejection::of(others.swap_remove(position).await.expect("no panic"));
        let rejection = rejection.expect(Code::ResourceExhausted, "OVERLOADED");
        assert!(rejection.has_retry_info);
        overloaded += 1;
    }
    lock.release().await;
    for read in others.into_iter().chain([first]) {
        read.await.expect("no panic").expect("a balance");
    }
}

/// The messages are for people, who look for an operation_id where one is named.
fn assert_without_operation(status: &Status) {
    assert!(!status.message().contains("operation"), "{status:?}");
}

#[tokio::test]
async fn only_what_was_lost_during_its_commit_is_unknown() {
    let ballast = Ballast::start_with(|config| config.store.statement_timeout_ms = 3_000).await;
    let mut accounts = ballast.accounts.clone();
    let mut cards = ballast.cards();
    let rule = SetMccRuleRequest {
        mcc: "1234".to_owned(),
        category: "FOOD".to_owned(),
    };
    accounts.create_account(account("a")).await.expect("opened");
    cards.set_mcc_rule(rule.clone()).await.expect("set");

    // PostgreSQL says that it ended the statement: nothing happened.
    let lock = ballast
        .lock_with("LOCK TABLE accounts, card_rules IN ACCESS EXCLUSIVE MODE")
        .await;
    for status in [
        accounts.create_account(account("b")).await.map(drop),
        cards.set_mcc_rule(rule.clone()).await.map(drop),
    ] {
        let status = status.expect_err("locked");
        let rejection = Rejection::of_status(&status).expect(Code::DeadlineExceeded, "DEADLINE");
        assert_eq!(rejection.facts(), [("outcome", "none")]);
        assert_without_operation(&status);
    }
    lock.release().await;

    // New sessions may only read: PostgreSQL says that too.
    let sql = ballast.database.sql().await;
    let name = ballast.database.name();
    let allow = |setting: &str| format!("ALTER DATABASE {name} {setting}");
    let end_sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                        WHERE datname = current_database() AND application_name = 'ballast requests'";
    sql.batch_execute(&allow("SET default_transaction_read_only = on"))
        .await
        .expect("set");
    sql.batch_execute(end_sessions).await.expect("ended");
    for write in 0..2 {
        loop {
            let status = match write {
                0 => accounts.create_account(account("c")).await.map(drop),
                _ => cards.set_mcc_rule(rule.clone()).await.map(drop),
            };
            // A session that just ends may still serve one, or take it along.
            if let Err(status) = status {
                let rejection = Rejection::of_status(&status);
                let rejection = rejection.expect(Code::Unavailable, "DATABASE_UNAVAILABLE");
                assert_without_operation(&status);
                if rejection.facts() == [("outcome", "none")] {
                    break;
                }
            }
        }
    }
    let reset = allow("RESET default_transaction_read_only");
    sql.batch_execute(&reset).await.expect("reset");
}

#[tokio::test]
async fn a_connection_that_is_lost_amid_a_write_leaves_it_unknown_and_says_how_to_know() {
    let rule = SetMccRuleRequest {
        mcc: "1234".to_owned(),
        category: "FOOD".to_owned(),
    };
    for write in 0..2 {
        let ballast = Ballast::start_with(|config| config.store.request_connections = 1).await;
        let (mut accounts, mut cards) = (ballast.accounts.clone(), ballast.cards());
        // The connection has prepared them: now they are sent at once.
        accounts.create_account(account("a")).await.expect("opened");
        cards.set_mcc_rule(rule.clone()).await.expect("set");
        let lock = ballast
            .lock_with("LOCK TABLE accounts, card_rules IN ACCESS EXCLUSIVE MODE")
            .await;
        let rule = rule.clone();
        let writing = tokio::spawn(async move {
            match write {
                0 => accounts.create_account(account("b")).await.map(drop),
                _ => cards.set_mcc_rule(rule).await.map(drop),
            }
        });
        ballast.until_waiting(|count| count == 1).await;
        let sql = ballast.database.sql().await;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
        sql.batch_execute(end).await.expect("ended");
        let status = writing.await.expect("no panic").expect_err("lost");
        let rejection = Rejection::of_status(&status);
        let rejection = rejection.expect(Code::Unavailable, "DATABASE_UNAVAILABLE");
        assert_eq!(rejection.facts(), [("outcome", "unknown")]);
        assert_without_operation(&status);
        lock.release().await;
    }
}
