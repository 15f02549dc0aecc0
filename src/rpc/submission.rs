//! A submission: one SubmitOperations stream, from its first operation to its last result.
//!
//! One task per stream reads operations, hands them to the batcher and collects their answers; the body of the response
//! only takes the results away. What was read and not yet taken is counted, and bounded: a client that does not read is
//! not read from.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};
use prost::Message;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

use super::member::{self, Asks, Facts, Member};
use super::proto::operation_result::Outcome;
use super::proto::{OperationResult, SubmitOperationsRequest, SubmitOperationsResponse};
use super::room::{Held, Room};
use super::status::{self, RpcError};
use super::violations::Violations;
use super::{balance::Limits, edge};
use crate::batcher::{Batcher, Failure, Pipeline, QueueSlot};
use crate::domain::{Command, Receipt};
use crate::store::Store;

/// The most operations of a stream that were read and whose results were not taken.
const UNTAKEN_MAX: usize = 1000;
/// What a result that posted takes in memory, about, in bytes.
const POSTED_SIZE: usize = 400;
/// The most operations that are read before answers are looked for.
const READ_AHEAD_MAX: usize = 100;

/// What the task tells the body.
enum Output {
    /// A result, and the room that it takes until the body has it.
    Result(OperationResult, Held),
    End(Result<(), Status>),
}

/// The results of a stream, as the body of its response. Dropping it abandons what is in flight.
pub struct Results {
    outputs: mpsc::UnboundedReceiver<Output>,
    untaken: Arc<Semaphore>,
    ended: bool,
    _task: AbortOnDropHandle<()>,
}

impl Stream for Results {
    type Item = Result<SubmitOperationsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let output = ready!(self.outputs.poll_recv(context));
        if let Some(Output::Result(result, _held)) = output {
            self.untaken.add_permits(1);
            let result = Some(result);
            return Poll::Ready(Some(Ok(SubmitOperationsResponse { result })));
        }
        self.ended = true;
        Poll::Ready(match output {
            Some(Output::End(end)) => end.err().map(Err),
            // The task died of a bug; the panic hook has logged it. Never look like a stream that was answered.
            _ => Some(Err(status::internal())),
        })
    }
}

/// An operation that waits for a place in the queue.
struct Ready {
    operation_id: String,
    command: Command,
    deadline: Instant,
}

/// An operation that waits for what it asks about its accounts.
struct Asking {
    operation_id: String,
    asks: Asks,
    deadline: Instant,
}

/// What some operations asked, and the answer.
type Asked = (Vec<Asking>, Result<Facts, Failure>);

/// A stream's operations, by how far they are.
struct Submission {
    batcher: Batcher,
    store: Store,
    deadline: Option<Instant>,
    operation_timeout: Duration,
    asking: Vec<Asking>,
    ready: VecDeque<Ready>,
    pipeline: Pipeline<String>,
    outputs: mpsc::UnboundedSender<Output>,
    room: Arc<Room>,
}

/// Serves a stream until the client's `deadline`, if it set one.
pub fn start(
    requests: Streaming<SubmitOperationsRequest>,
    batcher: Batcher,
    store: Store,
    deadline: Option<Instant>,
    room: Arc<Room>,
    limits: &Limits,
) -> Results {
    let untaken = Arc::new(Semaphore::new(UNTAKEN_MAX));
    let (outputs, taken) = mpsc::unbounded_channel();
    let submission = Submission {
        batcher,
        store,
        deadline,
        operation_timeout: limits.operation_timeout,
        asking: Vec::new(),
        ready: VecDeque::new(),
        pipeline: Pipeline::default(),
        outputs,
        room,
    };
    let stop = stop(deadline, limits.draining.clone());
    let task = tokio::spawn(submission.run(requests, untaken.clone(), stop));
    Results {
        outputs: taken,
        untaken,
        ended: false,
        _task: AbortOnDropHandle::new(task),
    }
}

/// Completes when nothing more may be read, with the reason.
async fn stop(deadline: Option<Instant>, draining: CancellationToken) -> RpcError {
    let deadline = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = deadline => RpcError::StreamDeadline,
        () = draining.cancelled() => RpcError::StreamShutdown,
    }
}

/// The next operation, when there is room for its result. Dropping the future loses nothing.
async fn read(
    requests: &mut Streaming<SubmitOperationsRequest>,
    untaken: &Semaphore,
    room: &Room,
) -> Result<Option<SubmitOperationsRequest>, Status> {
    let permit = untaken.acquire().await;
    if !room.has_place() {
        room.place().await;
    }
    let request = requests.message().await;
    if let (Ok(Some(_)), Ok(permit)) = (&request, permit) {
        // The body gives it back, when the result is taken.
        permit.forget();
    }
    request
}

impl Submission {
    async fn run(
        mut self,
        mut requests: Streaming<SubmitOperationsRequest>,
        untaken: Arc<Semaphore>,
        stop: impl Future<Output = RpcError>,
    ) {
        let mut stop = pin!(stop);
        // How the stream ends; known as soon as nothing more is read.
        let mut end = None;
        let mut slot: Option<BoxFuture<'static, Result<QueueSlot, Failure>>> = None;
        let mut lookup: Option<BoxFuture<'static, Asked>> = None;
        loop {
            if slot.is_none() {
                slot = self.submit();
            }
            if lookup.is_none() {
                lookup = self.look_up();
            }
            let may_read = end.is_none() && self.ready.is_empty();
            tokio::select! {
                biased;
                Some((operation_id, answer)) = self.pipeline.next() => {
                    self.end(operation_id, member::outcome(answer));
                }
                Some(found) = wait(&mut slot) => self.submit_first(found),
                Some((asking, facts)) = wait(&mut lookup) => self.settle(asking, &facts),
                reason = &mut stop, if end.is_none() => end = Some(Err(reason.into())),
                request = read(&mut requests, &untaken, &self.room), if may_read => {
                    end = self.take(request);
                    // What has arrived with it shares its transaction.
                    for _ in 1..READ_AHEAD_MAX {
                        match read(&mut requests, &untaken, &self.room).now_or_never() {
                            Some(request) if end.is_none() => end = self.take(request),
                            _ => break,
                        }
                    }
                }
                else => break,
            }
        }
        let _unread = self.outputs.send(Output::End(end.unwrap_or(Ok(()))));
    }

    /// Takes what was read. How the stream ends, if that was the last.
    fn take(
        &mut self,
        request: Result<Option<SubmitOperationsRequest>, Status>,
    ) -> Option<Result<(), Status>> {
        let operation = match request {
            Ok(Some(request)) => request.operation,
            Ok(None) => return Some(Ok(())),
            Err(unreadable) => return Some(Err(edge::detailed(&unreadable, false))),
        };
        let Some(operation) = operation else {
            let violations = Violations::one("operation", "is required");
            self.end(String::new(), Err(violations.into()));
            return None;
        };
        let deadline = Instant::now() + self.operation_timeout;
        let deadline = self.deadline.map_or(deadline, |end| end.min(deadline));
        let (operation_id, member) = member::parse(operation);
        match member {
            Ok(Member::Command(command)) => self.ready.push_back(Ready {
                operation_id,
                command: *command,
                deadline,
            }),
            Ok(Member::Asks(asks)) => self.asking.push(Asking {
                operation_id,
                asks: *asks,
                deadline,
            }),
            Err(error) => self.end(operation_id, Err(error)),
        }
        None
    }

    /// Submits what is ready, while there are free slots; else waits for one.
    fn submit(&mut self) -> Option<BoxFuture<'static, Result<QueueSlot, Failure>>> {
        while let Some(first) = self.ready.front() {
            let Some(slot) = self.batcher.try_slot() else {
                let (batcher, deadline) = (self.batcher.clone(), first.deadline);
                return Some(async move { batcher.slot(deadline).await }.boxed());
            };
            self.submit_first(Ok(slot));
        }
        None
    }

    fn submit_first(&mut self, slot: Result<QueueSlot, Failure>) {
        let Some(first) = self.ready.pop_front() else {
            return;
        };
        let Ready {
            operation_id,
            command,
            deadline,
        } = first;
        match slot {
            Ok(slot) => self.pipeline.submit(slot, command, deadline, operation_id),
            Err(failure) => self.end(operation_id, Err(RpcError::Failure(failure))),
        }
    }

    /// One question for all that is asked. What is read meanwhile waits for the next one.
    fn look_up(&mut self) -> Option<BoxFuture<'static, Asked>> {
        let asking = std::mem::take(&mut self.asking);
        let deadline = asking.iter().map(|asking| asking.deadline).min()?;
        let store = self.store.clone();
        let look_up = async move {
            let asks = asking.iter().map(|asking| &asking.asks);
            let facts = member::ask(&store, asks, deadline).await;
            (asking, facts)
        };
        Some(look_up.boxed())
    }

    fn settle(&mut self, asking: Vec<Asking>, facts: &Result<Facts, Failure>) {
        for one in asking {
            let Asking {
                operation_id,
                asks,
                deadline,
            } = one;
            match asks.settle(facts) {
                Ok(command) => self.ready.push_back(Ready {
                    operation_id,
                    command,
                    deadline,
                }),
                Err(error) => self.end(operation_id, Err(error)),
            }
        }
    }

    fn end(&self, operation_id: String, outcome: Result<Receipt, RpcError>) {
        let result = member::result(operation_id, outcome);
        let held = self.room.hold(match &result.outcome {
            Some(Outcome::Error(error)) => error.encoded_len(),
            _ => POSTED_SIZE,
        });
        // A body that is gone takes this task with it.
        let _untaken = self.outputs.send(Output::Result(result, held));
    }
}

/// What a future that is under way brings, once; `None` if there is none.
async fn wait<T>(future: &mut Option<BoxFuture<'static, T>>) -> Option<T> {
    let output = future.as_mut()?.await;
    *future = None;
    Some(output)
}
