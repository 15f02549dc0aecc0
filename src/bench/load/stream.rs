//! Streams: operations that come by SubmitOperations.

use std::collections::HashMap;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Response, Status, Streaming};

use super::calls::{Calls, Client, Facts};
use super::measured::{Answer, Measured};
use super::recorder::Recorder;
use super::schedule::Schedule;
use crate::rpc::proto::operation_request::Request;
use crate::rpc::proto::{
    OperationRequest, OperationResult, SubmitOperationsRequest, SubmitOperationsResponse,
};

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
    recorder: Arc<Recorder>,
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
        recorder,
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
    recorder: Arc<Recorder>,
}

impl Submitted {
    /// Sends and takes until the stream ends. Half-closes when the load is over; what is in flight is still answered. `None`
    /// if everything was, else why it ended.
    async fn follow(
        &mut self,
        opening: impl Future<Output = Result<Response<Streaming<SubmitOperationsResponse>>, Status>>,
        schedule: &mut Option<Schedule>,
    ) -> Option<Answer> {
        let (mut opening, mut results) = (pin!(opening), None);
        let recorder = self.recorder.clone();
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
                    match (self.is_open_loop, recorder.is_stopping()) {
                        // What was due before the end is sent before it half-closes.
                        (true, _) => {}
                        (false, true) => self.sender = None,
                        (false, false) => self.send(Instant::now()),
                    }
                }
                goes_on = until_due(&recorder, schedule, |due| self.send_due(due)),
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
        match self.recorder.admit(1) {
            true => self.send(due),
            false => {
                let why = "too many in flight";
                self.recorder.note_not_sent(&mut self.measured, 1, why);
            }
        }
    }

    fn take(&mut self, result: &OperationResult) {
        let measured = &mut self.measured;
        let Some((facts, since)) = self.waiting.remove(&result.operation_id) else {
            let answer = Answer::Error("a result that nobody waits for".to_owned());
            return self
                .recorder
                .note(measured, Facts::default(), &answer, Duration::ZERO);
        };
        let (answer, latency) = (Answer::of_result(result), since.elapsed());
        if self.is_open_loop {
            self.recorder.dismiss(1);
            self.recorder.note_open(measured, facts, &answer, latency);
        } else {
            self.recorder.note(measured, facts, &answer, latency);
        }
    }

    /// Notes what has no result, and what falls due until the end. In the warm-up too: from there on the stream
    /// measures nothing.
    async fn note_broken(&mut self, broken: &Answer, schedule: &mut Option<Schedule>) {
        if self.waiting.is_empty() {
            self.measured.all.note(broken, Duration::ZERO);
        }
        if self.is_open_loop {
            self.recorder.dismiss(self.waiting.len());
        }
        for (facts, since) in std::mem::take(&mut self.waiting).into_values() {
            self.measured.book(facts, broken);
            self.measured.all.note(broken, since.elapsed());
        }
        if self.is_open_loop {
            let (recorder, measured) = (&self.recorder, &mut self.measured);
            let mut not_sent = |_| recorder.note_not_sent(measured, 1, "the stream broke");
            while until_due(recorder, schedule, &mut not_sent).await {}
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

/// See [`Recorder::until_due`]; without a schedule nothing is ever due.
async fn until_due(
    recorder: &Recorder,
    schedule: &mut Option<Schedule>,
    send: impl FnMut(Instant),
) -> bool {
    match schedule {
        Some(schedule) => recorder.until_due(schedule, send).await,
        None => pending().await,
    }
}

fn operation_id(operation: &OperationRequest) -> String {
    match &operation.request {
        Some(Request::Transfer(request)) => request.operation_id.clone(),
        Some(Request::Debit(request)) => request.operation_id.clone(),
        Some(Request::Credit(request)) => request.operation_id.clone(),
        Some(Request::Post(request)) => request.operation_id.clone(),
        Some(Request::Reverse(request)) => request.operation_id.clone(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::operation_ids::OperationIds;
    use crate::bench::scenario::Scenario;
    use crate::harness::Accounts;

    #[tokio::test]
    async fn a_stream_that_never_opens_fails_though_nothing_was_sent() {
        let accounts = Accounts::new("a", 2);
        let calls = Calls::new(Scenario::Uniform, accounts, OperationIds::Random);
        let nobody = tonic::transport::Endpoint::from_static("http://127.0.0.1:1");
        let client = Client::new(nobody.connect_lazy());
        let recorder = Arc::new(Recorder::default());
        // The first one is due in an hour.
        let feed = Feed::Due(Schedule::part(1.0 / 3600.0, 1, 2));
        let running = stream(client, calls.expect("calls"), feed, recorder.clone());
        let ending = async {
            tokio::task::yield_now().await;
            recorder.end();
        };
        let (measured, ()) = tokio::join!(running, ending);
        let errors: Vec<&String> = measured.all.errors.keys().collect();
        assert_eq!(errors, ["Unavailable no reason"]);
    }
}
