//! The context of a request: what everything that is done for it has to know. It is made once, where the request comes in,
//! and handed on: to look-ups in the store, to the batcher, and to whatever checks the request.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Request, Status};

use super::answer_budget::{ConnectionBudget, Reservation};
use super::status::{self, RpcError};

/// A stream with a longer deadline than this has none: timers do not reach that far.
const STREAM_TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// What everything that is done for one request has to know.
#[derive(Debug, Clone)]
pub struct Context {
    deadline: Instant,
}

impl Context {
    /// Of a request that has to be answered by `deadline`.
    pub fn new(deadline: Instant) -> Self {
        Self { deadline }
    }

    /// When the answer is due: when the caller stops waiting, or this server does, whichever is earlier.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The same, with an earlier deadline if `end` is earlier.
    pub fn until(&self, end: Instant) -> Self {
        Self {
            deadline: self.deadline.min(end),
        }
    }
}

/// A call of gRPC: its context, and what its answer may take. One that is a stream lasts for many operations, which have
/// contexts of their own.
#[derive(Debug, Clone)]
pub struct Call {
    /// The context of a call with one answer.
    pub context: Context,
    /// The longest that one operation may take.
    timeout_max: Duration,
    /// The caller's own deadline.
    stream_deadline: Option<Instant>,
    budget: Arc<ConnectionBudget>,
}

impl Call {
    /// A call that arrives now, whose caller waits for at most `timeout`, and this server for at most `timeout_max`. Its answer
    /// is charged to `budget`.
    pub fn new(
        timeout: Option<Duration>,
        timeout_max: Duration,
        budget: Arc<ConnectionBudget>,
    ) -> Self {
        let now = Instant::now();
        let shorter = timeout.map_or(timeout_max, |timeout| timeout.min(timeout_max));
        let of_stream = timeout.filter(|timeout| *timeout <= STREAM_TIMEOUT_MAX);
        Self {
            context: Context::new(now + shorter),
            timeout_max,
            stream_deadline: of_stream.map(|timeout| now + timeout),
            budget,
        }
    }

    /// The call that a request belongs to, and its message. Each request has one: it comes in through [`super::edge::serve`].
    pub fn split<T>(request: Request<T>) -> Result<(Self, T), Status> {
        let (_metadata, mut extensions, message) = request.into_parts();
        match extensions.remove::<Self>() {
            Some(call) => Ok((call, message)),
            None => {
                tracing::error!("a request has no context");
                Err(status::internal())
            }
        }
    }

    /// Waits until a call with a small answer may begin, at most until its deadline.
    pub async fn ready(&self) -> Result<(), RpcError> {
        self.budget.ready_by(self.context.deadline()).await
    }

    /// Reserves memory for an answer of up to so many bytes; waits for it, at most until the deadline.
    ///
    /// Cancel safe: a caller that leaves reserves nothing.
    pub async fn reserve(&self, bytes: usize) -> Result<Reservation, RpcError> {
        self.budget.reserve(bytes, self.context.deadline()).await
    }

    /// What the answers of its connection may take.
    pub fn budget(&self) -> &Arc<ConnectionBudget> {
        &self.budget
    }

    /// The deadline of a stream: the caller's, if there is one. This server's limit is for each of its operations.
    pub fn stream_deadline(&self) -> Option<Instant> {
        self.stream_deadline
    }

    /// The context of an operation of a stream that arrives now.
    pub fn operation(&self) -> Context {
        let own = Instant::now() + self.timeout_max;
        Context::new(self.stream_deadline.map_or(own, |end| own.min(end)))
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::rpc::answer_budget::{BudgetLimits, ProcessBudget};

    const TIMEOUT_MAX: Duration = Duration::from_secs(10);

    fn call(timeout: Option<Duration>) -> Call {
        let process = ProcessBudget::new(BudgetLimits::default(), CancellationToken::new());
        Call::new(timeout, TIMEOUT_MAX, ConnectionBudget::new(process))
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_deadline_counts() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let rows = [
            (None, TIMEOUT_MAX, None),
            (Some(second), second, Some(second)),
            (Some(20 * second), TIMEOUT_MAX, Some(20 * second)),
            (Some(Duration::MAX), TIMEOUT_MAX, None),
        ];
        for (timeout, deadline, stream_deadline) in rows {
            let call = call(timeout);
            assert_eq!(call.context.deadline(), now + deadline, "{timeout:?}");
            let of_stream = stream_deadline.map(|deadline| now + deadline);
            assert_eq!(call.stream_deadline(), of_stream, "{timeout:?}");
        }
        let context = call(None).context;
        assert_eq!(context.until(now + second).deadline(), now + second);
        assert_eq!(
            context.until(now + 20 * second).deadline(),
            now + TIMEOUT_MAX
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_of_a_stream_has_its_own_time_within_that_of_the_stream() {
        let call = call(Some(Duration::from_secs(15)));
        let begun = Instant::now();
        assert_eq!(call.operation().deadline(), begun + TIMEOUT_MAX);
        tokio::time::advance(Duration::from_secs(9)).await;
        let end = begun + Duration::from_secs(15);
        assert_eq!(call.operation().deadline(), end);
    }

    #[tokio::test]
    async fn a_request_without_a_call_is_a_bug() {
        let mut request = Request::new("message");
        request.extensions_mut().insert(call(None));
        let (_call, message) = Call::split(request).expect("a call");
        assert_eq!(message, "message");
        let status = Call::split(Request::new(())).expect_err("no call");
        assert_eq!(status.code(), tonic::Code::Internal);
    }
}
