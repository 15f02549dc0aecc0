//! Deadlines: the caller's time counts, is answered with DEADLINE_EXCEEDED, and bounds the database's work.

use std::time::Duration;

use ballast::rpc::proto::{GetOperationRequest, ListEntriesRequest};
use ballast::server::ServerConfig;
use tonic::{Code, Request};

use crate::support::*;

/// How soon a statement ends that nobody waits for. By itself it would end after the statement timeout of 30 s.
const PROMPT_CANCEL: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_deadline_before_the_decision_means_that_nothing_happened() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    let lock = ballast.lock("a").await;
    let request = within(debit("d", "a", 1), Duration::from_millis(150));
    let rejection = Rejection::of(patient(&ballast).debit(request).await);
    assert_eq!(
        rejection.expect(Code::DeadlineExceeded, "DEADLINE").facts(),
        [("outcome", "none")]
    );
    lock.release().await;

    // What waited behind the lock was withdrawn: a later operation on the account finds it undone.
    assert_eq!(
        ballast
            .balances
            .debit(debit("e", "a", 1))
            .await
            .expect("posted")
            .into_inner()
            .balances[0]
            .version,
        2
    );
    let unknown = GetOperationRequest {
        operation_id: "d".to_owned(),
        ..GetOperationRequest::default()
    };
    Rejection::of(ballast.balances.get_operation(unknown).await)
        .expect(Code::NotFound, "OPERATION_NOT_FOUND");
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn the_database_stops_working_for_a_read_that_nobody_waits_for() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    let _lock = ballast
        .lock_with("LOCK TABLE operations IN ACCESS EXCLUSIVE MODE")
        .await;
    let list = ListEntriesRequest {
        account_id: "a".to_owned(),
        ..ListEntriesRequest::default()
    };
    let rejection = Rejection::of(
        patient(&ballast)
            .list_entries(within(list, Duration::from_millis(150)))
            .await,
    );
    assert_eq!(
        rejection.expect(Code::DeadlineExceeded, "DEADLINE").facts(),
        [("outcome", "none")]
    );

    // The lock is still held; the statement that waited for it is gone all the same.
    let gone = ballast.until_waiting(|count| count == 0);
    tokio::time::timeout(PROMPT_CANCEL, gone)
        .await
        .expect("cancelled long before the statement timeout");
}

#[tokio::test]
async fn the_database_stops_working_for_a_read_whose_caller_left() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    let _lock = ballast
        .lock_with("LOCK TABLE operations IN ACCESS EXCLUSIVE MODE")
        .await;
    let mut balances = ballast.balances.clone();
    let reading = tokio::spawn(async move {
        let list = ListEntriesRequest {
            account_id: "a".to_owned(),
            ..ListEntriesRequest::default()
        };
        balances.list_entries(list).await
    });
    ballast.until_waiting(|count| count == 1).await;
    reading.abort();
    let gone = ballast.until_waiting(|count| count == 0);
    tokio::time::timeout(PROMPT_CANCEL, gone)
        .await
        .expect("cancelled long before the statement timeout");
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_answered_at_once() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    let rejection = Rejection::of(
        patient(&ballast)
            .debit(within(debit("d", "a", 1), Duration::ZERO))
            .await,
    );
    rejection.expect(Code::DeadlineExceeded, "DEADLINE");
    let mut malformed = Request::new(debit("d", "a", 1));
    malformed
        .metadata_mut()
        .insert("grpc-timeout", "soon".parse().expect("a header"));
    let rejection = Rejection::of(patient(&ballast).debit(malformed).await);
    assert_eq!(
        rejection
            .expect(Code::InvalidArgument, "INVALID_ARGUMENT")
            .fields,
        ["grpc-timeout"]
    );
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn the_server_s_own_limit_counts_without_a_deadline() {
    let mut roomy = Ballast::start().await;
    open(&mut roomy, "a", 100).await;
    let limit = Duration::from_millis(150);
    let change = |config: &mut ServerConfig| config.request_timeout_max = limit;
    let mut ballast = Ballast::start_on(roomy.database.clone(), change).await;
    let _lock = ballast.lock("a").await;
    let rejection = Rejection::of(ballast.balances.debit(debit("d", "a", 1)).await);
    rejection.expect(Code::DeadlineExceeded, "DEADLINE");
}
