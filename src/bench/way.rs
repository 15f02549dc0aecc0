//! Ways in: by which RPC the operations come.

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::Streaming;

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

/// What came back for a [`Parcel`].
pub(super) enum Answers {
    One(Facts, Answer),
    Batch(Vec<Facts>, Vec<Answer>),
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
            Self::One(call, facts) => Answers::One(facts, send(client, call).await),
            Self::Batch(operations, facts) => {
                let request = ExecuteBatchRequest { operations };
                let answers = match client.execute_batch(request).await {
                    Ok(response) => {
                        let results = response.into_inner().results;
                        results.iter().map(Answer::of_result).collect()
                    }
                    Err(status) => vec![Answer::of_status(&status); facts.len()],
                };
                Answers::Batch(facts, answers)
            }
        }
    }
}

impl Answers {
    /// Shows each of them.
    pub(super) fn each(&self, mut note: impl FnMut(Facts, &Answer)) {
        match self {
            Self::One(facts, answer) => note(*facts, answer),
            Self::Batch(facts, answers) => {
                let missing = Answer::Error("no result for a member".to_owned());
                for (index, facts) in facts.iter().enumerate() {
                    note(*facts, answers.get(index).unwrap_or(&missing));
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
        let latency = sent.elapsed();
        answers.each(|facts, answer| shared.note(&mut measured, facts, answer, latency));
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

/// One stream. One that breaks is not opened again: the run has failed anyway.
pub(super) async fn stream(
    mut client: Client,
    calls: Calls,
    feed: Feed,
    shared: Arc<Shared>,
) -> Measured {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let mut submitted = Submitted {
        calls,
        sender: Some(sender),
        waiting: HashMap::new(),
        measured: Measured::new(),
        is_open: matches!(feed, Feed::Due(_)),
        shared,
    };
    let mut schedule = match feed {
        Feed::Window(window) => {
            (0..window).for_each(|_| submitted.send(Instant::now()));
            None
        }
        Feed::Due(schedule) => Some(schedule),
    };
    let requests = stream::poll_fn(move |context| receiver.poll_recv(context));
    let broken = match client.submit_operations(requests).await {
        Err(status) => Answer::of_status(&status),
        Ok(response) => {
            let results = response.into_inner();
            submitted.run(results, &mut schedule).await
        }
    };
    submitted.end(&broken)
}

/// What went into a stream, and what came back.
struct Submitted {
    calls: Calls,
    /// None when nothing is to be sent any more.
    sender: Option<mpsc::UnboundedSender<SubmitOperationsRequest>>,
    /// What has no result yet, with the moment at which it was due.
    waiting: HashMap<String, (Facts, Instant)>,
    measured: Measured,
    is_open: bool,
    shared: Arc<Shared>,
}

impl Submitted {
    /// Sends and takes until everything has its result, or the stream breaks: why it ended.
    async fn run(
        &mut self,
        mut results: Streaming<SubmitOperationsResponse>,
        schedule: &mut Option<Schedule>,
    ) -> Answer {
        let mut timer = pin!(sleep_until(Instant::now()));
        loop {
            tokio::select! {
                result = results.message() => {
                    let result = match result {
                        Ok(Some(message)) => message.result.unwrap_or_default(),
                        Ok(None) => return Answer::Error("the stream ended early".to_owned()),
                        Err(status) => return Answer::of_status(&status),
                    };
                    self.take(&result);
                    if self.shared.is_stopping() {
                        // Half-closes; what is in flight is still answered.
                        self.sender = None;
                    } else if !self.is_open {
                        self.send(Instant::now());
                    }
                }
                () = &mut timer, if self.is_open && self.sender.is_some() => {
                    if self.shared.is_stopping() {
                        self.sender = None;
                    } else if let Some(schedule) = schedule {
                        schedule.take_due(|due| self.send_due(due));
                        timer.as_mut().reset(schedule.due);
                    }
                }
            }
        }
    }

    fn send(&mut self, due: Instant) {
        let Some(sender) = &self.sender else { return };
        let (operation, facts) = self.calls.operation();
        self.waiting.insert(operation_id(&operation), (facts, due));
        // It cannot be sent if the stream broke, which its results say too.
        let _broken = sender.send(SubmitOperationsRequest {
            operation: Some(operation),
        });
    }

    fn send_due(&mut self, due: Instant) {
        match self.shared.admit(1) {
            true => self.send(due),
            false => self.shared.note_not_sent(&mut self.measured, 1),
        }
    }

    fn take(&mut self, result: &OperationResult) {
        let Some((facts, due)) = self.waiting.remove(&result.operation_id) else {
            let answer = Answer::Error("a result that nobody waits for".to_owned());
            let (facts, latency) = (Facts::default(), Duration::ZERO);
            return self
                .shared
                .note(&mut self.measured, facts, &answer, latency);
        };
        let (answer, latency) = (Answer::of_result(result), due.elapsed());
        if self.is_open {
            self.shared.dismiss(1);
            self.shared
                .note_open(&mut self.measured, facts, &answer, latency);
        } else {
            self.shared
                .note(&mut self.measured, facts, &answer, latency);
        }
    }

    fn end(mut self, broken: &Answer) -> Measured {
        for (facts, due) in self.waiting.into_values() {
            // Also in the warm-up: from here on the stream measures nothing.
            self.measured.book(facts, broken);
            self.measured.all.note(broken, due.elapsed());
        }
        self.measured
    }
}

fn operation_id(operation: &OperationRequest) -> String {
    match &operation.request {
        Some(Request::Transfer(request)) => request.operation_id.clone(),
        Some(Request::Debit(request)) => request.operation_id.clone(),
        Some(Request::Credit(request)) => request.operation_id.clone(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::Way;

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
