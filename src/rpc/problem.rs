//! A problem: an error as every caller reads it, made to fit into what clients accept. Each carries exactly one ErrorInfo whose
//! metadata has every variable of the message.

use std::collections::HashMap;
use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::short_errors;

/// The domain of every ErrorInfo.
pub const ERROR_DOMAIN: &str = "ballast.v1";

/// The largest error, in bytes of its trailers: 7 KiB, less what every answer has in headers.
const SIZE_MAX: usize = 7 * 1024 - 512;
/// The longest message, as it is written in the trailers. The details repeat it.
const MESSAGE_SIZE_MAX: usize = 1_200;
/// What is left of texts if an error does not fit, in bytes.
const DESCRIPTION_SIZE_MAX: usize = 200;
const FACT_SIZE_MAX: usize = 600;
/// What one kind of details takes for its name and for its wrapping, in bytes, at most.
const TYPE_SIZE: usize = 80;
/// The trailer that tells clients of gRPC's own libraries when to try again; they do not read RetryInfo.
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// An error as every caller reads it, whether as the status of a call or as the result of one operation of several.
#[derive(Debug)]
pub struct Problem {
    /// The status code.
    pub code: Code,
    /// A sentence for people.
    pub message: String,
    /// The details; always with an ErrorInfo.
    pub details: ErrorDetails,
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let retry_delay = problem.details.retry_info();
        let retry_delay = retry_delay.and_then(|info| info.retry_delay);
        let mut status = Self::with_error_details(problem.code, problem.message, problem.details);
        if let Some(delay) = retry_delay {
            let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).max(1);
            status
                .metadata_mut()
                .insert(RETRY_PUSHBACK, MetadataValue::from(delay_ms));
        }
        status
    }
}

impl Problem {
    /// One that says all in its code, message and details.
    pub fn new(code: Code, message: String, details: ErrorDetails) -> Self {
        Self {
            code,
            message,
            details,
        }
    }

    /// The same, of something that may succeed if it is sent again after `delay`.
    pub fn worth_retrying(
        code: Code,
        message: String,
        mut details: ErrorDetails,
        delay: Duration,
    ) -> Self {
        details.set_retry_info(Some(delay));
        Self::new(code, message, details)
    }

    /// This problem, with shorter texts if it does not fit into trailers. gRPC's C library drops trailers of more than 8 KiB
    /// at random, and of more than 16 KiB always; the error is RESOURCE_EXHAUSTED then, and clients send the request again.
    pub fn fitted(self) -> Self {
        if self.size() <= SIZE_MAX {
            return self;
        }
        let mut details = ErrorDetails::new();
        if let Some(info) = self.details.error_info() {
            let facts = info.metadata.iter();
            let facts =
                facts.map(|(name, value)| (name.clone(), short_errors::cut(value, FACT_SIZE_MAX)));
            let facts = facts.collect::<HashMap<_, _>>();
            details.set_error_info(&info.reason, &info.domain, facts);
        }
        if let Some(retry) = self.details.retry_info() {
            details.set_retry_info(retry.retry_delay);
        }
        let invalid = self.details.bad_request().into_iter();
        for violation in invalid.flat_map(|invalid| &invalid.field_violations) {
            details.add_bad_request_violation(&violation.field, &violation.description);
        }
        let failed = self.details.precondition_failure().into_iter();
        for violation in failed.flat_map(|failed| &failed.violations) {
            details.add_precondition_failure_violation(
                &violation.r#type,
                &violation.subject,
                short_errors::cut(&violation.description, DESCRIPTION_SIZE_MAX),
            );
        }
        if let Some(resource) = self.details.resource_info() {
            details.set_resource_info(
                &resource.resource_type,
                &resource.resource_name,
                &resource.owner,
                short_errors::cut(&resource.description, DESCRIPTION_SIZE_MAX),
            );
        }
        Self {
            code: self.code,
            message: cut_message(&self.message),
            details,
        }
    }

    /// What it takes in trailers at most, without writing them.
    fn size(&self) -> usize {
        let Self {
            message, details, ..
        } = self;
        let texts = |texts: &[&str]| -> usize { texts.iter().map(|text| text.len() + 4).sum() };
        let mut size = texts(&[message]);
        if let Some(info) = details.error_info() {
            let facts = info.metadata.iter();
            let facts = facts.map(|(name, value)| texts(&[name, value]) + 4);
            size += TYPE_SIZE + texts(&[&info.reason, &info.domain]) + facts.sum::<usize>();
        }
        if let Some(invalid) = details.bad_request() {
            let violations = invalid.field_violations.iter();
            let violations = violations.map(|one| texts(&[&one.field, &one.description]) + 4);
            size += TYPE_SIZE + violations.sum::<usize>();
        }
        if let Some(failed) = details.precondition_failure() {
            let violations = failed.violations.iter();
            let violations =
                violations.map(|one| texts(&[&one.r#type, &one.subject, &one.description]) + 4);
            size += TYPE_SIZE + violations.sum::<usize>();
        }
        if let Some(resource) = details.resource_info() {
            size += TYPE_SIZE
                + texts(&[
                    &resource.resource_type,
                    &resource.resource_name,
                    &resource.owner,
                    &resource.description,
                ]);
        }
        if details.retry_info().is_some() {
            size += TYPE_SIZE + RETRY_PUSHBACK.len();
        }
        header_size(message) + base64_size(size)
    }
}

/// What a text takes in `grpc-message`, where most that is not plain ASCII is written with three characters for each byte.
fn header_size(text: &str) -> usize {
    let size = |byte: u8| match byte {
        b' ' | b'"' | b'#' | b'%' | b'<' | b'>' | b'`' | b'?' | b'{' | b'}' => 3,
        b'!'..=b'~' => 1,
        _ => 3,
    };
    text.bytes().map(size).sum()
}

fn base64_size(size: usize) -> usize {
    size.div_ceil(3) * 4
}

/// A message that fits, as it is written in the trailers; one that is cut ends with three dots.
pub fn cut_message(text: &str) -> String {
    if header_size(text) <= MESSAGE_SIZE_MAX {
        return text.to_owned();
    }
    let mut size = "...".len();
    let mut end = 0;
    for (at, character) in text.char_indices() {
        let after = at + character.len_utf8();
        size += header_size(&text[at..after]);
        if size > MESSAGE_SIZE_MAX {
            break;
        }
        end = after;
    }
    format!("{}...", &text[..end])
}

/// The details of a status of this reason.
pub fn info<'a>(reason: &str, facts: impl IntoIterator<Item = (&'a str, &'a str)>) -> ErrorDetails {
    let facts = facts
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    ErrorDetails::with_error_info(reason, ERROR_DOMAIN, facts.collect::<HashMap<_, _>>())
}

/// A status with details.
pub fn status(code: Code, message: String, details: ErrorDetails) -> Status {
    Problem::new(code, message, details).fitted().into()
}
