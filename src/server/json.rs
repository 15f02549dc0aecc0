//! The listener of the JSON endpoint: HTTP/1.1, bounded connections, and an end in order.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// How long a drain waits for a request whose body does not arrive. The endpoint bounds that; cutting off what it decides would tell a
/// caller 07 about a payment that is approved.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of headers of one request.
const HEADER_SIZE_MAX: usize = 16 * 1024;
/// A pause after a failed accept, which mostly means that the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections of the JSON endpoint until the server drains.
pub(super) struct JsonAcceptor {
    pub(super) listener: TcpListener,
    pub(super) routes: Router,
    /// How long a connection may take for the headers of a request, and how long it may be idle.
    pub(super) header_timeout: Duration,
    pub(super) connection_count_max: usize,
    pub(super) connections: TaskTracker,
    pub(super) draining: CancellationToken,
}

impl JsonAcceptor {
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
                    "too many connections at the JSON endpoint; one is dropped"
                );
                continue;
            };
            let serving = serve(
                stream,
                self.routes.clone(),
                self.header_timeout,
                self.draining.clone(),
            );
            self.connections.spawn(async move {
                serving.await;
                drop(place);
            });
        }
    }
}

async fn serve(
    stream: TcpStream,
    routes: Router,
    header_timeout: Duration,
    draining: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was closed before it began");
        return;
    }
    let service =
        service_fn(|request: http::Request<hyper::body::Incoming>| routes.clone().oneshot(request));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEADER_SIZE_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(REQUEST_TIMEOUT, &mut connection).await {
                Ok(ended) => ended,
                Err(_elapsed) => return,
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
