//! The edge: what happens to every request before and after its RPC. It reads the caller's deadline, and sees to it that
//! every error carries details, also those that tonic makes by itself.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::{HeaderMap, Request, Response};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

use super::BalanceRpc;
use super::proto::balance_service_server::BalanceServiceServer;
use super::status::{self, RpcError};
use super::violations::Violations;
use crate::batcher::Failure;

/// How long after its deadline a request is given up whose message has not arrived.
const MESSAGE_GRACE: Duration = Duration::from_secs(1);

/// A stream with a longer deadline than this has none: timers do not reach that far.
const STREAM_TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// When the caller stops waiting, or this server does; the earlier of the two.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: Instant,
    /// The caller's own.
    asked: Option<Instant>,
}

impl Deadline {
    /// The deadline of a request that came in through [`serve`]; of any other, now.
    pub fn of<T>(request: &tonic::Request<T>) -> Instant {
        request
            .extensions()
            .get::<Deadline>()
            .map_or_else(Instant::now, |deadline| deadline.at)
    }

    /// The deadline of a stream: the caller's, if there is one. This server's limit is for each of its operations.
    pub fn of_stream<T>(request: &tonic::Request<T>) -> Option<Instant> {
        request.extensions().get::<Deadline>()?.asked
    }
}

/// What serves the requests.
#[derive(Debug, Clone)]
pub struct Services {
    /// BalanceService. Called without the detour through tonic's router.
    pub balances: BalanceServiceServer<BalanceRpc>,
    /// ExecuteBatch: another one, because tonic's limit of a message's size is one for all methods of a service.
    pub batches: BalanceServiceServer<BalanceRpc>,
    /// Everything else.
    pub routes: Routes,
}

impl Services {
    /// The clones are of what tower wants to own: a pointer, and some settings.
    async fn serve<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let path = request.uri().path();
        let served = if path == "/ballast.v1.BalanceService/ExecuteBatch" {
            self.batches.clone().call(request).await
        } else if path.starts_with("/ballast.v1.BalanceService/") {
            self.balances.clone().call(request).await
        } else {
            self.routes.clone().oneshot(request).await
        };
        match served {
            Ok(response) => response,
            Err(infallible) => match infallible {},
        }
    }
}

/// Serves one request. Never fails: a panic is logged and answered with INTERNAL.
pub async fn serve<B>(
    services: Arc<Services>,
    mut request: Request<B>,
    timeout_max: Duration,
) -> Response<Body>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let timeout = match timeout(request.headers()) {
        Ok(timeout) => timeout,
        Err(violations) => return Status::from(RpcError::from(violations)).into_http(),
    };
    let now = Instant::now();
    let deadline = now + timeout.map_or(timeout_max, |timeout| timeout.min(timeout_max));
    request.extensions_mut().insert(Deadline {
        at: deadline,
        asked: timeout
            .filter(|timeout| *timeout <= STREAM_TIMEOUT_MAX)
            .map(|timeout| now + timeout),
    });
    let encoding = request.headers().get("grpc-encoding");
    let is_compressed = encoding.is_some_and(|encoding| encoding != "identity");
    let served = AssertUnwindSafe(services.serve(request)).catch_unwind();
    // An RPC answers by its deadline itself, or begins to, if it is a stream. This is for a request whose message never
    // arrives in full.
    match tokio::time::timeout_at(deadline + MESSAGE_GRACE, served).await {
        Ok(Ok(response)) => with_details(response, is_compressed),
        // The panic hook has logged it.
        Ok(Err(_panic)) => status::internal().into_http(),
        Err(_elapsed) => {
            let never_started = Failure::Deadline {
                outcome_unknown: false,
            };
            Status::from(RpcError::Failure(never_started)).into_http()
        }
    }
}

/// The deadline header of gRPC: at most eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Violations> {
    let Some(header) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let parse = || {
        let text = header.to_str().ok()?;
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let count: u64 = if (1..=8).contains(&digits.len()) {
            digits.parse().ok()?
        } else {
            return None;
        };
        match unit {
            "H" => Some(Duration::from_secs(count * 3600)),
            "M" => Some(Duration::from_secs(count * 60)),
            "S" => Some(Duration::from_secs(count)),
            "m" => Some(Duration::from_millis(count)),
            "u" => Some(Duration::from_micros(count)),
            "n" => Some(Duration::from_nanos(count)),
            _ => None,
        }
    };
    let rule = "must be one to eight digits and a unit of H, M, S, m, u or n";
    parse()
        .map(Some)
        .ok_or_else(|| Violations::one("grpc-timeout", rule))
}

/// Gives details to an error that has none: one that tonic made before or instead of an RPC.
fn with_details(response: Response<Body>, is_compressed: bool) -> Response<Body> {
    let headers = response.headers();
    if !headers.contains_key("grpc-status") || headers.contains_key("grpc-status-details-bin") {
        return response;
    }
    match Status::from_header_map(headers) {
        Some(bare) if bare.code() != Code::Ok => detailed(&bare, is_compressed).into_http(),
        _ => response,
    }
}

/// The details of an error that tonic made.
pub(super) fn detailed(bare: &Status, is_compressed: bool) -> Status {
    let message = bare.message().to_owned();
    match bare.code() {
        // tonic's words for a message that is too large, or is no message of the method.
        Code::OutOfRange | Code::Internal => {
            let rule = format!("cannot be read: {message}");
            RpcError::from(Violations::one("request", rule)).into()
        }
        Code::Unimplemented if is_compressed => {
            let message =
                "compressed requests are not supported; send them with grpc-encoding identity"
                    .to_owned();
            status::status(
                Code::Unimplemented,
                message,
                status::info("COMPRESSION_NOT_SUPPORTED", []),
            )
        }
        Code::Unimplemented => {
            let message = "no such method; list them with server reflection".to_owned();
            status::status(
                Code::Unimplemented,
                message,
                status::info("METHOD_NOT_FOUND", []),
            )
        }
        Code::NotFound => status::status(
            Code::NotFound,
            message,
            status::info("SERVICE_NOT_FOUND", []),
        ),
        code => status::status(code, message, status::info("REJECTED", [])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let parse = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().expect("a header"));
            timeout(&headers).map_err(drop)
        };
        assert_eq!(parse("250m"), Ok(Some(Duration::from_millis(250))));
        assert_eq!(
            parse("99999999H"),
            Ok(Some(Duration::from_secs(99_999_999 * 3600)))
        );
        assert_eq!(timeout(&HeaderMap::new()).map_err(drop), Ok(None));
        for malformed in ["", "m", "1", "123456789S", "-1S", "1s", "1 S"] {
            assert_eq!(parse(malformed), Err(()), "{malformed:?}");
        }
    }
}
