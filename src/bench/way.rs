//! Ways in: by which RPC the operations come.

use std::collections::HashMap;
use std::fmt;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Response, Status, Streaming};

use super::load::{Client, Schedule, Shared};
use super::measured::{Answer, Measured};
use super::scenario::{Call, Calls, Facts};
use crate::rpc::proto::operation_request::Request;
use crate::rpc::proto::{
    ExecuteBatchRequest, OperationRequest, OperationResult, SubmitOperationsRequest,
    SubmitOperationsResponse,
};

/// By which RPC the operations come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Debit, Credit or Transfer: one call for each.
    Unary,
    /// ExecuteBatch, with so many members in each call.
    Batch(usize),
    /// SubmitOperations: one stream on each connection.
    Stream,
}

/// A way that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskedWay {
    /// Which one.
    pub way: Way,
    /// How many operations are in flight by it in a closed loop, if not as many as by the others.
    pub concurrency: Option<usize>,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unary => f.write_str("unary"),
            Self::Batch(size) => write!(f, "batch of {size}"),
            Self::Stream => f.write_str("stream"),
        }
    }
}

impl Way {
    /// How many members its batches have.
    pub(super) fn batch_size(self) -> Option<usize> {
        match self {
            Self::Batch(size) => Some(size),
            Self::Unary | Self::Stream => None,
        }
    }

    /// How many callers keep `concurrency` operations in flight, and how many operations each has.
    ///
    /// A batch keeps its size. There are always two of them, if two operations may be in flight: with one, the server
    /// would idle while the client reads its answer.
    pub(super) fn callers(self, concurrency: usize, connection_count: usize) -> Vec<usize> {
        match self {
            Self::Unary => vec![1; concurrency],
            Self::Batch(size) => vec![size; (concurrency / size).max(2.min(concurrency)).max(1)],
            Self::Stream => {
                let count = connection_count.min(concurrency).max(1);
                let one_more = concurrency % count;
                let window = |index| concurrency / count + usize::from(index < one_more);
                (0..count).map(window).collect()
            }
        }
    }
}

/// What goes into one call.
pub(super) enum Parcel {
    /// One request, by the RPC of its own.
    One(Call, Facts),
    /// The members of an ExecuteBatch.
    Batch(Vec<OperationRequest>, Vec<Facts>),
}

/// What came back for a [`Parcel`], and when.
pub(super) struct Answers {
    pub(super) came: Instant,
    /// One for each operation.
    pub(super) all: Vec<(Facts, Answer)>,
}

impl Parcel {
    /// The next call of a batch of this size; of a single request if `None`.
    pub(super) fn next(calls: &mut Calls, batch_size: Option<usize>) -> Self {
        match batch_size {
            None => {
                let (call, facts) = calls.next();
                Self::One(call, facts)
            }
            Some(size) => {
                let (operations, facts) = (0..size).map(|_| calls.operation()).unzip();
                Self::Batch(operations, facts)
            }
        }
    }

    /// How many operations it has.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::One(..) => 1,
            Self::Batch(operations, _) => operations.len(),
        }
    }

    pub(super) async fn send(self, client: &mut Client) -> Answers {
        match self {
            Self::One(call, facts) => {
                let answer = send(client, call).await;
                Answers {
                    came: Instant::now(),
                    all: vec![(facts, answer)],
                }
            }
            Self::Batch(operations, facts) => {
                let answered = client
                    .execute_batch(ExecuteBatchRequest { operations })
                    .await;
                let came = Instant::now();
                let answer = |index: usize| match &answered {
                    Ok(response) => match response.get_ref().results.get(index) {
                        Some(result) => Answer::of_result(result),
                        None => Answer::Error("no result for a member".to_owned()),
                    },
                    Err(status) => Answer::of_status(status),
                };
                let all = facts.into_iter().enumerate();
                Answers {
                    came,
                    all: all.map(|(index, facts)| (facts, answer(index))).collect(),
                }
            }
        }
    }
}

/// One call at a time, for as long as it is asked to. The latency of a member of a batch is that of its call.
pub(super) async fn call(
    mut client: Client,
    mut calls: Calls,
    batch_size: Option<usize>,
    shared: Arc<Shared>,
) -> Measured {
    let mut measured = Measured::new();
    while !shared.is_stopping() {
        let parcel = Parcel::next(&mut calls, batch_size);
        let sent = Instant::now();
        let answers = parcel.send(&mut client).await;
        let latency = answers.came - sent;
        for (facts, answer) in answers.all {
            shared.note(&mut measured, facts, &answer, latency);
        }
    }
    measured
}

/// Sends one request by the RPC of its own.
async fn send(client: &mut Client, call: Call) -> Answer {
    match call {
        Call::Operation(OperationRequest { request }) => match request {
            Some(Request::Transfer(request)) => Answer::of(&client.transfer(*request).await),
            Some(Request::Debit(request)) => Answer::of(&client.debit(*request).await),
            Some(Request::Credit(request)) => Answer::of(&client.credit(*request).await),
            Some(Request::Post(request)) => Answer::of(&client.post_operation(*request).await),
            None => Answer::Error("an empty request".to_owned()),
        },
        Call::GetBalance(request) => Answer::of(&client.get_balance(request).await),
    }
}

/// What a stream sends.
pub(super) enum Feed {
    /// So many operations in flight, always.
    Window(usize),
    /// What is due, come what may.
    Due(Schedule),
}

/// One stream. One that breaks is not opened again: the run has failed.
pub(super) async fn stream(
    mut client: Client,
    calls: Calls,
    feed: Feed,
    shared: Arc<Shared>,
) -> Measured {
    // Bounded by what may be in flight: a window, or what an open loop admits.
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let (window, mut schedule) = match feed {
        Feed::Window(window) => (window, None),
        Feed::Due(schedule) => (0, Some(schedule)),
    };
    let mut submitted = Submitted {
        calls,
        sender: Some(sender),
        waiting: HashMap::new(),
        measured: Measured::new(),
        is_open_loop: schedule.is_some(),
        shared,
    };
    (0..window).for_each(|_| submitted.send(Instant::now()));
    let requests = stream::poll_fn(move |context| receiver.poll_recv(context));
    let opening = client.submit_operations(requests);
    if let Some(broken) = submitted.follow(opening, &mut schedule).await {
        submitted.note_broken(&broken, &mut schedule).await;
    }
    submitted.measured
}

/// What went into a stream, and what came back.
struct Submitted {
    calls: Calls,
    /// None when nothing is to be sent any more.
    sender: Option<mpsc::UnboundedSender<SubmitOperationsRequest>>,
    /// What has no result yet, with the moment from which its latency counts.
    waiting: HashMap<String, (Facts, Instant)>,
    measured: Measured,
    is_open_loop: bool,
    shared: Arc<Shared>,
}

impl Submitted {
    /// Sends and takes until the stream ends. Half-closes when the turn is over; what is in flight is still answered. `None`
    /// if everything was, else why it ended.
    async fn follow(
        &mut self,
        opening: impl Future<Output = Result<Response<Streaming<SubmitOperationsResponse>>, Status>>,
        schedule: &mut Option<Schedule>,
    ) -> Option<Answer> {
        let (mut opening, mut results) = (pin!(opening), None);
        let shared = self.shared.clone();
        loop {
            tokio::select! {
                opened = &mut opening, if results.is_none() => match opened {
                    Ok(response) => results = Some(response.into_inner()),
                    Err(status) => return Some(Answer::of_status(&status)),
                },
                result = next(&mut results) => {
                    match result {
                        Ok(Some(message)) => self.take(&message.result.unwrap_or_default()),
                        Ok(None) if self.sender.is_none() && self.waiting.is_empty() => return None,
                        Ok(None) => return Some(Answer::Error("the stream ended early".to_owned())),
                        Err(status) => return Some(Answer::of_status(&status)),
                    }
                    match (self.is_open_loop, shared.is_stopping()) {
                        // What was due before the end is sent before it half-closes.
                        (true, _) => {}
                        (false, true) => self.sender = None,
                        (false, false) => self.send(Instant::now()),
                    }
                }
                goes_on = until_due(&shared, schedule, |due| self.send_due(due)),
                    if self.is_open_loop && self.sender.is_some() =>
                {
                    if !goes_on {
                        self.sender = None;
                    }
                }
            }
        }
    }

    fn send(&mut self, since: Instant) {
        let Some(sender) = &self.sender else { return };
        let (operation, facts) = self.calls.operation();
        self.waiting
            .insert(operation_id(&operation), (facts, since));
        // It cannot be sent if the stream broke, which its results say too.
        let _broken = sender.send(SubmitOperationsRequest {
            operation: Some(operation),
        });
    }

    fn send_due(&mut self, due: Instant) {
        match self.shared.admit(1) {
            true => self.send(due),
            false => {
                let why = "too many in flight";
                self.shared.note_not_sent(&mut self.measured, 1, why);
            }
        }
    }

    fn take(&mut self, result: &OperationResult) {
        let measured = &mut self.measured;
        let Some((facts, since)) = self.waiting.remove(&result.operation_id) else {
            let answer = Answer::Error("a result that nobody waits for".to_owned());
            return self
                .shared
                .note(measured, Facts::default(), &answer, Duration::ZERO);
        };
        let (answer, latency) = (Answer::of_result(result), since.elapsed());
        if self.is_open_loop {
            self.shared.dismiss(1);
            self.shared.note_open(measured, facts, &answer, latency);
        } else {
            self.shared.note(measured, facts, &answer, latency);
        }
    }

    /// Notes what has no result, and what falls due until the end of the turn. In the warm-up too: from there on the stream
    /// measures nothing.
    async fn note_broken(&mut self, broken: &Answer, schedule: &mut Option<Schedule>) {
        if self.waiting.is_empty() {
            self.measured.all.note(broken, Duration::ZERO);
        }
        if self.is_open_loop {
            self.shared.dismiss(self.waiting.len());
        }
        for (facts, since) in std::mem::take(&mut self.waiting).into_values() {
            self.measured.book(facts, broken);
            self.measured.all.note(broken, since.elapsed());
        }
        if self.is_open_loop {
            let (shared, measured) = (&self.shared, &mut self.measured);
            let mut not_sent = |_| shared.note_not_sent(measured, 1, "the stream broke");
            while until_due(shared, schedule, &mut not_sent).await {}
        }
    }
}

/// The next message of a stream that is open; of one that is not, never.
async fn next<T>(results: &mut Option<Streaming<T>>) -> Result<Option<T>, Status> {
    match results {
        Some(results) => results.message().await,
        None => pending().await,
    }
}

/// See [`Shared::until_due`]; without a schedule nothing is ever due.
async fn until_due(
    shared: &Shared,
    schedule: &mut Option<Schedule>,
    send: impl FnMut(Instant),
) -> bool {
    match schedule {
        Some(schedule) => shared.until_due(schedule, send).await,
        None => pending().await,
    }
}

fn operation_id(operation: &OperationRequest) -> String {
    match &operation.request {
        Some(Request::Transfer(request)) => request.operation_id.clone(),
        Some(Request::Debit(request)) => request.operation_id.clone(),
        Some(Request::Credit(request)) => request.operation_id.clone(),
        Some(Request::Post(request)) => request.operation_id.clone(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scenario;
    use super::super::scenario::{Accounts, OperationIds};
    use super::*;

    #[tokio::test]
    async fn a_stream_that_never_opens_fails_though_nothing_was_sent() {
        let accounts = Accounts {
            prefix: "a-".into(),
            count: 2,
        };
        let calls = Calls::new(Scenario::Uniform, accounts, OperationIds::Random);
        let nobody = tonic::transport::Endpoint::from_static("http://127.0.0.1:1");
        let client = Client::new(nobody.connect_lazy());
        let shared = Arc::new(Shared::default());
        // The first one is due in an hour.
        let feed = Feed::Due(Schedule::part(1.0 / 3600.0, 1, 2));
        let running = stream(client, calls.expect("calls"), feed, shared.clone());
        let ending = async {
            tokio::task::yield_now().await;
            shared.end();
        };
        let (measured, ()) = tokio::join!(running, ending);
        let errors: Vec<&String> = measured.all.errors.keys().collect();
        assert_eq!(errors, ["Unavailable no reason"]);
    }

    #[test]
    fn callers_share_what_is_in_flight() {
        assert_eq!(Way::Unary.callers(3, 4), [1, 1, 1]);
        assert_eq!(Way::Stream.callers(10, 4), [3, 3, 2, 2]);
        assert_eq!(Way::Stream.callers(2, 4), [1, 1]);
        assert_eq!(Way::Batch(500).callers(2000, 4), [500; 4]);
        assert_eq!(Way::Batch(500).callers(256, 4), [500; 2]);
        assert_eq!(Way::Batch(500).callers(1, 4), [500]);
    }
}
