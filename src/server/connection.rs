//! Connections of gRPC: serving HTTP/2 on them, and ending them in order.
//!
//! tonic's own transport is not used here for two reasons: it answers an expired `grpc-timeout` with CANCELLED, and its
//! shutdown waits for ever on a client that never sends a byte.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use super::activity::{Activity, InFlight};
use super::coalesced::{Coalesced, READ_IN_TURN_MAX};
use super::limits::NetworkLimits;
use super::unread::Unread;
use crate::rpc::answer_budget::{ChargedBytes, Reservation};
use crate::rpc::edge::{self, Services};

/// Requests in flight on one connection.
const STREAMS_PER_CONNECTION_MAX: u32 = 1000;
/// Requests that were opened and cancelled before anyone looked at them (CVE-2023-44487). More than one turn of the
/// connection can hold, because beyond this HTTP/2 ends the connection, and with it the calls of everyone who shares it. What
/// holds a flood is the pace of the reads: see [`Coalesced`].
const PENDING_RESETS_MAX: usize = READ_IN_TURN_MAX / 20;
/// Requests that HTTP/2 itself refuses, in the whole life of a connection: too many at a time, or data after an answer that
/// came early. Each takes some hundred bytes until its client reads that.
const REFUSED_STREAMS_MAX: usize = 10_000;
/// Bytes of headers of one request.
const HEADER_SIZE_MAX: u32 = 16 * 1024;
/// Bytes that a client may send ahead, per stream and per connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// When a silent peer is asked whether it is still there, and how long it may take to answer.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// While draining: how long a connection without a request in flight may take to say good-bye.
const IDLE_GRACE: Duration = Duration::from_millis(500);
/// While draining: how long the clients of a connection may leave all its answers lying before it is cut.
const UNREAD_GRACE: Duration = Duration::from_secs(2);

/// What serves the connections of gRPC.
pub(super) struct GrpcConnections {
    pub(super) services: Arc<Services>,
    pub(super) request_timeout_max: Duration,
    pub(super) limits: NetworkLimits,
    pub(super) unread: Arc<Unread>,
    pub(super) draining: CancellationToken,
}

/// Whether a request of this path has an answer that a drain waits for. A watch of the health has no end, and neither
/// has a client that keeps reflection open.
fn is_answered(path: &str) -> bool {
    path.starts_with("/ballast.")
}

/// Serves a connection: as long as it has turns, until it ends by itself or is ended.
struct Turns<'a, C> {
    connection: Pin<&'a mut C>,
    activity: Arc<Activity>,
    /// Until when the greeting has to be there; `None` once it is.
    greeting_due: Option<Pin<Box<Sleep>>>,
}

impl<C: Future> Future for Turns<'_, C> {
    /// How the connection ended; `None` if it never began.
    type Output = Option<C::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.activity.begin_turn();
        if let Poll::Ready(ended) = self.connection.as_mut().poll(context) {
            return Poll::Ready(Some(ended));
        }
        if self.activity.is_greeted() {
            self.greeting_due = None;
        } else if let Some(due) = &mut self.greeting_due {
            ready!(due.as_mut().poll(context));
            tracing::debug!("a connection did not begin in time");
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

impl GrpcConnections {
    /// Serves a connection until it ends, or until it has nothing more to say while the server drains.
    pub(super) async fn serve<S>(self: Arc<Self>, stream: S) -> Result<(), hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let watched = self.unread.connection();
        let activity = Arc::new(Activity::default());
        let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
            let mut guard = InFlight::new(&activity, is_answered(request.uri().path()));
            let budget = watched.budget.clone();
            // Boxed, because hyper moves the future of a request several times, and this one has kilobytes.
            let response = Box::pin(edge::serve(
                self.services.clone(),
                request,
                self.request_timeout_max,
                budget.clone(),
            ));
            async move {
                let mut response = response.await;
                guard.note_answered();
                let reservation = Reservation::take_from(&mut response, &budget);
                Ok::<_, std::convert::Infallible>(response.map(|body| Answer {
                    body,
                    guard,
                    reservation,
                }))
            }
        });
        let abandoned_per_second_max = self.limits.abandoned_per_second_max;
        let coalesced = Coalesced::new(stream, activity.clone(), abandoned_per_second_max);
        let greeting_due = Box::pin(tokio::time::sleep(self.limits.greeting_timeout));
        let mut turns = Turns {
            connection: pin!(builder().serve_connection(TokioIo::new(coalesced), service)),
            activity: activity.clone(),
            greeting_due: Some(greeting_due),
        };
        let ended = tokio::select! {
            ended = &mut turns => ended,
            () = watched.cut.cancelled() => None,
            () = self.draining.cancelled() => {
                turns.connection.as_mut().graceful_shutdown();
                drained(&mut turns, &activity).await
            }
        };
        ended.unwrap_or(Ok(()))
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(REFUSED_STREAMS_MAX)
        .max_header_list_size(HEADER_SIZE_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}

/// Goes on with a connection until its answers are read. `None`: there is nothing more to wait for, and it has not ended.
async fn drained<C: Future>(turns: &mut Turns<'_, C>, activity: &Activity) -> Option<C::Output> {
    let mut unread_since = None;
    loop {
        let was_idle = activity.is_idle();
        let taken_before = activity.taken_count();
        match tokio::time::timeout(IDLE_GRACE, &mut *turns).await {
            Ok(ended) => return ended,
            // Nothing to wait for: a client that never closes. A last answer had the whole grace to be sent.
            Err(_elapsed) if was_idle && activity.is_idle() => return None,
            // Nothing to wait for either: a client that does not read. Its answers are recorded.
            Err(_elapsed) if activity.is_unread() && activity.taken_count() == taken_before => {
                let since = unread_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= UNREAD_GRACE {
                    tracing::debug!("a connection does not read its answers");
                    return None;
                }
            }
            Err(_elapsed) => unread_since = None,
        }
    }
}

/// The body of a response, which counts as in flight until it is dropped. Its bytes are counted until they are written.
struct Answer {
    body: Body,
    guard: InFlight,
    reservation: Reservation,
}

impl http_body::Body for Answer {
    type Data = ChargedBytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        // Asked, so all that it gave before is taken.
        self.guard.note_unread(false);
        self.guard.note_unread(polled.is_ready());
        polled.map_ok(|frame| frame.map_data(|bytes| self.reservation.charge(bytes)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
