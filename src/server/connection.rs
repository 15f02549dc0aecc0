//! Connections: accepting them, serving HTTP/2 on them, and ending them in order.
//!
//! tonic's own transport is not used here for two reasons: it answers an expired `grpc-timeout` with CANCELLED, and its
//! shutdown waits for ever on a client that never sends a byte.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;

use super::activity::{Activity, InFlight};
use super::coalesced::Coalesced;
use crate::rpc::edge::{self, Services};

/// Requests in flight on one connection.
const STREAMS_PER_CONNECTION_MAX: u32 = 1000;
/// Streams that a client may open and reset without being taken for an attacker (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 100;
/// Bytes of headers of one request.
const HEADER_SIZE_MAX: u32 = 16 * 1024;
/// Bytes that a client may send ahead, per stream and per connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// When a silent peer is asked whether it is still there, and how long it may take to answer.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a new connection may say nothing at all.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(30);
/// While draining: how long a connection without a request in flight may take to say good-bye.
const IDLE_GRACE: Duration = Duration::from_millis(500);
/// While draining: how long the clients of a connection may leave all its answers lying before it is cut.
const UNREAD_GRACE: Duration = Duration::from_secs(2);
/// A pause after a failed accept, which mostly means that the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until the server drains.
pub(super) struct Acceptor {
    pub(super) listener: TcpListener,
    pub(super) services: Arc<Services>,
    pub(super) request_timeout_max: Duration,
    pub(super) connection_count_max: usize,
    pub(super) connections: TaskTracker,
    pub(super) draining: CancellationToken,
}

impl Acceptor {
    pub(super) async fn run(self) {
        let places = Arc::new(Semaphore::new(self.connection_count_max));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = self.draining.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; raise the limit of open files (ulimit -n)?");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                tracing::warn!(
                    connection_count_max = self.connection_count_max,
                    "too many connections; one is dropped"
                );
                continue;
            };
            let serving = serve(
                stream,
                self.services.clone(),
                self.request_timeout_max,
                self.draining.clone(),
            );
            self.connections.spawn(async move {
                serving.await;
                drop(place);
            });
        }
    }
}

/// Whether a request of this path has an answer that a drain waits for. A watch of the health has no end, and neither
/// has a client that keeps reflection open.
fn is_answered(path: &str) -> bool {
    path.starts_with("/ballast.")
}

async fn serve(
    stream: TcpStream,
    services: Arc<Services>,
    request_timeout_max: Duration,
    draining: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was gone before it began");
        return;
    }
    let first_byte = tokio::select! {
        first_byte = tokio::time::timeout(FIRST_BYTE_TIMEOUT, stream.readable()) => first_byte,
        () = draining.cancelled() => return,
    };
    if !matches!(first_byte, Ok(Ok(()))) {
        tracing::debug!("a connection never said a word");
        return;
    }
    let activity = Arc::new(Activity::default());
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let guard = is_answered(request.uri().path()).then(|| InFlight::new(&activity));
        // Boxed, because hyper moves the future of a request several times, and this one has kilobytes.
        let response = Box::pin(edge::serve(services.clone(), request, request_timeout_max));
        async move {
            let response = response.await;
            Ok::<_, std::convert::Infallible>(
                response.map(|body| Body::new(Counted { body, guard })),
            )
        }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_header_list_size(HEADER_SIZE_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    let coalesced = Coalesced::new(stream, activity.clone());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(coalesced), service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let mut unread_since = None;
            loop {
                let was_idle = activity.is_idle();
                let taken_before = activity.taken_count();
                match tokio::time::timeout(IDLE_GRACE, &mut connection).await {
                    Ok(ended) => break ended,
                    // Nothing to wait for: a client that never closes. A last answer had the whole grace to be sent.
                    Err(_elapsed) if was_idle && activity.is_idle() => return,
                    // Nothing to wait for either: a client that does not read. Its answers are recorded.
                    Err(_elapsed) if activity.is_unread() && activity.taken_count() == taken_before => {
                        let since = unread_since.get_or_insert_with(Instant::now);
                        if since.elapsed() >= UNREAD_GRACE {
                            tracing::debug!("a connection does not read its answers");
                            return;
                        }
                    }
                    Err(_elapsed) => unread_since = None,
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(
            error = crate::store::with_source(&error),
            "a connection broke"
        );
    }
}

/// A response body that counts as in flight until it is dropped.
struct Counted {
    body: Body,
    guard: Option<InFlight>,
}

impl http_body::Body for Counted {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        let polled = std::pin::Pin::new(&mut self.body).poll_frame(context);
        if let Some(guard) = &mut self.guard {
            // Asked, so all that it gave before is taken.
            guard.note_unread(false);
            guard.note_unread(polled.is_ready());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
