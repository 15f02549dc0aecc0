//! Connections of the JSON endpoint: serving HTTP/1.1 on them, and ending them in order.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// How long a drain waits for a request whose body does not arrive. The endpoint bounds that; cutting off what it decides would tell a
/// caller 07 about a payment that is approved.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of headers of one request.
const HEADER_SIZE_MAX: usize = 16 * 1024;

/// What serves the connections of the JSON endpoint. Cheap to clone.
#[derive(Clone)]
pub(super) struct Http1Connections {
    pub(super) routes: Router,
    /// How long a connection may take for the headers of a request, and how long it may be idle.
    pub(super) header_timeout: Duration,
    pub(super) draining: CancellationToken,
}

impl Http1Connections {
    /// Serves a connection until it ends; while the server drains, only what it is at.
    pub(super) async fn serve<S>(self, stream: S) -> Result<(), hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
            self.routes.clone().oneshot(request)
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_buf_size(HEADER_SIZE_MAX);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = &mut connection => ended,
            () = self.draining.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let ended = tokio::time::timeout(REQUEST_TIMEOUT, &mut connection).await;
                ended.unwrap_or(Ok(()))
            }
        }
    }
}
