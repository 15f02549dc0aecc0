//! Payloads: what goes into one call, which is one request or a batch of them.

use std::sync::Arc;

use tokio::time::Instant;

use super::calls::{Call, Calls, Client, Facts};
use super::measured::{Answer, Measured};
use super::recorder::Recorder;
use crate::rpc::proto::operation_request::Request;
use crate::rpc::proto::{ExecuteBatchRequest, OperationRequest};

/// What goes into one call.
pub(super) enum Payload {
    /// One request, by the RPC of its own.
    One(Call, Facts),
    /// The members of an ExecuteBatch.
    Batch(Vec<OperationRequest>, Vec<Facts>),
}

/// What came back for a [`Payload`], and when.
pub(super) struct Answers {
    pub(super) came: Instant,
    /// One for each operation.
    pub(super) all: Vec<(Facts, Answer)>,
}

impl Payload {
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
                    .execute_batch(ExecuteBatchRequest {
                        operations,
                        ..ExecuteBatchRequest::default()
                    })
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
    recorder: Arc<Recorder>,
) -> Measured {
    let mut measured = Measured::new();
    while !recorder.is_stopping() {
        let payload = Payload::next(&mut calls, batch_size);
        let sent = Instant::now();
        let answers = payload.send(&mut client).await;
        let latency = answers.came - sent;
        for (facts, answer) in answers.all {
            recorder.note(&mut measured, facts, &answer, latency);
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
            Some(Request::Reverse(request)) => {
                Answer::of(&client.reverse_operation(*request).await)
            }
            None => Answer::Error("an empty request".to_owned()),
        },
        Call::GetBalance(request) => Answer::of(&client.get_balance(request).await),
    }
}
