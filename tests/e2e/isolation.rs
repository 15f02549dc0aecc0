//! Serializable transactions: what PostgreSQL aborts is repeated and counted, and the answers are those of the other
//! isolation. The suites themselves run in it too: see `BALLAST_TEST_ISOLATION` in `support/instance.rs`.

use ballast::server::ServerConfig;
use ballast::store::Isolation;
use nix::sys::signal::Signal;

use crate::support::binary::{Running, command};
use crate::support::postgres::Database;
use crate::support::*;

fn serializable(config: &mut ServerConfig) {
    config.store.isolation = Isolation::Serializable;
}

/// What another instance does that opens an account and has not committed yet.
const OPEN_A: &str =
    "INSERT INTO accounts (account_id, owner_id, currency_code, settlement, create_time)
     VALUES ('a', 'a-owner', 'EUR', false, now());
     INSERT INTO balances (account_id, category, currency_code) VALUES ('a', 'main', 'EUR')";

#[tokio::test]
async fn an_account_that_somebody_else_just_opens_is_found_by_a_retry() {
    let ballast = Ballast::start_with(serializable).await;
    let other = ballast.lock_with(OPEN_A).await;
    let mut accounts = ballast.accounts.clone();
    let asked = tokio::spawn(async move { accounts.create_account(account("a")).await });
    ballast.until_waiting(|count| count == 1).await;
    assert_eq!(ballast.retries.count(), 0);
    other.commit().await;
    let answer = asked.await.expect("no panic").expect("an account");
    assert!(!answer.into_inner().created);
    assert_eq!(ballast.retries.count(), 1);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_balance_that_changed_while_it_was_waited_for_is_looked_at_again() {
    let mut ballast = Ballast::start_with(serializable).await;
    open(&mut ballast, "a", 100).await;
    let mut paid = 0;
    // The wait for a row that is held for long ends without a retry, so a slow machine needs another go.
    let observer = ballast.observer().await;
    while ballast.retries.count() == 0 {
        let other = ballast
            .lock_with("UPDATE balances SET posted = posted WHERE account_id = 'a'")
            .await;
        let mut balances = ballast.balances.clone();
        let request = debit(&format!("debit-{paid}"), "a", 1);
        let asked = tokio::spawn(async move { balances.debit(request).await });
        observer.until_waiting(|count| count == 1).await;
        other.commit().await;
        let answer = asked.await.expect("no panic").expect("posted").into_inner();
        paid += 1;
        assert_eq!(answer.balances[0].posted_minor_units, 100 - paid);
    }
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn an_operation_that_somebody_else_just_records_is_replayed() {
    let mut ballast = Ballast::start_with(serializable).await;
    let other = Ballast::start_on(ballast.database.clone(), serializable).await;
    open(&mut ballast, "a", 100).await;
    open(&mut ballast, "b", 0).await;
    for number in 0..20 {
        // Two accounts in two orders, one id: neither lock decides which is first.
        let request = transfer(&format!("t-{number}"), "a", "b", 1_000);
        let (mut one, mut two) = (ballast.balances.clone(), other.balances.clone());
        let (first, second) = tokio::join!(one.transfer(request.clone()), two.transfer(request));
        for answer in [first, second] {
            Rejection::of(answer).expect(tonic::Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
        }
    }
    let sql = ballast.database.sql().await;
    let refused = "SELECT count(*) FROM operations WHERE refusal_reason IS NOT NULL";
    let refused: i64 = sql.query_one(refused, &[]).await.expect("a count").get(0);
    assert_eq!(refused, 20);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn the_log_tells_how_many_transactions_were_repeated() {
    let (folder, database) = (
        tempfile::tempdir().expect("a folder"),
        Database::migrated().await,
    );
    let log = folder.path().join("log");
    let url = database.url();
    let arguments = ["--database-url", &url, "--isolation", "serializable"];
    let mut ballast = command(folder.path(), &arguments);
    ballast.stderr(std::fs::File::create(&log).expect("a file"));
    let ballast = tokio::task::spawn_blocking(move || Running::start_command(ballast));
    let ballast = ballast.await.expect("it starts");

    let sql = database.sql().await;
    sql.batch_execute(&format!("BEGIN; {OPEN_A}"))
        .await
        .expect("inserted");
    let mut accounts = ballast.accounts();
    let asked = tokio::spawn(async move { accounts.create_account(account("a")).await });
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let observer = database.sql().await;
    while observer
        .query_one(waiting, &[])
        .await
        .expect("a count")
        .get::<_, i64>(0)
        == 0
    {
        tokio::task::yield_now().await;
    }
    sql.batch_execute("COMMIT").await.expect("committed");
    let answer = asked.await.expect("no panic").expect("an account");
    assert!(!answer.into_inner().created);

    ballast.signal(Signal::SIGTERM);
    assert_eq!(ballast.ended().await.code(), Some(0));
    let log = std::fs::read_to_string(log).expect("a log");
    assert!(log.contains("drained retries=1"), "{log}");
}
