//! SubmitOperations: many operations in flight on one stream, each answered by its id, and bounded on both sides.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ballast::rpc::proto::balance_service_client::BalanceServiceClient;
use ballast::rpc::proto::operation_request::Request as Kind;
use ballast::rpc::proto::operation_result::Outcome;
use ballast::rpc::proto::transfer_request::Destination;
use ballast::rpc::proto::{
    CreateAccountRequest, CreditRequest, GetOperationRequest, OperationRequest, OperationResult,
    SubmitOperationsRequest, SubmitOperationsResponse, TransferRequest,
};
use futures_util::{Stream, StreamExt};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use crate::support::errors::assert_same;
use crate::support::instance::{Balances, DRAIN_TIMEOUT, PROMPT_STOP};
use crate::support::*;

fn submitted(operation: OperationRequest) -> SubmitOperationsRequest {
    SubmitOperationsRequest {
        operation: Some(operation),
    }
}

fn credits(count: usize, account_id: &str) -> impl Stream<Item = SubmitOperationsRequest> + use<> {
    let account_id = account_id.to_owned();
    futures_util::stream::iter(
        (0..count).map(move |index| submitted(credit_member(&index.to_string(), &account_id, 1))),
    )
}

/// A stream that the test feeds by hand.
struct Open {
    requests: mpsc::UnboundedSender<SubmitOperationsRequest>,
    results: Streaming<SubmitOperationsResponse>,
}

impl Open {
    async fn on(ballast: &Ballast) -> Self {
        Self::by(&mut ballast.own_balances()).await
    }

    async fn by(balances: &mut Balances) -> Self {
        let (requests, sent) = mpsc::unbounded_channel();
        let opened = balances
            .submit_operations(UnboundedReceiverStream::new(sent))
            .await;
        Self {
            requests,
            results: opened.expect("a stream opens").into_inner(),
        }
    }

    fn send(&self, operation: OperationRequest) {
        self.requests
            .send(submitted(operation))
            .expect("the stream is open");
    }

    async fn result(&mut self) -> OperationResult {
        let result = self.results.message().await.expect("no error");
        result.expect("a result").result.expect("a result")
    }
}

/// The results until the end, and the end.
async fn rest(
    results: &mut Streaming<SubmitOperationsResponse>,
) -> (Vec<OperationResult>, Result<(), Status>) {
    let mut read = Vec::new();
    loop {
        match results.message().await {
            Ok(Some(response)) => read.push(response.result.expect("a result")),
            Ok(None) => return (read, Ok(())),
            Err(status) => return (read, Err(status)),
        }
    }
}

#[tokio::test]
async fn everything_that_was_sent_is_answered_by_its_id_and_half_closing_ends_the_stream() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    let opened = ballast
        .balances
        .submit_operations(credits(5_000, "a"))
        .await;
    let (results, end) = rest(&mut opened.expect("a stream opens").into_inner()).await;
    end.expect("the stream ends with OK");
    let mut answered: HashMap<String, i64> = HashMap::new();
    for result in &results {
        let posted = posted_of(result);
        assert!(!posted.replayed);
        answered.insert(result.operation_id.clone(), posted.balances[0].version);
    }
    assert_eq!((results.len(), answered.len()), (5_000, 5_000));
    assert_eq!(posted(&mut ballast.balances, "a").await, 5_000);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn results_come_as_operations_end_each_as_its_own_rpc_would_answer() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "locked", 10).await;
    open(&mut ballast, "free", 10).await;
    let shop = CreateAccountRequest {
        settlement: true,
        ..account("shop")
    };
    ballast.accounts.create_account(shop).await.expect("opened");
    let lock = ballast.lock("locked").await;
    let mut stream = Open::on(&ballast).await;
    let to_owner = |owner: &str| TransferRequest {
        destination: Some(Destination::DestinationOwnerId(owner.to_owned())),
        ..transfer(owner, "free", "", 1)
    };
    stream.send(credit_member("slow", "locked", 1));
    stream.send(credit_member("fast", "free", 1));
    let fast = stream.result().await;
    assert_eq!(fast.operation_id, "fast");
    posted_of(&fast);

    // None of these ends the stream.
    let poor = debit("poor", "free", 1_000);
    stream.send(member(Kind::from(poor.clone())));
    let refused = stream.result().await;
    let status = ballast.balances.debit(poor).await.expect_err("a refusal");
    assert_same(error_of(&refused), &status);
    stream
        .requests
        .send(SubmitOperationsRequest::default())
        .expect("open");
    let empty = stream.result().await;
    assert_eq!(error_of(&empty).field_violations[0].field, "operation");
    stream.send(debit_member("bad", "free", 0));
    let bad = stream.result().await;
    assert_eq!(bad.operation_id, "bad");
    assert_eq!(
        error_of(&bad).field_violations[0].field,
        "amount.minor_units"
    );
    stream.send(member(Kind::from(to_owner("nobody"))));
    let nobody = stream.result().await;
    let status = ballast
        .balances
        .transfer(to_owner("nobody"))
        .await
        .expect_err("nobody");
    assert_same(error_of(&nobody), &status);
    stream.send(member(Kind::from(to_owner("shop-owner"))));
    assert_eq!(
        posted_of(&stream.result().await).balances[1].account_id,
        "shop"
    );
    stream.send(credit_member("fast", "free", 1));
    assert!(posted_of(&stream.result().await).replayed);

    drop(stream.requests);
    lock.release().await;
    let (results, end) = rest(&mut stream.results).await;
    end.expect("half-closed, and drained");
    assert_eq!(results.len(), 1);
    assert_eq!(results[0].operation_id, "slow");
    posted_of(&results[0]);
    ballast.assert_in_order().await;
}

/// The most operations of a stream whose results were not taken, as the README says.
const UNTAKEN_MAX: i64 = 1000;
/// What a client that does not read takes all the same.
const WINDOW_BYTES: u32 = 65_535;
/// What the server has encoded before it asks the client for room.
const BUFFER_BYTES: usize = 32 * 1024;

/// What a result takes on its way, with the prefix of its message.
fn message_bytes(result: &OperationResult) -> usize {
    let result = Some(result.clone());
    SubmitOperationsResponse { result }.encoded_len() + 5
}

/// Opens a stream of credits whose results nobody reads, and comes back when the client cannot send any more.
async fn flood(
    ballast: &mut Ballast,
    count: usize,
) -> (Streaming<SubmitOperationsResponse>, Arc<AtomicUsize>) {
    let endpoint = Endpoint::from_shared(format!("http://{}", ballast.address));
    // As most clients have it; tonic's own takes two MiB of results unread.
    let endpoint = endpoint
        .expect("a URI")
        .initial_stream_window_size(WINDOW_BYTES);
    let channel = endpoint.connect().await.expect("connected");
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let requests = credits(count, "a").inspect(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let opened = BalanceServiceClient::new(channel)
        .submit_operations(requests)
        .await;
    let results = opened.expect("a stream opens").into_inner();
    // Still, both what is sent and what is executed, while others do a good deal of work.
    let (mut last, mut still) = ((0, 0), 0);
    while still < 40 {
        let executed = posted(&mut ballast.balances, "a").await;
        let operation_id = format!("b-{}-{executed}-{still}", last.0);
        ballast
            .balances
            .credit(credit(&operation_id, "b", 1))
            .await
            .expect("posted");
        let now = (sent.load(Ordering::Relaxed), executed);
        still = if now == last && executed > 0 {
            still + 1
        } else {
            0
        };
        last = now;
    }
    (results, sent)
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_from() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    open(&mut ballast, "b", 0).await;
    let (mut results, sent) = flood(&mut ballast, 30_000).await;
    let executed = posted(&mut ballast.balances, "a").await;
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < 30_000, "the client is blocked, after {sent}");

    let (results, end) = rest(&mut results).await;
    end.expect("the stream ends with OK");
    assert_eq!(results.len(), 30_000);
    // Those whose results nobody takes, and those whose results fill the client's window and one buffer before it.
    assert!(executed > UNTAKEN_MAX, "{executed} were executed");
    let taken = &results[..(executed - UNTAKEN_MAX) as usize];
    let bytes: usize = taken.iter().map(message_bytes).sum();
    assert!(
        bytes <= WINDOW_BYTES as usize + BUFFER_BYTES + message_bytes(&taken[0]),
        "{executed} were executed, {bytes} bytes of results were taken"
    );
    assert!(results.iter().all(|result| !posted_of(result).replayed));
    assert_eq!(posted(&mut ballast.balances, "a").await, 30_000);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn an_unreadable_message_ends_the_stream_after_the_results() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    let mut stream = Open::on(&ballast).await;
    for index in 0..10 {
        stream.send(credit_member(&index.to_string(), "a", 1));
    }
    stream.send(member(Kind::from(CreditRequest {
        description: "x".repeat(1 << 20),
        ..credit("large", "a", 1)
    })));
    let (results, end) = rest(&mut stream.results).await;
    assert_eq!(results.len(), 10);
    let rejection = Rejection::of_status(&end.expect_err("an error"));
    let rejection = rejection.expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(rejection.fields, ["request"]);
}

#[tokio::test]
async fn a_stop_answers_what_was_read_and_waits_for_no_client() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    open(&mut ballast, "b", 0).await;
    open(&mut ballast, "locked", 0).await;
    let (_unread, _) = flood(&mut ballast, 30_000).await;
    let mut idle = Open::on(&ballast).await;
    let mut busy = Open::on(&ballast).await;
    let lock = ballast.lock("locked").await;
    busy.send(credit_member("in-flight", "locked", 1));
    ballast.until_waiting(|count| count > 0).await;
    let asked = Instant::now();
    ballast.begin_to_stop();
    let (results, end) = rest(&mut idle.results).await;
    assert_eq!(results.len(), 0);
    let rejection = Rejection::of_status(&end.expect_err("an error"));
    assert!(
        rejection
            .expect(Code::Unavailable, "SHUTTING_DOWN")
            .has_retry_info
    );
    lock.release().await;
    let (results, end) = rest(&mut busy.results).await;
    assert_eq!(results.len(), 1);
    posted_of(&results[0]);
    Rejection::of_status(&end.expect_err("an error")).expect(Code::Unavailable, "SHUTTING_DOWN");
    assert!(
        ballast.stopped().await,
        "drained, although one client does not read"
    );
    let took = asked.elapsed();
    assert!(took < PROMPT_STOP, "{took:?} of {DRAIN_TIMEOUT:?}");
}

#[tokio::test]
async fn the_client_s_deadline_ends_a_stream_and_gives_each_operation_its_result() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "locked", 0).await;
    open(&mut ballast, "free", 0).await;
    let lock = ballast.lock("locked").await;
    // On a busy machine the one on the free account may need more time, which the other one waits for in vain.
    let mut timeouts_ms = [500, 4_000, 15_000].into_iter();
    loop {
        let timeout_ms = timeouts_ms.next().expect("one is executed in time");
        let (requests, sent) = mpsc::unbounded_channel();
        let request = within(
            UnboundedReceiverStream::new(sent),
            Duration::from_millis(timeout_ms),
        );
        let opened = patient(&ballast).submit_operations(request).await;
        let mut results = opened.expect("a stream opens").into_inner();
        for account_id in ["locked", "free"] {
            let operation_id = format!("{account_id}-{timeout_ms}");
            let operation = credit_member(&operation_id, account_id, 1);
            requests.send(submitted(operation)).expect("open");
        }
        let (results, end) = rest(&mut results).await;
        Rejection::of_status(&end.expect_err("an error"))
            .expect(Code::DeadlineExceeded, "DEADLINE");
        let (of_free, of_locked): (Vec<_>, Vec<_>) = results
            .iter()
            .partition(|result| result.operation_id.starts_with("free"));
        let is_posted =
            |result: &&OperationResult| matches!(result.outcome, Some(Outcome::Posted(_)));
        if !of_free.iter().all(is_posted) {
            continue;
        }
        assert_eq!(of_free.len(), 1);
        assert_eq!(of_locked.len(), 1);
        let error = error_of(of_locked[0]);
        assert_eq!(
            (error.reason.as_str(), error.metadata["outcome"].as_str()),
            ("DEADLINE", "none")
        );
        break;
    }
    lock.release().await;
    assert_eq!(posted(&mut ballast.balances, "locked").await, 0);
}

#[tokio::test]
async fn the_server_s_own_limit_is_for_each_operation_and_not_for_the_stream() {
    let mut roomy = Ballast::start().await;
    open(&mut roomy, "a", 0).await;
    let limit = Duration::from_secs(1);
    let change = |config: &mut ballast::server::ServerConfig| config.request_timeout_max = limit;
    let ballast = Ballast::start_on(roomy.database.clone(), change).await;
    let opened = Instant::now();
    let mut stream = Open::on(&ballast).await;
    for round in ["1", "2", "3"] {
        let lock = ballast.lock("a").await;
        stream.send(credit_member(round, "a", 1));
        let late = stream.result().await;
        assert_eq!(error_of(&late).reason, "DEADLINE");
        lock.release().await;
    }
    // Longer than the limit and the grace for a message that does not arrive.
    assert!(opened.elapsed() > limit + Duration::from_secs(1));
    // Each has the whole limit for itself. On a busy machine one of them may take longer all the same.
    let in_time = async {
        for number in 0.. {
            stream.send(credit_member(&format!("in-time-{number}"), "a", 1));
            let result = stream.result().await;
            match result.outcome {
                Some(Outcome::Error(error)) => assert_eq!(error.reason, "DEADLINE"),
                _ => {
                    posted_of(&result);
                    return;
                }
            }
        }
    };
    within_reason("an operation within the limit", in_time).await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_what_was_not_started_with_it() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    let lock = ballast.lock("a").await;
    let mut balances = ballast.own_balances();
    let stream = Open::by(&mut balances).await;
    for index in 0..10 {
        stream.send(credit_member(&index.to_string(), "a", 1));
    }
    ballast.until_waiting(|count| count > 0).await;
    drop(stream);
    // On the same connection: what the server reads after the end of the stream.
    for _ in 0..50 {
        posted(&mut balances, "a").await;
    }
    let later = tokio::spawn(async move { balances.credit(credit("later", "a", 1)).await });
    lock.release().await;
    later.await.expect("no panic").expect("posted");
    let unknown = GetOperationRequest {
        operation_id: "9".to_owned(),
        ..GetOperationRequest::default()
    };
    Rejection::of(ballast.balances.get_operation(unknown).await)
        .expect(Code::NotFound, "OPERATION_NOT_FOUND");
    assert_eq!(posted(&mut ballast.balances, "a").await, 1);
    ballast.assert_in_order().await;
}
