//! A submission: one SubmitOperations stream, from its first operation to its last result.
//!
//! One task per stream reads operations, hands them to the batcher and collects their answers; the body of the response
//! only takes the results away. What was read and not yet taken is counted, and bounded: a client that does not read is
//! not read from.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{self, Poll, ready};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};
use prost::Message;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

use super::answer_budget::{Charge, ConnectionBudget};
use super::context::{Call, Context};
use super::member::{self, Member, Resolved, Unresolved};
use super::proto::operation_result::Outcome;
use super::proto::{OperationResult, SubmitOperationsRequest, SubmitOperationsResponse};
use super::status::{self, RpcError};
use super::violations::Violations;
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
    /// A result, and the memory that it takes until the body has it.
    Result(OperationResult, Charge),
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

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let output = ready!(self.outputs.poll_recv(context));
        if let Some(Output::Result(result, _charge)) = output {
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

/// An operation that waits for a slot in the queue.
struct Ready {
    operation_id: String,
    command: Command,
    context: Context,
}

/// An operation that waits for a look-up.
struct Waiting {
    operation_id: String,
    operation: Unresolved,
    context: Context,
}

/// Operations, and what was looked up for them.
type LookedUp = (Vec<Waiting>, Result<Resolved, Failure>);

/// A stream's operations, by how far they are.
struct Submission {
    batcher: Batcher,
    store: Store,
    call: Call,
    unresolved: Vec<Waiting>,
    ready: VecDeque<Ready>,
    pipeline: Pipeline<String>,
    outputs: mpsc::UnboundedSender<Output>,
}

/// Serves a stream until the client's deadline, if it set one, or until `draining` is cancelled.
pub fn start(
    requests: Streaming<SubmitOperationsRequest>,
    batcher: Batcher,
    store: Store,
    call: Call,
    draining: CancellationToken,
) -> Results {
    let untaken = Arc::new(Semaphore::new(UNTAKEN_MAX));
    let (outputs, taken) = mpsc::unbounded_channel();
    let stop = stop(call.stream_deadline(), draining);
    let submission = Submission {
        batcher,
        store,
        call,
        unresolved: Vec::new(),
        ready: VecDeque::new(),
        pipeline: Pipeline::default(),
        outputs,
    };
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

/// The next operation, when the memory for answers allows its result. Dropping the future loses nothing.
async fn read(
    requests: &mut Streaming<SubmitOperationsRequest>,
    untaken: &Semaphore,
    budget: &ConnectionBudget,
) -> Result<Option<SubmitOperationsRequest>, Status> {
    let permit = untaken.acquire().await;
    if !budget.is_ready() {
        budget.ready().await;
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
        let budget = self.call.budget().clone();
        // How the stream ends; known as soon as nothing more is read.
        let mut end = None;
        let mut slot: Option<BoxFuture<'static, Result<QueueSlot, Failure>>> = None;
        let mut lookup: Option<BoxFuture<'static, LookedUp>> = None;
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
                Some((unresolved, resolved)) = wait(&mut lookup) => self.take_resolved(unresolved, &resolved),
                reason = &mut stop, if end.is_none() => end = Some(Err(reason.into())),
                request = read(&mut requests, &untaken, &budget), if may_read => {
                    end = self.take(request);
                    // What has arrived with it shares its transaction.
                    for _ in 1..READ_AHEAD_MAX {
                        match read(&mut requests, &untaken, &budget).now_or_never() {
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
            Err(unreadable) => return Some(Err(status::detailed(&unreadable, false))),
        };
        let Some(operation) = operation else {
            let violations = Violations::one("operation", "is required");
            self.end(String::new(), Err(violations.into()));
            return None;
        };
        let context = self.call.operation();
        let (operation_id, member) = member::parse(operation);
        match member {
            Ok(Member::Command(command)) => self.ready.push_back(Ready {
                operation_id,
                command: *command,
                context,
            }),
            Ok(Member::Unresolved(operation)) => self.unresolved.push(Waiting {
                operation_id,
                operation: *operation,
                context,
            }),
            Err(error) => self.end(operation_id, Err(error)),
        }
        None
    }

    /// Submits what is ready, while there are free slots; else waits for one.
    fn submit(&mut self) -> Option<BoxFuture<'static, Result<QueueSlot, Failure>>> {
        while let Some(first) = self.ready.front() {
            let Some(slot) = self.batcher.try_slot() else {
                let (batcher, deadline) = (self.batcher.clone(), first.context.deadline());
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
            context,
        } = first;
        match slot {
            Ok(slot) => {
                let deadline = context.deadline();
                self.pipeline.submit(slot, command, deadline, operation_id);
            }
            Err(failure) => self.end(operation_id, Err(RpcError::Failure(failure))),
        }
    }

    /// One look-up for all that is unresolved, by the earliest of their deadlines. What is read meanwhile waits for the next one.
    fn look_up(&mut self) -> Option<BoxFuture<'static, LookedUp>> {
        let unresolved = std::mem::take(&mut self.unresolved);
        let contexts = unresolved.iter().map(|waiting| &waiting.context);
        let context = contexts.min_by_key(|context| context.deadline())?.clone();
        let store = self.store.clone();
        let look_up = async move {
            let operations = unresolved.iter().map(|waiting| &waiting.operation);
            let resolved = member::resolve(&store, operations, &context).await;
            (unresolved, resolved)
        };
        Some(look_up.boxed())
    }

    fn take_resolved(&mut self, unresolved: Vec<Waiting>, resolved: &Result<Resolved, Failure>) {
        for waiting in unresolved {
            let Waiting {
                operation_id,
                operation,
                context,
            } = waiting;
            match operation.command(resolved) {
                Ok(command) => self.ready.push_back(Ready {
                    operation_id,
                    command,
                    context,
                }),
                Err(error) => self.end(operation_id, Err(error)),
            }
        }
    }

    fn end(&self, operation_id: String, outcome: Result<Receipt, RpcError>) {
        let result = member::result(operation_id, outcome);
        let charge = self.call.budget().charge(match &result.outcome {
            Some(Outcome::Error(error)) => error.encoded_len(),
            _ => POSTED_SIZE,
        });
        // A body that is gone takes this task with it.
        let _untaken = self.outputs.send(Output::Result(result, charge));
    }
}

/// What a future that is under way brings, once; `None` if there is none.
async fn wait<T>(future: &mut Option<BoxFuture<'static, T>>) -> Option<T> {
    let output = future.as_mut()?.await;
    *future = None;
    Some(output)
}
