//! The JSON endpoint: card payments over HTTP, for callers without gRPC.
//!
//! `POST /authorize` takes `{"account":"123","totalAmount":100.00,"mcc":"5811","merchant":"PADARIA"}`, with an optional
//! `"id"`, as `application/json`, and answers 200 with `{"code":"00"}`, `{"code":"51"}`, or `{"code":"07"}` and the reason. The
//! amount is in the currency of the account. It is read digit by digit, never as a float.
//!
//! What is not sent as JSON moves no money: 415. `GET /healthz` says whether this instance can serve card payments.

mod body;

use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{DefaultBodyLimit, FromRequest, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, Request, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tokio::sync::watch;

use super::card::authorizer::{Authorizer, Decision};
use super::card::decision_reply;
use super::context::Context;
use super::violations::Violations;
use crate::domain::card::Code;

use body::invalid;

/// The largest body, in bytes. One that keeps all rules has less than 2 KiB.
const BODY_SIZE_MAX: usize = 16 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What is answered.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    code: &'static str,
    /// Of `07` only: the code says all about the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

/// The routes of the endpoint. `serving` is what gRPC says about the health of CardService.
pub fn routes(authorizer: Authorizer, serving: watch::Receiver<bool>) -> Router {
    Router::new()
        .route("/authorize", post(authorize))
        .layer(DefaultBodyLimit::max(BODY_SIZE_MAX))
        .with_state(authorizer)
        .route("/healthz", get(health).with_state(serving))
        .method_not_allowed_fallback(wrong_method)
        .fallback(no_such_path)
}

async fn authorize(State(authorizer): State<Authorizer>, request: Request<Body>) -> Response {
    if let Err(message) = check_json(request.headers()) {
        return rejected(StatusCode::UNSUPPORTED_MEDIA_TYPE, "NOT_JSON", message);
    }
    let body = match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await {
        Ok(body) => body,
        Err(_elapsed) => return decided(invalid("did not arrive within 10 seconds").into()),
    };
    let context = Context::new(authorizer.answer_by());
    let decision = match body.map_err(unreadable).and_then(|body| body::parse(&body)) {
        Ok(asked) => authorizer.authorize(asked, context).await,
        Err(violations) => violations.into(),
    };
    decided(decision)
}

/// Whether the headers say that the body is JSON, not compressed.
fn check_json(headers: &HeaderMap) -> Result<(), &'static str> {
    let types: Vec<_> = headers.get_all(CONTENT_TYPE).iter().collect();
    let is_json = match types[..] {
        [text] => text.to_str().is_ok_and(|text| {
            let name = text.split(';').next().unwrap_or_default();
            name.trim().eq_ignore_ascii_case("application/json")
        }),
        _ => false,
    };
    if !is_json {
        return Err(
            "the content type is not application/json; send content-type: application/json",
        );
    }
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    match encodings.all(|encoding| encoding == "identity") {
        true => Ok(()),
        false => Err("the body is compressed; send it without content-encoding"),
    }
}

async fn health(State(serving): State<watch::Receiver<bool>>) -> Response {
    let (status, text) = match *serving.borrow() {
        true => (StatusCode::OK, "SERVING\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "NOT_SERVING\n"),
    };
    (status, [(CONTENT_TYPE, "text/plain")], text).into_response()
}

async fn wrong_method(uri: Uri) -> Response {
    let message = match uri.path() {
        "/healthz" => "this path answers GET",
        _ => "this path takes POST, with a body of JSON",
    };
    rejected(
        StatusCode::METHOD_NOT_ALLOWED,
        "METHOD_NOT_ALLOWED",
        message,
    )
}

async fn no_such_path() -> Response {
    let message = "no such path; there are POST /authorize and GET /healthz";
    rejected(StatusCode::NOT_FOUND, "PATH_NOT_FOUND", message)
}

fn unreadable(error: BytesRejection) -> Violations {
    match error {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => {
            invalid(format!("has more than {BODY_SIZE_MAX} bytes"))
        }
        error => invalid(format!("did not arrive: {error}")),
    }
}

/// The answer to something that is not a payment; nothing moved.
fn rejected(status: StatusCode, reason: &str, message: &str) -> Response {
    let answer = Answer {
        code: Code::Declined.as_str(),
        reason: Some(reason),
        message: Some(message),
    };
    (status, answer).into_response()
}

fn decided(decision: Decision) -> Response {
    if let Decision::Declined(error) = &decision {
        tracing::debug!(?error, "a payment at the JSON endpoint is declined");
    }
    let is_declined = decision.code() == Code::Declined;
    let code = decision.code().as_str();
    let told = decision_reply(decision);
    Answer {
        code,
        reason: is_declined.then_some(told.reason.as_str()),
        message: is_declined.then_some(told.message.as_str()),
    }
    .into_response()
}

impl IntoResponse for Answer<'_> {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).expect("three texts are always JSON");
        ([(CONTENT_TYPE, "application/json")], body).into_response()
    }
}
