//! Ways in: by which RPC the operations come.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::load::{Client, Shared};
use super::measured::{Answer, Measured};
use super::scenario::{Call, Calls, Facts};
use crate::rpc::proto::operation_request::Request;
use crate::rpc::proto::{
    ExecuteBatchRequest, OperationRequest, OperationResult, SubmitOperationsRequest,
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

/// One call at a time, for as long as it is asked to.
pub(super) async fn call(mut client: Client, mut calls: Calls, shared: Arc<Shared>) -> Measured {
    let mut measured = Measured::new();
    while !shared.is_stopping() {
        let (call, facts) = calls.next();
        let sent = Instant::now();
        let answer = send(&mut client, call).await;
        shared.note(&mut measured, facts, &answer, sent.elapsed());
    }
    measured
}

/// Sends one request by the RPC of its own.
pub(super) async fn send(client: &mut Client, call: Call) -> Answer {
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

/// One batch at a time. The latency of a member is that of its call.
pub(super) async fn batches(
    mut client: Client,
    mut calls: Calls,
    size: usize,
    shared: Arc<Shared>,
) -> Measured {
    let mut measured = Measured::new();
    while !shared.is_stopping() {
        let (operations, facts): (Vec<_>, Vec<Facts>) =
            (0..size).map(|_| calls.operation()).unzip();
        let sent = Instant::now();
        let answered = client
            .execute_batch(ExecuteBatchRequest { operations })
            .await;
        let latency = sent.elapsed();
        let answers: Vec<Answer> = match answered {
            Ok(response) => {
                let results = response.into_inner().results;
                results.iter().map(Answer::of_result).collect()
            }
            Err(status) => vec![Answer::of_status(&status); size],
        };
        let missing = Answer::Error("no result for a member".to_owned());
        for (index, facts) in facts.into_iter().enumerate() {
            let answer = answers.get(index).unwrap_or(&missing);
            shared.note(&mut measured, facts, answer, latency);
        }
    }
    measured
}

/// One stream with `window` operations in flight. A stream that breaks is not opened again: the run has failed anyway.
pub(super) async fn stream(
    mut client: Client,
    mut calls: Calls,
    window: usize,
    shared: Arc<Shared>,
) -> Measured {
    let mut measured = Measured::new();
    let (sender, mut receiver) = mpsc::channel(window);
    let mut sender = Some(sender);
    let mut waiting: HashMap<String, (Facts, Instant)> = HashMap::with_capacity(window);
    let mut send_next = |sender: &mpsc::Sender<SubmitOperationsRequest>,
                         waiting: &mut HashMap<_, _>| {
        let (operation, facts) = calls.operation();
        waiting.insert(operation_id(&operation), (facts, Instant::now()));
        // Cannot be full: it has room for everything that is in flight.
        let _ended = sender.try_send(SubmitOperationsRequest {
            operation: Some(operation),
        });
    };
    if let Some(sender) = &sender {
        (0..window).for_each(|_| send_next(sender, &mut waiting));
    }
    let requests = stream::poll_fn(move |context| receiver.poll_recv(context));
    let broken = match client.submit_operations(requests).await {
        Err(status) => Answer::of_status(&status),
        Ok(response) => {
            let mut results = response.into_inner();
            loop {
                let result = match results.message().await {
                    Ok(Some(message)) => message.result.unwrap_or_default(),
                    Ok(None) => break Answer::Error("the stream ended early".to_owned()),
                    Err(status) => break Answer::of_status(&status),
                };
                take(&result, &mut waiting, &mut measured, &shared);
                if shared.is_stopping() {
                    // Half-closes; what is in flight is still answered.
                    sender = None;
                } else if let Some(sender) = &sender {
                    send_next(sender, &mut waiting);
                }
            }
        }
    };
    for (facts, sent) in waiting.into_values() {
        // Also in the warm-up: from here on the stream measures nothing.
        measured.book(facts, &broken);
        measured.all.note(&broken, sent.elapsed());
    }
    measured
}

fn take(
    result: &OperationResult,
    waiting: &mut HashMap<String, (Facts, Instant)>,
    measured: &mut Measured,
    shared: &Shared,
) {
    match waiting.remove(&result.operation_id) {
        Some((facts, sent)) => {
            shared.note(measured, facts, &Answer::of_result(result), sent.elapsed());
        }
        None => {
            let answer = Answer::Error("a result that nobody waits for".to_owned());
            shared.note(measured, Facts::default(), &answer, Default::default());
        }
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
