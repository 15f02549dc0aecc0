//! The edge: what happens to every request before and after its RPC. It turns away what is not gRPC, reads the caller's
//! deadline, makes the context of the request, waits until the memory for answers allows it to begin, and makes sure that
//! every error carries details, also those that tonic makes by itself.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

use super::BalanceRpc;
use super::answer_budget::ConnectionBudget;
use super::context::Call;
use super::proto::balance_service_server::BalanceServiceServer;
use super::status::{self, RpcError};
use super::violations::Violations;
use crate::batcher::Failure;

/// How long after its deadline a request is given up whose message has not arrived.
const MESSAGE_GRACE: Duration = Duration::from_secs(1);

/// The most reflection streams at a time, of all connections: each has answers of some hundred kilobytes in memory.
const REFLECTION_COUNT_MAX: usize = 100;
/// What the paths of reflection begin with, in both versions.
const REFLECTION: &str = "/grpc.reflection.";

/// What serves the requests.
#[derive(Debug, Clone)]
pub struct Services {
    /// BalanceService. Called without the detour through tonic's router.
    pub balances: BalanceServiceServer<BalanceRpc>,
    /// ExecuteBatch: another one, because tonic's limit of a message's size is one for all methods of a service.
    pub batches: BalanceServiceServer<BalanceRpc>,
    /// Everything else.
    pub routes: Routes,
    /// Bounds the reflection streams.
    pub reflections: Reflections,
}

/// Permits for reflection streams.
#[derive(Debug, Clone)]
pub struct Reflections(Arc<Semaphore>);

impl Default for Reflections {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(REFLECTION_COUNT_MAX)))
    }
}

/// The body of a reflection stream, which keeps its permit until it ends.
struct Reflecting {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for Reflecting {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

impl Services {
    /// The clones are of what tower wants to own: a pointer, and some settings.
    async fn serve<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let path = request.uri().path();
        let reflecting = match path.starts_with(REFLECTION) {
            true => match self.reflections.0.clone().try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_full) => {
                    return Status::from(RpcError::Failure(Failure::Overloaded)).into_http();
                }
            },
            false => None,
        };
        let served = if path == "/ballast.v1.BalanceService/ExecuteBatch" {
            self.batches.clone().call(request).await
        } else if path.starts_with("/ballast.v1.BalanceService/") {
            self.balances.clone().call(request).await
        } else {
            self.routes.clone().oneshot(request).await
        };
        let response = match served {
            Ok(response) => response,
            Err(infallible) => match infallible {},
        };
        match reflecting {
            Some(permit) => response.map(|body| {
                Body::new(Reflecting {
                    body,
                    _permit: permit,
                })
            }),
            None => response,
        }
    }
}

/// Serves one request. Never fails: a panic is logged and answered with INTERNAL.
pub async fn serve<B>(
    services: Arc<Services>,
    mut request: Request<B>,
    timeout_max: Duration,
    budget: Arc<ConnectionBudget>,
) -> Response<Body>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    if let Some(turned_away) = not_grpc(&request) {
        return turned_away;
    }
    let timeout = match timeout(request.headers()) {
        Ok(timeout) => timeout,
        Err(violations) => return Status::from(RpcError::from(violations)).into_http(),
    };
    let call = Call::new(timeout, timeout_max, budget);
    // Before anything is done: what is not begun because of this has not happened.
    if let Err(error) = call.ready().await {
        return Status::from(error).into_http();
    }
    let deadline = call.context.deadline();
    request.extensions_mut().insert(call);
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

/// The answer to a request that is not gRPC, before any RPC sees it. Such requests come from browsers and from forms of
/// other sites, which can send neither this content type nor more than GET and POST on their own.
fn not_grpc<B>(request: &Request<B>) -> Option<Response<Body>> {
    let turned_away = |status: StatusCode| {
        let text = "this port speaks gRPC: POST with content-type application/grpc\n";
        let mut response = Response::new(Body::new(text.to_owned()));
        *response.status_mut() = status;
        let plain = HeaderValue::from_static("text/plain");
        response.headers_mut().insert(CONTENT_TYPE, plain);
        response
    };
    if request.method() != Method::POST {
        let mut response = turned_away(StatusCode::METHOD_NOT_ALLOWED);
        let post = HeaderValue::from_static("POST");
        response.headers_mut().insert(ALLOW, post);
        return Some(response);
    }
    let mut content_types = request.headers().get_all(CONTENT_TYPE).iter();
    let content_type = content_types.next().map(HeaderValue::as_bytes);
    let is_grpc = content_type.is_some_and(is_grpc) && content_types.next().is_none();
    (!is_grpc).then(|| turned_away(StatusCode::UNSUPPORTED_MEDIA_TYPE))
}

/// `application/grpc` or `application/grpc+proto`, with or without parameters. Messages in another format, and gRPC-Web, are
/// not spoken here.
fn is_grpc(content_type: &[u8]) -> bool {
    let end = content_type.iter().position(|byte| *byte == b';');
    let essence = content_type[..end.unwrap_or(content_type.len())].trim_ascii();
    essence.eq_ignore_ascii_case(b"application/grpc")
        || essence.eq_ignore_ascii_case(b"application/grpc+proto")
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
        Some(bare) if bare.code() != Code::Ok => status::detailed(&bare, is_compressed).into_http(),
        _ => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_protobuf_messages_of_grpc_are_spoken() {
        for spoken in [
            "application/grpc",
            "application/grpc+proto",
            "Application/gRPC",
            "application/grpc; charset=utf-8",
        ] {
            assert!(is_grpc(spoken.as_bytes()), "{spoken:?}");
        }
        for unknown in [
            "",
            "application/json",
            "text/plain",
            "application/grpc+json",
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpcx",
            "text/plain; application/grpc",
            "application/x-www-form-urlencoded",
        ] {
            assert!(!is_grpc(unknown.as_bytes()), "{unknown:?}");
        }
    }

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
