//! Recovery: after a stall of the database, reads with short deadlines work again by themselves, on the same connections.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ballast::rpc::proto::{GetBalanceRequest, GetBalanceResponse, ListEntriesRequest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::{Code, Response, Status};

use crate::support::patient::Http;
use crate::support::postgres::{Database, OwnServer};
use crate::support::*;

/// Far more than a read takes, also on a busy machine, and far less than a connection takes on [`slow_to_connect`].
const DEADLINE: Duration = Duration::from_millis(500);
const STALL: Duration = Duration::from_millis(1_500);
/// So long a new connection takes on [`slow_to_connect`].
const CONNECT_DELAY: Duration = Duration::from_secs(2);
/// After a stall reads work again before this, also on a busy machine; without recovery, never.
const RECOVERED_AFTER: Duration = Duration::from_secs(30);
const CALLERS: usize = 16;

type Balances = ballast::rpc::proto::balance_service_client::BalanceServiceClient<Http>;

/// From now on each new connection takes [`CONNECT_DELAY`].
async fn slow_to_connect(database: &Database) {
    let sql = database.sql().await;
    let delay = CONNECT_DELAY.as_secs();
    for statement in [
        format!("ALTER SYSTEM SET post_auth_delay = {delay}"),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        sql.batch_execute(&statement).await.expect("set");
    }
    // The postmaster reads it a moment later.
    loop {
        let connecting = Instant::now();
        drop(database.sql().await);
        if connecting.elapsed() >= CONNECT_DELAY {
            break;
        }
    }
}

async fn read(balances: &mut Balances) -> Result<Response<GetBalanceResponse>, Status> {
    let request = GetBalanceRequest {
        account_id: "a".to_owned(),
        ..GetBalanceRequest::default()
    };
    balances.get_balance(within(request, DEADLINE)).await
}

/// How many of so many reads at a time by each of the callers succeed; the others ran out of time, and say so.
async fn read_by_all(ballast: &Ballast, count: usize) -> usize {
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let mut balances = patient(ballast);
            tokio::spawn(async move {
                let mut succeeded = 0;
                for _ in 0..count {
                    match read(&mut balances).await {
                        Ok(_) => succeeded += 1,
                        Err(status) => assert_late(&status),
                    }
                }
                succeeded
            })
        })
        .collect();
    let mut succeeded = 0;
    for caller in callers {
        succeeded += caller.await.expect("no panic");
    }
    succeeded
}

fn assert_late(status: &Status) {
    let rejection = Rejection::of_status(status).expect(Code::DeadlineExceeded, "DEADLINE");
    assert_eq!(rejection.facts(), [("outcome", "none")]);
}

/// Comes back when at least 95 of 100 reads succeed.
async fn until_reads_succeed(ballast: &Ballast) {
    let count = 5;
    while read_by_all(ballast, count).await * 100 < 95 * count * CALLERS {}
}

/// The processes of PostgreSQL that serve one of the pools.
async fn backends(database: &Database, pool: &str) -> BTreeSet<i32> {
    let sql = database.sql().await;
    let query = "SELECT pid FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name LIKE $1";
    let rows = sql.query(query, &[&pool]).await.expect("the connections");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Processes that are stopped until this is dropped.
struct Stopped(Vec<i32>);

impl Stopped {
    fn new(pids: impl IntoIterator<Item = i32>) -> Self {
        let stopped = Self(pids.into_iter().collect());
        stopped.signal(Signal::SIGSTOP);
        stopped
    }

    fn signal(&self, signal: Signal) {
        for pid in &self.0 {
            kill(Pid::from_raw(*pid), signal).expect("the process is there");
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
    }
}

async fn reads_recover_from_a_stall_of(stop: impl AsyncFn(&Database) -> Stopped) {
    let server = OwnServer::start().await;
    let database = server.migrated().await;
    let mut ballast = Ballast::start_on(database.clone(), |_| {}).await;
    open(&mut ballast, "a", 1).await;
    within_reason("a warm instance", until_reads_succeed(&ballast)).await;
    slow_to_connect(&database).await;
    let before = backends(&database, "ballast requests").await;
    let stopped = stop(&database).await;
    let end = Instant::now() + STALL;
    let mut succeeded = 0;
    while Instant::now() < end {
        succeeded += read_by_all(&ballast, 1).await;
    }
    assert_eq!(succeeded, 0, "the database stood still");

    drop(stopped);
    let recovering = until_reads_succeed(&ballast);
    let recovered = tokio::time::timeout(RECOVERED_AFTER, recovering).await;
    recovered.expect("reads succeed soon after the stall");
    let after = backends(&database, "ballast requests").await;
    assert!(
        before.is_subset(&after),
        "the same connections: {before:?} {after:?}"
    );
    ballast.assert_in_order().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_recover_from_a_stall_of_their_connections() {
    reads_recover_from_a_stall_of(async |database| {
        Stopped::new(backends(database, "ballast requests").await)
    })
    .await;
}

/// The postmaster too: nothing connects, and no cancel is heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_recover_from_a_stall_of_the_whole_database() {
    reads_recover_from_a_stall_of(async |database| {
        let pids = backends(database, "ballast%").await;
        let sql = database.sql().await;
        let folder = sql.query_one("SHOW data_directory", &[]).await;
        let folder: String = folder.expect("a folder").get(0);
        let file = std::fs::read_to_string(format!("{folder}/postmaster.pid")).expect("a file");
        let postmaster = file.lines().next().expect("a line").parse().expect("a pid");
        Stopped::new(pids.into_iter().chain([postmaster]))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_instance_recovers_under_short_deadlines() {
    let server = OwnServer::start().await;
    let database = server.migrated().await;
    let mut first = Ballast::start_on(database.clone(), |_| {}).await;
    open(&mut first, "a", 1).await;
    slow_to_connect(&database).await;
    // It has no connection yet, and each one takes longer than its callers wait.
    let cold = Ballast::start_on(database, |_| {}).await;
    assert_late(&read(&mut patient(&cold)).await.expect_err("too late"));
    let recovering = until_reads_succeed(&cold);
    let recovered = tokio::time::timeout(RECOVERED_AFTER, recovering).await;
    recovered.expect("reads succeed as soon as there are connections");
}

#[tokio::test]
async fn a_cancelled_read_leaves_its_connection_and_the_next_read_alone() {
    let mut ballast = Ballast::start_with(|config| config.store.request_connections = 1).await;
    open(&mut ballast, "a", 1).await;
    posted(&mut ballast.balances, "a").await;
    let database = ballast.database.clone();
    let list = ListEntriesRequest {
        account_id: "a".to_owned(),
        ..ListEntriesRequest::default()
    };
    let mut before = BTreeSet::new();
    for round in 0..10 {
        let lock = ballast
            .lock_with("LOCK TABLE operations IN ACCESS EXCLUSIVE MODE")
            .await;
        let late = patient(&ballast)
            .list_entries(within(list.clone(), DEADLINE))
            .await;
        assert_late(&late.expect_err("too late"));
        // It waits for the connection, on which the other read is cancelled.
        posted(&mut ballast.balances, "a").await;
        lock.release().await;
        let now = backends(&database, "ballast requests").await;
        if round == 0 {
            before = now;
        } else {
            assert!(before.is_subset(&now), "the same connections");
        }
    }
}

#[tokio::test]
async fn what_connects_no_more_serves_all_with_what_is_connected() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 1).await;
    posted(&mut ballast.balances, "a").await;
    let other = Database::empty().await.sql().await;
    let name = ballast.database.name();
    let allow = |allowed: bool| format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}");
    let lock = ballast
        .lock_with("LOCK TABLE balances IN ACCESS EXCLUSIVE MODE")
        .await;
    other.batch_execute(&allow(false)).await.expect("shut");
    let mut reads = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let mut balances = ballast.balances.clone();
        reads.spawn(async move { posted(&mut balances, "a").await });
    }
    // While they wait for what is connected, nothing else can be connected. That is no reason to fail.
    let ended = tokio::time::timeout(Duration::from_secs(1), reads.join_next()).await;
    assert!(ended.is_err(), "{ended:?}");
    lock.release().await;
    assert_eq!(reads.join_all().await, vec![1; 200]);
    other.batch_execute(&allow(true)).await.expect("open");
}

/// A row that no code expects makes the write path panic in the middle of a transaction. The connection of that transaction
/// is closed, and does not serve the next batch with a transaction open and an account locked.
#[tokio::test]
async fn a_panic_in_a_transaction_leaves_no_transaction_open() {
    let mut ballast = Ballast::start_with(|config| config.batcher.lanes = 1).await;
    for name in ["a", "b"] {
        open(&mut ballast, name, 10).await;
    }
    let sql = ballast.database.sql().await;
    let without = "ALTER TABLE balances ALTER COLUMN version DROP NOT NULL";
    sql.batch_execute(without).await.expect("altered");
    let set = |version: &'static str| {
        format!(
            "UPDATE balances SET version = {version} WHERE account_id = 'a' AND category = 'main'"
        )
    };
    sql.batch_execute(&set("NULL")).await.expect("changed");
    for name in ["1", "2", "3"] {
        let answer = ballast.balances.credit(credit(name, "a", 1)).await;
        answer.expect_err("the row cannot be read");
    }
    let open = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    let none_is_open = async {
        while sql
            .query_one(open, &[])
            .await
            .expect("a count")
            .get::<_, i64>(0)
            > 0
        {}
    };
    within_reason("the end of all transactions", none_is_open).await;
    sql.batch_execute(&set("1")).await.expect("mended");
    let later = transfer("later", "b", "a", 1);
    within_reason("the next transfer", ballast.balances.transfer(later))
        .await
        .expect("posted");
    assert_eq!(posted(&mut ballast.balances, "a").await, 11);
    ballast.assert_in_order().await;
}
