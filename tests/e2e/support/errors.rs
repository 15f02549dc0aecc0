//! Errors as a client reads them: code, reason, metadata, violations. Never the message.

use std::collections::HashMap;

use ballast::rpc::proto::{FieldViolation, OperationError};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

/// An error status, taken apart. Making one checks what holds for every error of Ballast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub code: Code,
    pub reason: String,
    pub metadata: HashMap<String, String>,
    /// Field of each BadRequest violation, in order.
    pub fields: Vec<String>,
    pub has_retry_info: bool,
    pub has_resource_info: bool,
    pub has_precondition_failure: bool,
}

impl Rejection {
    pub fn of<T: std::fmt::Debug>(result: Result<Response<T>, Status>) -> Self {
        Self::of_status(&result.expect_err("an error was expected"))
    }

    pub fn of_status(status: &Status) -> Self {
        let details = status.get_error_details_vec();
        let infos = details
            .iter()
            .filter(|detail| matches!(detail, tonic_types::ErrorDetail::ErrorInfo(_)));
        assert_eq!(infos.count(), 1, "exactly one ErrorInfo: {status:?}");
        let details = status.get_error_details();
        let info = details.error_info().expect("counted above");
        assert_eq!(info.domain, "ballast.v1");
        let leaked = [
            "SELECT",
            "INSERT",
            "UPDATE",
            "relation",
            "constraint",
            "pg_",
        ];
        assert!(
            !leaked.iter().any(|sql| status.message().contains(sql)),
            "no SQL leaks: {status:?}"
        );
        let delay = details.retry_info().map(|info| {
            let delay = info.retry_delay.expect("a RetryInfo says how long");
            delay.as_millis().to_string()
        });
        let pushback = status.metadata().get("grpc-retry-pushback-ms");
        let pushback = pushback.map(|delay| delay.to_str().expect("a number").to_owned());
        assert_eq!(pushback, delay, "both say the same: {status:?}");
        assert_ne!(delay.as_deref(), Some("0"));
        for (name, value) in &info.metadata {
            assert!(
                !value.is_empty(),
                "metadata {name} says something: {status:?}"
            );
        }
        let violations = details
            .bad_request()
            .map(|bad| bad.field_violations.as_slice())
            .unwrap_or_default();
        Self {
            code: status.code(),
            reason: info.reason.clone(),
            metadata: info.metadata.clone(),
            fields: violations
                .iter()
                .map(|violation| violation.field.clone())
                .collect(),
            has_retry_info: details.retry_info().is_some(),
            has_resource_info: details.resource_info().is_some(),
            has_precondition_failure: details.precondition_failure().is_some(),
        }
    }

    pub fn expect(self, code: Code, reason: &str) -> Self {
        assert_eq!(
            (self.code, self.reason.as_str()),
            (code, reason),
            "{self:?}"
        );
        self
    }

    /// The metadata, as pairs in the order of their names.
    pub fn facts(&self) -> Vec<(&str, &str)> {
        let mut facts: Vec<_> = self
            .metadata
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        facts.sort_unstable();
        facts
    }
}

/// Whether one operation's error is, word for word, what its own RPC answered with.
pub fn assert_same(error: &OperationError, status: &Status) {
    let details = status.get_error_details();
    let info = details.error_info().expect("an ErrorInfo");
    let violations = details
        .bad_request()
        .map(|bad| bad.field_violations.as_slice())
        .unwrap_or_default();
    let retry_delay = details.retry_info().and_then(|info| info.retry_delay);
    let expected = OperationError {
        code: status.code().into(),
        reason: info.reason.clone(),
        message: status.message().to_owned(),
        metadata: info.metadata.clone(),
        field_violations: violations
            .iter()
            .map(|violation| FieldViolation {
                field: violation.field.clone(),
                description: violation.description.clone(),
            })
            .collect(),
        retry_delay_ms: retry_delay.unwrap_or_default().as_millis() as i64,
    };
    assert_eq!(*error, expected);
}
