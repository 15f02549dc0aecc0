//! The JSON door: card payments over HTTP, for callers without gRPC.
//!
//! `POST /authorize` takes `{"account":"123","totalAmount":100.00,"mcc":"5811","merchant":"PADARIA"}`, with an optional
//! `"id"`, and always answers 200 with `{"code":"00"}`, `{"code":"51"}` or `{"code":"07"}`. The amount is in the
//! currency of the account. It is read digit by digit, never as a float.

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::card::authorizer::{Authorizer, Decision, Total};
use super::card::request::{Words, asked};
use super::violations::Violations;
use crate::domain::card::{Code, Decimal};

/// The largest body, in bytes. One that keeps all rules has less than 2 KiB.
const BODY_SIZE_MAX: usize = 16 * 1024;

/// The body of a request.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    /// The identity of the payment. Without one, each request is a payment of its own.
    #[serde(default)]
    id: Option<String>,
    account: String,
    /// A number, or a string that holds one, as written.
    total_amount: Box<RawValue>,
    #[serde(default)]
    mcc: String,
    #[serde(default)]
    merchant: String,
}

/// The routes of the door.
pub fn door(authorizer: Authorizer) -> Router {
    Router::new()
        .route("/authorize", post(authorize))
        .layer(DefaultBodyLimit::max(BODY_SIZE_MAX))
        .with_state(authorizer)
}

/// The answer of the door.
pub fn answer(code: Code) -> Response {
    let body = format!(r#"{{"code":"{}"}}"#, code.as_str());
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

async fn authorize(
    State(authorizer): State<Authorizer>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let answer_by = authorizer.answer_by();
    let decision = match body.map_err(invalid).and_then(|body| parse(&body)) {
        Ok(asked) => authorizer.authorize(asked, answer_by).await,
        Err(violations) => violations.into(),
    };
    if let Decision::Declined(error) = &decision {
        tracing::debug!(?error, "a payment of the JSON door is declined");
    }
    answer(decision.code())
}

fn invalid(error: impl ToString) -> Violations {
    Violations::one("body", error)
}

fn parse(body: &[u8]) -> Result<super::card::authorizer::Asked, Violations> {
    let body: Body = serde_json::from_slice(body).map_err(invalid)?;
    let mut violations = Violations::default();
    let raw = body.total_amount.get();
    let text = match raw.starts_with('"') {
        true => serde_json::from_str(raw).map_err(invalid)?,
        false => raw.to_owned(),
    };
    let total = violations.note("totalAmount", Decimal::parse(&text));
    let random;
    let id = match &body.id {
        Some(id) => id,
        None => {
            random = format!("card-{:032x}", rand::random::<u128>());
            &random
        }
    };
    let words = Words {
        operation_id: ("id", id),
        account_id: ("account", &body.account),
        mcc: &body.mcc,
        merchant: &body.merchant,
    };
    asked(violations, &words, total.map(Total::Decimal))
}
