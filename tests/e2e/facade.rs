//! The database facade: a pool that is built once, whose connections all come back whatever callers do, and that leaves
//! nothing behind.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ballast::rpc::proto::{CreateAccountRequest, GetAccountRequest, GetBalanceRequest};
use tonic::Code;

use crate::support::binary::{Running, command};
use crate::support::instance::{Accounts, Balances, channel};
use crate::support::postgres::Database;
use crate::support::*;

const REQUEST_CONNECTIONS: usize = 2;
const CALL_COUNT: usize = 10_000;
/// Calls on their way at the same time, and the connections that each caller has for them.
const CALLERS: usize = 64;
const CHANNELS_PER_CALLER: usize = 4;

/// The process ids of the connections that the database knows from one of our pools.
async fn backends(database: &Database, pool: &str) -> BTreeSet<i32> {
    let sql = database.sql().await;
    let query = "SELECT pid FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name LIKE $1";
    let rows = sql.query(query, &[&pool]).await.expect("the connections");
    rows.iter().map(|row| row.get(0)).collect()
}

async fn small_pool() -> Ballast {
    Ballast::start_with(|config| config.store.request_connections = REQUEST_CONNECTIONS).await
}

fn get(account_id: &str) -> GetAccountRequest {
    GetAccountRequest {
        account_id: account_id.to_owned(),
    }
}

/// Holds all connections of the request pool at once, so that each of them is proven to be there and to work.
async fn use_every_connection(ballast: &Ballast) {
    let lock = ballast
        .lock_with("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
        .await;
    let reads: Vec<_> = (0..REQUEST_CONNECTIONS)
        .map(|_| {
            let mut accounts = ballast.accounts.clone();
            tokio::spawn(async move { accounts.get_account(get("a")).await })
        })
        .collect();
    ballast
        .until_waiting(|count| count == REQUEST_CONNECTIONS as i64)
        .await;
    lock.release().await;
    for read in reads {
        read.await.expect("no panic").expect("an account");
    }
}

/// The nth of the calls: two reads, one that opens an account, one that moves money.
async fn call(number: usize, accounts: &mut Accounts, balances: &mut Balances) {
    match number % 4 {
        0 => drop(accounts.get_account(get("a")).await),
        1 => {
            let request = GetBalanceRequest {
                account_id: "b".to_owned(),
                ..GetBalanceRequest::default()
            };
            drop(balances.get_balance(request).await);
        }
        2 => drop(
            accounts
                .create_account(account(&format!("n-{number}")))
                .await,
        ),
        _ => {
            let request = transfer(&format!("t-{number}"), "a", "b", 1);
            drop(balances.transfer(request).await);
        }
    }
}

#[tokio::test]
async fn after_ten_thousand_cancelled_calls_every_connection_is_back_and_works() {
    let mut ballast = small_pool().await;
    open(&mut ballast, "a", CALL_COUNT as i64).await;
    open(&mut ballast, "b", 0).await;
    use_every_connection(&ballast).await;
    let before = backends(&ballast.database, "ballast requests").await;

    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let clients: Vec<_> = (0..CHANNELS_PER_CALLER)
                .map(|_| channel(ballast.address))
                .map(|channel| (Accounts::new(channel.clone()), Balances::new(channel)))
                .collect();
            tokio::spawn(async move {
                let mut cancelled = 0;
                for number in (caller..CALL_COUNT).step_by(CALLERS) {
                    let (mut accounts, mut balances) = clients[number % clients.len()].clone();
                    // From "before it was sent" to "about when it is answered".
                    let patience = Duration::from_micros(rand::random_range(0..8_000));
                    let calling = call(number, &mut accounts, &mut balances);
                    let result = tokio::time::timeout(patience, calling).await;
                    cancelled += usize::from(result.is_err());
                }
                cancelled
            })
        })
        .collect();
    let mut cancelled = 0;
    for caller in callers {
        cancelled += caller.await.expect("no panic");
    }
    assert!(cancelled > CALL_COUNT / 2, "{cancelled} were cancelled");

    let asked = Instant::now();
    ballast
        .accounts
        .get_account(get("a"))
        .await
        .expect("at once");
    // A connection that was lost would be waited for until the request timeout, 60 s.
    assert!(asked.elapsed() < Duration::from_secs(15));
    use_every_connection(&ballast).await;
    let after = backends(&ballast.database, "ballast requests").await;
    assert_eq!(after, before, "the same connections, none lost, none made");

    // Cancelled or not, each transfer happens once: those that had not happened do now.
    for number in (3..CALL_COUNT).step_by(4 * 25) {
        let request = transfer(&format!("t-{number}"), "a", "b", 1);
        ballast.balances.transfer(request).await.expect("posted");
    }
    let sql = ballast.database.sql().await;
    let count = "SELECT count(*) FROM operations WHERE kind = 'TRANSFER'";
    let count: i64 = sql.query_one(count, &[]).await.expect("a count").get(0);
    assert_eq!(posted(&mut ballast.balances, "b").await, count);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn after_a_thousand_deadlines_the_pool_has_the_same_connections() {
    let mut ballast = small_pool().await;
    open(&mut ballast, "a", 10).await;
    use_every_connection(&ballast).await;
    let before = backends(&ballast.database, "ballast requests").await;
    let calls: Vec<_> = (0..1_000)
        .map(|number| {
            let mut accounts = ballast.accounts.clone();
            let mut request = tonic::Request::new(get("a"));
            request.set_timeout(Duration::from_micros(1 + number * 20));
            tokio::spawn(async move { accounts.get_account(request).await.is_err() })
        })
        .collect();
    let mut expired = 0;
    for call in calls {
        expired += usize::from(call.await.expect("no panic"));
    }
    assert!(expired > 0);
    // On another channel: a client that resets so many streams has its connection closed.
    let mut accounts = Accounts::new(channel(ballast.address));
    accounts.get_account(get("a")).await.expect("at once");
    use_every_connection(&ballast).await;
    let after = backends(&ballast.database, "ballast requests").await;
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_duplicate_is_a_clean_answer_and_spoils_no_connection() {
    let mut ballast = small_pool().await;
    open(&mut ballast, "a", 0).await;
    use_every_connection(&ballast).await;
    let before = backends(&ballast.database, "ballast requests").await;
    let calls: Vec<_> = (0..100)
        .map(|number| {
            let mut accounts = ballast.accounts.clone();
            // The first two collide in the account, the others in the settlement account of their owner.
            let request = CreateAccountRequest {
                account_id: format!("x-{}", number / 2),
                owner_id: "one".to_owned(),
                currency_code: ["EUR", "BRL"][number % 2].to_owned(),
                settlement: true,
                ..CreateAccountRequest::default()
            };
            tokio::spawn(async move { accounts.create_account(request).await })
        })
        .collect();
    let mut opened = 0;
    for call in calls {
        match call.await.expect("no panic") {
            Ok(response) => opened += usize::from(response.into_inner().created),
            Err(status) => assert_eq!(Rejection::of_status(&status).code, Code::AlreadyExists),
        }
    }
    assert_eq!(opened, 1);
    use_every_connection(&ballast).await;
    let after = backends(&ballast.database, "ballast requests").await;
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_stop_amid_cancelled_calls_leaves_no_connection_behind() {
    let mut ballast = small_pool().await;
    open(&mut ballast, "a", 100).await;
    open(&mut ballast, "b", 100).await;
    let callers: Vec<_> = (0..32)
        .map(|number| {
            let channel = channel(ballast.address);
            let (mut accounts, mut balances) =
                (Accounts::new(channel.clone()), Balances::new(channel));
            tokio::spawn(async move {
                for round in 0..20 {
                    let patience = Duration::from_micros(rand::random_range(0..8_000));
                    let calling = call(number + 32 * round, &mut accounts, &mut balances);
                    let _cancelled = tokio::time::timeout(patience, calling).await;
                }
            })
        })
        .collect();
    let database = ballast.database.clone();
    assert!(!backends(&database, "ballast%").await.is_empty());
    assert!(ballast.stopped().await);
    for caller in callers {
        caller.await.expect("no panic");
    }
    // A backend ends a moment after its connection.
    while !backends(&database, "ballast%").await.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn each_connection_that_is_taken_and_comes_back_is_in_the_debug_log() {
    let (folder, database) = (
        tempfile::tempdir().expect("a folder"),
        Database::migrated().await,
    );
    let path = folder.path().join("log");
    let arguments = ["--database-url", &database.url(), "--log", "ballast=debug"];
    let mut command = command(
        folder.path(),
        &[&arguments[..], &["--log-format", "json"]].concat(),
    );
    command.stderr(std::fs::File::create(&path).expect("a log"));
    let running = Running::start_command(command);
    let mut accounts = running.accounts();
    accounts.create_account(account("a")).await.expect("opened");
    let credited = running.balances().credit(credit("c", "a", 5)).await;
    credited.expect("posted");
    assert_eq!(running.stopped().await.code(), Some(0));

    let log = std::fs::read_to_string(&path).expect("a log");
    let events: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("an event"))
        .collect();
    for pool in ["requests", "batches", "health"] {
        let of_pool = |message: &str| {
            let events = events.iter().map(|event| &event["fields"]);
            let events = events.filter(|fields| fields["pool"] == pool);
            let events = events.filter(|fields| fields["message"] == message);
            events.cloned().collect::<Vec<_>>()
        };
        let (taken, returned) = (of_pool("connection taken"), of_pool("connection returned"));
        assert!(!taken.is_empty(), "{pool}: {log}");
        assert_eq!(taken.len(), returned.len(), "{pool}: {log}");
        assert!(taken[0]["wait_us"].is_u64() && taken[0]["in_use"] == 1);
        assert!(returned[0]["used_us"].is_u64());
        assert_eq!(
            returned.last().map(|fields| fields["in_use"].clone()),
            Some(0.into())
        );
    }
}
