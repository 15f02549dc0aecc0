//! Get-or-create without duplicates: however many callers ask several processes for one account at once, one of them
//! opens it and all others get the same account, in both isolations.

use std::collections::HashMap;

use ballast::rpc::proto::{BalanceLimits, CreateAccountRequest, CreateAccountResponse};
use ballast::store::verify;
use tonic::Code;

use crate::support::binary::Running;
use crate::support::postgres::Database;
use crate::support::*;

const PROCESS_COUNT: usize = 4;
const CALLER_COUNT: usize = 200;

fn wanted(account_id: &str) -> CreateAccountRequest {
    let limit = |category: &str| BalanceLimits {
        category: category.to_owned(),
        overdraft_limit_minor_units: 0,
        balance_limit_minor_units: Some(500),
    };
    CreateAccountRequest {
        settlement: true,
        labels: HashMap::from([("team".to_owned(), "cards".to_owned())]),
        limits: vec![limit("FOOD"), limit("MEAL")],
        ..account(account_id)
    }
}

async fn start(folder: &tempfile::TempDir, database: &Database, isolation: &str) -> Vec<Running> {
    let starting: Vec<_> = (0..PROCESS_COUNT)
        .map(|_| {
            let (folder, url) = (folder.path().to_owned(), database.url());
            let isolation = isolation.to_owned();
            tokio::task::spawn_blocking(move || {
                let arguments = ["--database-url", &url, "--isolation", &isolation];
                // A busy machine is no reason to give up.
                let patience = [
                    "--connect-timeout-ms",
                    "30000",
                    "--request-timeout-ms",
                    "60000",
                ];
                Running::start(&folder, &[&arguments[..], &patience].concat())
            })
        })
        .collect();
    let mut processes = Vec::new();
    for process in starting {
        processes.push(process.await.expect("it starts"));
    }
    processes
}

/// The answers of all callers, who are spread over the processes and each has a connection of its own.
async fn ask_all(
    processes: &[Running],
    request: &CreateAccountRequest,
) -> Vec<Result<CreateAccountResponse, tonic::Status>> {
    let callers: Vec<_> = (0..CALLER_COUNT)
        .map(|caller| {
            let mut accounts = processes[caller % processes.len()].accounts();
            let request = request.clone();
            tokio::spawn(async move { accounts.create_account(request).await })
        })
        .collect();
    let mut answers = Vec::new();
    for caller in callers {
        let answer = caller.await.expect("no panic");
        answers.push(answer.map(tonic::Response::into_inner));
    }
    answers
}

async fn two_hundred_callers_of_four_processes(isolation: &str) {
    let (folder, database) = (
        tempfile::tempdir().expect("a folder"),
        Database::migrated().await,
    );
    let processes = start(&folder, &database, isolation).await;
    let answers = ask_all(&processes, &wanted("a")).await;
    let answers: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.expect("an account"))
        .collect();
    assert_eq!(answers.iter().filter(|answer| answer.created).count(), 1);
    let equal = answers
        .iter()
        .filter(|answer| answer.account == answers[0].account);
    assert_eq!(equal.count(), CALLER_COUNT);

    // Everybody now wants to be the owner's second settlement account: nobody is.
    let second = CreateAccountRequest {
        owner_id: "a-owner".to_owned(),
        ..wanted("b")
    };
    for answer in ask_all(&processes, &second).await {
        Rejection::of(answer.map(tonic::Response::new))
            .expect(Code::AlreadyExists, "SETTLEMENT_ACCOUNT_EXISTS");
    }

    let sql = database.sql().await;
    let rows = "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM balances)";
    let rows = sql.query_one(rows, &[]).await.expect("the counts");
    assert_eq!((rows.get::<_, i64>(0), rows.get::<_, i64>(1)), (1, 3));
    let report = verify::run(&sql).await.expect("the verification runs");
    assert_eq!(report.findings, Vec::<String>::new());
    for process in processes {
        assert_eq!(process.stopped().await.code(), Some(0));
    }
}

#[tokio::test]
async fn two_hundred_callers_of_four_processes_create_one_account() {
    two_hundred_callers_of_four_processes("read-committed").await;
}

#[tokio::test]
async fn two_hundred_callers_of_four_serializable_processes_create_one_account() {
    two_hundred_callers_of_four_processes("serializable").await;
}

#[tokio::test]
async fn a_caller_waits_for_a_connection_for_as_long_as_for_its_answer() {
    let ballast = Ballast::start_with(|config| {
        config.store.request_connections = 1;
        config.store.connect_timeout_ms = 200;
    })
    .await;
    // The only connection is made before anyone waits for it: on a busy machine that alone may take the 200 ms.
    let mut accounts = ballast.accounts.clone();
    while accounts.create_account(account("first")).await.is_err() {}
    let lock = ballast
        .lock_with("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
        .await;
    let create = |name: &'static str| {
        let mut accounts = ballast.accounts.clone();
        tokio::spawn(async move { accounts.create_account(account(name)).await })
    };
    let first = create("a");
    ballast.until_waiting(|count| count == 1).await;
    // The only connection waits for the lock. One caller has the time to wait for it, the other has not.
    let patient_one = create("b");
    let mut hasty = patient_with_accounts(&ballast);
    let timeout = std::time::Duration::from_millis(400);
    let hasty = hasty.create_account(within(account("c"), timeout)).await;
    let hasty = Rejection::of(hasty).expect(Code::DeadlineExceeded, "DEADLINE");
    assert_eq!(hasty.facts(), [("outcome", "none")]);
    lock.release().await;
    for caller in [first, patient_one] {
        let answer = caller.await.expect("no panic").expect("an account");
        assert!(answer.into_inner().created);
    }
    let sql = ballast.database.sql().await;
    let hasty = "SELECT count(*) FROM accounts WHERE account_id = 'c'";
    let hasty: i64 = sql.query_one(hasty, &[]).await.expect("a count").get(0);
    assert_eq!(hasty, 0, "nothing happened");
}
