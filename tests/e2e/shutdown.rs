//! Shutdown: every accepted request is answered, the process ends in time with exit code 0, and nothing stays behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::net::TcpStream;

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::binary::Running;
use crate::support::instance::{DRAIN_TIMEOUT, PROMPT_STOP};
use crate::support::postgres::Database;
use crate::support::*;

#[tokio::test]
async fn a_stop_under_load_answers_everything_that_was_accepted() {
    let database = Database::migrated().await;
    let folder = tempfile::tempdir().expect("a folder");
    let drain = DRAIN_TIMEOUT.as_millis().to_string();
    let arguments = [
        "--database-url",
        &database.url(),
        "--drain-timeout-ms",
        &drain,
    ];
    let running = Running::start(folder.path(), &arguments);
    let mut accounts = running.accounts();
    accounts.create_account(account("a")).await.expect("opened");
    let silent = TcpStream::connect(running.address)
        .await
        .expect("a client that never sends a byte");

    let posted_count = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..32)
        .map(|client| {
            let (mut balances, posted_count) = (running.balances(), posted_count.clone());
            tokio::spawn(async move {
                for round in 0.. {
                    let request = credit(&format!("c-{client}-{round}"), "a", 1);
                    match balances.credit(request).await {
                        Ok(_) => posted_count.fetch_add(1, Ordering::Relaxed),
                        // Not accepted: the connection was refused or closed before the request was taken.
                        Err(status) => return (round, status),
                    };
                }
                unreachable!("clients go on until they are refused")
            })
        })
        .collect();
    while posted_count.load(Ordering::Relaxed) < 500 {
        tokio::task::yield_now().await;
    }
    let asked = Instant::now();
    let status = running.stopped().await;
    assert_eq!(status.code(), Some(0));
    assert!(
        asked.elapsed() < PROMPT_STOP,
        "well within the drain timeout"
    );
    drop(silent);

    let mut unanswered = Vec::new();
    for (client, task) in clients.into_iter().enumerate() {
        let (round, status) = task.await.expect("no panic");
        // No answer of the server, which always has details: the client itself says that it got none.
        let is_from_client = status.details().is_empty();
        assert!(is_from_client, "{status:?}");
        unanswered.push(format!("c-{client}-{round}"));
    }
    // What was refused did not happen, and what was answered did: the ledger has exactly the answered ones.
    let sql = database.sql().await;
    let recorded = sql
        .query_one("SELECT count(*) FROM operations", &[])
        .await
        .expect("a count")
        .get::<_, i64>(0);
    assert_eq!(recorded as usize, posted_count.load(Ordering::Relaxed));
    let never = "SELECT count(*) FROM operations WHERE operation_id = ANY($1)";
    assert_eq!(
        sql.query_one(never, &[&unanswered])
            .await
            .expect("a count")
            .get::<_, i64>(0),
        0
    );

    let ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    while sql
        .query_one(ours, &[])
        .await
        .expect("a count")
        .get::<_, i64>(0)
        > 0
    {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stop_that_leaves_a_request_unanswered_is_a_failure() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    let (folder, url) = (
        tempfile::tempdir().expect("a folder"),
        ballast.database.url(),
    );
    let timeouts = ["--drain-timeout-ms", "200", "--lock-wait-ms", "30000"];
    let arguments = [&["--database-url", &url][..], &timeouts].concat();
    let running = Running::start(folder.path(), &arguments);
    let lock = ballast.lock("a").await;
    let mut balances = running.balances();
    let in_flight = tokio::spawn(async move { balances.debit(debit("d", "a", 1)).await });
    ballast.until_waiting(|count| count > 0).await;
    assert_eq!(running.stopped().await.code(), Some(1));
    in_flight.await.expect("no panic").expect_err("unanswered");
    lock.release().await;
}

#[tokio::test]
async fn a_request_in_flight_is_answered_and_new_connections_are_refused() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    let lock = ballast.lock("a").await;
    let mut balances = ballast.balances.clone();
    let in_flight = tokio::spawn(async move { balances.debit(debit("d", "a", 1)).await });
    ballast.until_waiting(|count| count > 0).await;
    // Neither of these ends by itself, and neither holds up the drain.
    let mut health = HealthClient::new(crate::support::instance::channel(ballast.address));
    let watched = HealthCheckRequest {
        service: String::new(),
    };
    let _watch = health.watch(watched).await.expect("a watch");
    let _silent = TcpStream::connect(ballast.address)
        .await
        .expect("a client that never sends a byte");
    let asked = Instant::now();
    ballast.begin_to_stop();
    while TcpStream::connect(ballast.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    lock.release().await;
    in_flight
        .await
        .expect("no panic")
        .expect("it was accepted, so it is answered");
    assert!(ballast.stopped().await);
    assert!(
        asked.elapsed() < PROMPT_STOP,
        "well within the drain timeout"
    );
}
