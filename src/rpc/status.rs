//! The one table from errors to gRPC statuses.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::ErrorDetails;

use super::card::payment_error::PaymentError;
use super::problem::{ERROR_DOMAIN, Problem, cut_message, info, status};
use super::short_errors;
use super::violations::Violations;
use crate::batcher::Failure;
use crate::domain::{AccountId, NotReversibleCause, OperationId, OwnerId, Refusal, SameBalance};
use crate::store::{Outcome, StoreError};

/// The most violations that a BadRequest lists, and that a message spells out.
const VIOLATIONS_MAX: usize = 30;
const VIOLATIONS_IN_MESSAGE_MAX: usize = 5;
/// What the listed violations may have together, as bytes of the details.
const VIOLATIONS_SIZE_MAX: usize = 2_300;
/// The longest name of a field and the longest rule that are shown, in bytes.
const FIELD_SIZE_MAX: usize = 200;
const RULE_SIZE_MAX: usize = 300;
/// When a caller may try again after contention: a little longer than an instance holds its locks.
const RETRY_CONTENTION: Duration = Duration::from_millis(50);
/// When a caller may try again after overload or an outage.
const RETRY_OUTAGE: Duration = Duration::from_millis(500);

/// Whatever an RPC answers instead of a response.
#[derive(Debug)]
pub enum RpcError {
    /// Fields that break their rule.
    Invalid(Violations),
    /// A transfer that pays a balance out of itself.
    SameBalance(SameBalance),
    /// A merge of an account into itself.
    SameAccount(AccountId),
    /// An account that an RPC needs does not exist.
    AccountNotFound(AccountId),
    /// The destination owner has no settlement account.
    SettlementAccountNotFound(OwnerId),
    /// The account that pays does not belong to the owner that the caller asserts. Not recorded.
    OwnerMismatch {
        /// The account.
        account_id: AccountId,
        /// Who does not own it. Who does is not said.
        owner_id: OwnerId,
    },
    /// The operation can never be reversed. Not recorded.
    NotReversible {
        /// The operation.
        original_id: OperationId,
        /// Why.
        cause: NotReversibleCause,
    },
    /// No operation of this id has ended.
    OperationNotFound(OperationId),
    /// The account exists with other content.
    AccountExists {
        /// The account.
        account_id: AccountId,
        /// What differs.
        fields: Vec<&'static str>,
    },
    /// The owner has another settlement account.
    SettlementAccountExists {
        /// The owner.
        owner_id: OwnerId,
        /// The owner's settlement account.
        account_id: AccountId,
    },
    /// A card payment that may have happened and is not approved, or cannot be settled.
    Payment(PaymentError),
    /// A business answer that says no.
    Refusal(Refusal),
    /// Something broke or took too long, in an operation.
    Failure(Failure),
    /// The same in an atomic batch.
    BatchFailure(Failure),
    /// Another member of an atomic batch was refused, so this one did not happen either. Not recorded.
    BatchRefused {
        /// The first member that was refused, from 0.
        member: usize,
    },
    /// The same in a write that has no operation_id. Whoever repeats it changes nothing that it did.
    UnnamedWriteFailure(Failure),
    /// The same in a request that only reads: whatever failed, nothing happened.
    ReadFailure(Failure),
    /// The client leaves so much unread that another answer does not fit.
    Unread,
    /// The client's deadline for a whole stream passed.
    StreamDeadline,
    /// The instance stops, and with it a stream.
    StreamShutdown,
}

impl From<Violations> for RpcError {
    fn from(violations: Violations) -> Self {
        Self::Invalid(violations)
    }
}

impl From<PaymentError> for RpcError {
    fn from(error: PaymentError) -> Self {
        Self::Payment(error)
    }
}

impl From<StoreError> for RpcError {
    fn from(error: StoreError) -> Self {
        Self::Failure(error.into())
    }
}

impl RpcError {
    /// The failure of a write that has no operation_id: it opens an account, or changes a rule.
    pub fn of_unnamed_write(error: StoreError) -> Self {
        Self::UnnamedWriteFailure(error.into())
    }

    /// The failure of a request that only reads.
    pub fn of_read(error: StoreError) -> Self {
        Self::ReadFailure(error.into())
    }
}

impl From<StoreError> for Failure {
    /// A failure of a read, or of a write on one connection. Logged here, where it is handled.
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Serialization
            | StoreError::LockTimeout
            | StoreError::TableLocked
            | StoreError::Duplicate { .. } => Failure::Contention { account_id: None },
            StoreError::StatementTimeout => Failure::Deadline {
                outcome_unknown: false,
            },
            StoreError::Deadline { outcome } => Failure::Deadline {
                outcome_unknown: *outcome != Outcome::None,
            },
            StoreError::Exhausted => Failure::Overloaded,
            StoreError::Unavailable { outcome, cause } => {
                tracing::warn!(cause, "the database is unavailable");
                Failure::DatabaseUnavailable {
                    outcome_unknown: *outcome != Outcome::None,
                }
            }
            StoreError::Rejected { .. } | StoreError::Corrupt(_) => {
                tracing::error!(%error, "a request cannot be served");
                Failure::Internal
            }
        }
    }
}

impl From<RpcError> for Status {
    fn from(error: RpcError) -> Self {
        Problem::from(error).into()
    }
}

impl From<RpcError> for Problem {
    fn from(error: RpcError) -> Self {
        described(error).fitted()
    }
}

/// The table itself.
fn described(error: RpcError) -> Problem {
    match error {
        RpcError::Invalid(violations) => invalid(violations),
        RpcError::SameBalance(same) => same_balance(&same),
        RpcError::SameAccount(account_id) => same_account(&account_id),
        RpcError::AccountNotFound(account_id) => refused(&Refusal::AccountNotFound { account_id }),
        RpcError::SettlementAccountNotFound(owner_id) => not_found(
            "ACCOUNT_NOT_FOUND",
            format!("owner {owner_id} has no settlement account"),
            "ballast.v1.Owner",
            ("owner_id", owner_id.as_str()),
        ),
        RpcError::OwnerMismatch {
            account_id,
            owner_id,
        } => {
            let message = format!("account {account_id} does not belong to owner {owner_id}");
            let facts = [
                ("account_id", account_id.as_str()),
                ("owner_id", owner_id.as_str()),
            ];
            Problem::new(
                Code::FailedPrecondition,
                message,
                info("OWNER_MISMATCH", facts),
            )
        }
        RpcError::NotReversible { original_id, cause } => {
            let message = match cause {
                NotReversibleCause::Refused => {
                    format!("operation {original_id} was refused, so there is nothing to reverse")
                }
                NotReversibleCause::CardPayment => format!(
                    "operation {original_id} is a card payment, which only Ballast itself gives back; send a credit"
                ),
                NotReversibleCause::Kind(kind) => {
                    format!("operation {original_id} is a {kind}, which cannot be reversed")
                }
            };
            let facts = [
                ("reversed_operation_id", original_id.as_str()),
                ("cause", cause.as_str()),
            ];
            Problem::new(
                Code::FailedPrecondition,
                message,
                info("NOT_REVERSIBLE", facts),
            )
        }
        RpcError::OperationNotFound(operation_id) => {
            refused(&Refusal::OriginalNotFound { operation_id })
        }
        RpcError::AccountExists { account_id, fields } => {
            let message = format!(
                "account {account_id} exists with a different {}",
                fields.join(", ")
            );
            let fields = fields.join(",");
            let facts = [("account_id", account_id.as_str()), ("fields", &fields)];
            Problem::new(Code::AlreadyExists, message, info("ACCOUNT_EXISTS", facts))
        }
        RpcError::SettlementAccountExists {
            owner_id,
            account_id,
        } => {
            let message = format!(
                "account {account_id} is already the settlement account of owner {owner_id}"
            );
            let facts = [
                ("owner_id", owner_id.as_str()),
                ("account_id", account_id.as_str()),
            ];
            Problem::new(
                Code::AlreadyExists,
                message,
                info("SETTLEMENT_ACCOUNT_EXISTS", facts),
            )
        }
        RpcError::Payment(error) => error.into(),
        RpcError::Refusal(refusal) => refused(&refusal),
        RpcError::Failure(failure) => failed(&failure, &OPERATION),
        RpcError::BatchFailure(failure) => failed(&failure, &BATCH),
        RpcError::BatchRefused { member } => {
            let message = format!(
                "member {member} of the atomic batch was refused, so nothing of it happened; its own error says why"
            );
            let member = member.to_string();
            Problem::new(
                Code::FailedPrecondition,
                message,
                info("BATCH_REFUSED", [("member", member.as_str())]),
            )
        }
        RpcError::UnnamedWriteFailure(failure) => failed(&failure, &REQUEST),
        RpcError::ReadFailure(failure) => failed(&failure, &READ),
        RpcError::Unread => {
            let message = "too many answers are not read, on this connection or on others; nothing happened, read the \
                               answers that have arrived and try again later";
            Problem::worth_retrying(
                Code::ResourceExhausted,
                message.to_owned(),
                info("OVERLOADED", []),
                RETRY_OUTAGE,
            )
        }
        RpcError::StreamDeadline => {
            let message =
                "the deadline of the stream passed; every operation that was read has its result";
            Problem::new(
                Code::DeadlineExceeded,
                message.to_owned(),
                info("DEADLINE", []),
            )
        }
        RpcError::StreamShutdown => {
            let message = "this instance is shutting down; every operation that was read has its result, open a new stream";
            Problem::worth_retrying(
                Code::Unavailable,
                message.to_owned(),
                info("SHUTTING_DOWN", []),
                RETRY_OUTAGE,
            )
        }
    }
}

fn refused(refusal: &Refusal) -> Problem {
    // Of one leg among several, what is wrong with it says which code and which resource.
    let about = match refusal {
        Refusal::InLeg { cause, .. } => cause,
        refusal => refusal,
    };
    let (reason, message) = (refusal.reason(), refusal.to_string());
    let mut details = ErrorDetails::with_error_info(
        reason,
        ERROR_DOMAIN,
        refusal.facts().into_iter().collect::<HashMap<_, _>>(),
    );
    let mut precondition = |subject: String| {
        details.add_precondition_failure_violation(reason, subject, message.clone());
        Code::FailedPrecondition
    };
    let code = match about {
        Refusal::OperationIdReused { .. } | Refusal::InLeg { .. } => Code::AlreadyExists,
        Refusal::AccountNotFound { account_id } => {
            details.set_resource_info(
                "ballast.v1.Account",
                account_id.as_str(),
                "",
                message.clone(),
            );
            Code::NotFound
        }
        Refusal::OriginalNotFound { operation_id } => {
            details.set_resource_info(
                "ballast.v1.Operation",
                operation_id.as_str(),
                "",
                message.clone(),
            );
            Code::NotFound
        }
        Refusal::AlreadyReversed { original_id }
        | Refusal::ReversalExceedsOriginal { original_id, .. } => {
            precondition(format!("operations/{original_id}"))
        }
        Refusal::CurrencyMismatch { .. } | Refusal::SettlementAccount { .. } => {
            Code::FailedPrecondition
        }
        Refusal::AccountClosed { account_id }
        | Refusal::AccountMerged { account_id, .. }
        | Refusal::AccountFrozen { account_id, .. }
        | Refusal::InsufficientFunds { account_id, .. } => {
            precondition(format!("accounts/{account_id}"))
        }
        Refusal::HoldsOpen { balance, .. }
        | Refusal::BalanceNegative { balance, .. }
        | Refusal::AccountNotEmpty { balance, .. }
        | Refusal::OverdraftInUse { balance, .. }
        | Refusal::BalanceAboveLimit { balance, .. }
        | Refusal::VersionMismatch { balance, .. }
        | Refusal::MinAvailableNotMet { balance, .. }
        | Refusal::BalanceLimitExceeded { balance, .. }
        | Refusal::CategoryLimitExceeded { balance, .. } => precondition(format!(
            "accounts/{}/balances/{}",
            balance.account_id, balance.category
        )),
    };
    Problem::new(code, message, details)
}

/// What failed, as its caller knows it.
struct Failed {
    name: &'static str,
    /// How its caller learns what happened.
    resolve: &'static str,
    /// Whether a bug leaves open what happened.
    is_open_after_a_bug: bool,
}

const OPERATION: Failed = Failed {
    name: "operation",
    resolve: "send the operation again with the same operation_id",
    is_open_after_a_bug: true,
};
const BATCH: Failed = Failed {
    name: "batch",
    resolve: "send the batch again with the same operation_ids",
    is_open_after_a_bug: true,
};
const REQUEST: Failed = Failed {
    name: "request",
    resolve: "send the same request again, which is safe",
    is_open_after_a_bug: true,
};
const READ: Failed = Failed {
    name: "request",
    resolve: "send the same request again",
    is_open_after_a_bug: false,
};

fn failed(failure: &Failure, what: &Failed) -> Problem {
    match failure {
        Failure::Contention { account_id } => {
            let account_id = account_id.as_ref().map(AccountId::as_str);
            let message = match account_id {
                Some(account_id) => format!(
                    "another session keeps account {account_id} locked; nothing happened, try again"
                ),
                None => format!(
                    "the {} kept conflicting with others; nothing happened, try again",
                    what.name
                ),
            };
            let details = info(
                "CONTENTION",
                account_id.map(|account_id| ("account_id", account_id)),
            );
            Problem::worth_retrying(Code::Aborted, message, details, RETRY_CONTENTION)
        }
        Failure::Overloaded => {
            let message =
                "too many requests are waiting; nothing happened, try again later".to_owned();
            Problem::worth_retrying(
                Code::ResourceExhausted,
                message,
                info("OVERLOADED", []),
                RETRY_OUTAGE,
            )
        }
        Failure::ShuttingDown => {
            let message =
                "this instance is shutting down; nothing happened, try again on another".to_owned();
            Problem::worth_retrying(
                Code::Unavailable,
                message,
                info("SHUTTING_DOWN", []),
                RETRY_OUTAGE,
            )
        }
        Failure::DatabaseUnavailable { outcome_unknown } => {
            let (outcome, text) = outcome(*outcome_unknown, what);
            let message = format!("the database is unavailable; {text}");
            Problem::worth_retrying(
                Code::Unavailable,
                message,
                info("DATABASE_UNAVAILABLE", [("outcome", outcome)]),
                RETRY_OUTAGE,
            )
        }
        Failure::Deadline { outcome_unknown } => {
            let (outcome, text) = outcome(*outcome_unknown, what);
            let message = format!("the deadline passed; {text}");
            Problem::new(
                Code::DeadlineExceeded,
                message,
                info("DEADLINE", [("outcome", outcome)]),
            )
        }
        Failure::Internal => bug(what),
    }
}

/// The status of a bug outside of operations, such as a panic: what was begun may have happened. The log has the details,
/// the caller has not.
pub fn internal() -> Status {
    bug(&REQUEST).fitted().into()
}

fn bug(what: &Failed) -> Problem {
    let (outcome, text) = outcome(what.is_open_after_a_bug, what);
    Problem::new(
        Code::Internal,
        format!("internal error (the log of the server has the details); {text}"),
        info("INTERNAL", [("outcome", outcome)]),
    )
}

fn outcome(unknown: bool, what: &Failed) -> (&'static str, String) {
    match unknown {
        false => ("none", "nothing happened".to_owned()),
        true => (
            "unknown",
            format!("the outcome is unknown: {}", what.resolve),
        ),
    }
}

fn invalid(violations: Violations) -> Problem {
    let violations = violations.into_list();
    let count = violations.len();
    let mut listed = Vec::new();
    let mut size = 0;
    for (field, rule) in violations.into_iter().take(VIOLATIONS_MAX) {
        let field = short_errors::cut(&field, FIELD_SIZE_MAX);
        let rule = short_errors::cut(&rule, RULE_SIZE_MAX);
        // The field is also in the metadata.
        size += 2 * field.len() + rule.len() + 16;
        if size > VIOLATIONS_SIZE_MAX {
            break;
        }
        listed.push((field, rule));
    }
    let left_out = count - listed.len();
    let shown = listed.iter().take(VIOLATIONS_IN_MESSAGE_MAX);
    let shown: Vec<_> = shown
        .map(|(field, rule)| format!("{field} {rule}"))
        .collect();
    let mut message = cut_message(&shown.join("; "));
    if count > shown.len() {
        message.push_str(&format!("; and {} more", count - shown.len()));
    }
    if left_out > 0 {
        listed.push(("...".to_owned(), format!("{left_out} more violations")));
    }
    let fields: Vec<&str> = listed.iter().map(|(field, _)| field.as_str()).collect();
    let mut details = info("INVALID_ARGUMENT", [("fields", fields.join(",").as_str())]);
    for (field, rule) in &listed {
        details.add_bad_request_violation(field, rule);
    }
    Problem::new(Code::InvalidArgument, message, details)
}

fn same_balance(same: &SameBalance) -> Problem {
    let SameBalance(key) = same;
    let facts = [
        ("account_id", key.account_id.as_str()),
        ("category", key.category.as_str()),
    ];
    let mut details = info("SAME_BALANCE", facts);
    details.add_bad_request_violation("destination", same.to_string());
    Problem::new(Code::InvalidArgument, same.to_string(), details)
}

fn same_account(account_id: &AccountId) -> Problem {
    let rule = format!("is the source, {account_id}, too; name another account");
    let message = format!("destination_account_id {rule}");
    let mut details = info("SAME_BALANCE", [("account_id", account_id.as_str())]);
    details.add_bad_request_violation("destination_account_id", rule);
    Problem::new(Code::InvalidArgument, message, details)
}

fn not_found(
    reason: &str,
    message: String,
    resource_type: &str,
    (fact, name): (&str, &str),
) -> Problem {
    let mut details = info(reason, [(fact, name)]);
    details.set_resource_info(resource_type, name, "", message.clone());
    Problem::new(Code::NotFound, message, details)
}

/// The details of an error that tonic made.
pub fn detailed(bare: &Status, is_compressed: bool) -> Status {
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
            status(
                Code::Unimplemented,
                message,
                info("COMPRESSION_NOT_SUPPORTED", []),
            )
        }
        Code::Unimplemented => {
            let message = "no such method; list them with server reflection".to_owned();
            status(Code::Unimplemented, message, info("METHOD_NOT_FOUND", []))
        }
        Code::NotFound => status(Code::NotFound, message, info("SERVICE_NOT_FOUND", [])),
        code => status(code, message, info("REJECTED", [])),
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt;

    use super::*;

    /// The rows that need a broken database, a full queue or a stop; the others are tested through gRPC.
    #[test]
    fn each_failure_has_its_code_its_reason_and_its_outcome() {
        let account_id = Some(AccountId::from_stored("a"));
        let unavailable = |outcome_unknown| Failure::DatabaseUnavailable { outcome_unknown };
        let deadline = |outcome_unknown| Failure::Deadline { outcome_unknown };
        let rows = [
            (
                Failure::Contention { account_id },
                Code::Aborted,
                "CONTENTION",
                Some(("account_id", "a")),
                true,
            ),
            (
                Failure::Contention { account_id: None },
                Code::Aborted,
                "CONTENTION",
                None,
                true,
            ),
            (
                Failure::Overloaded,
                Code::ResourceExhausted,
                "OVERLOADED",
                None,
                true,
            ),
            (
                Failure::ShuttingDown,
                Code::Unavailable,
                "SHUTTING_DOWN",
                None,
                true,
            ),
            (
                unavailable(false),
                Code::Unavailable,
                "DATABASE_UNAVAILABLE",
                Some(("outcome", "none")),
                true,
            ),
            (
                unavailable(true),
                Code::Unavailable,
                "DATABASE_UNAVAILABLE",
                Some(("outcome", "unknown")),
                true,
            ),
            (
                deadline(false),
                Code::DeadlineExceeded,
                "DEADLINE",
                Some(("outcome", "none")),
                false,
            ),
            (
                deadline(true),
                Code::DeadlineExceeded,
                "DEADLINE",
                Some(("outcome", "unknown")),
                false,
            ),
            (
                Failure::Internal,
                Code::Internal,
                "INTERNAL",
                Some(("outcome", "unknown")),
                false,
            ),
        ];
        for (failure, code, reason, fact, is_worth_retrying) in rows {
            let shown = format!("{failure:?}");
            let status = Status::from(RpcError::Failure(failure));
            let details = status.get_error_details();
            let info = details.error_info().expect("every status has an ErrorInfo");
            let facts: Vec<_> = info
                .metadata
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            assert_eq!(
                (status.code(), info.reason.as_str(), info.domain.as_str()),
                (code, reason, "ballast.v1"),
                "{shown}"
            );
            assert_eq!(facts, Vec::from_iter(fact), "{shown}");
            assert_eq!(details.retry_info().is_some(), is_worth_retrying, "{shown}");
        }
    }

    #[test]
    fn a_bug_leaves_the_outcome_of_all_but_reads_open() {
        for (error, outcome) in [
            (RpcError::Failure(Failure::Internal), "unknown"),
            (RpcError::UnnamedWriteFailure(Failure::Internal), "unknown"),
            (RpcError::ReadFailure(Failure::Internal), "none"),
        ] {
            let shown = format!("{error:?}");
            let status = Status::from(error);
            let info = status.get_details_error_info().expect("an ErrorInfo");
            assert_eq!(info.metadata["outcome"], outcome, "{shown}");
        }
        let of_a_panic = internal().get_details_error_info();
        let of_a_panic = of_a_panic.expect("an ErrorInfo");
        assert_eq!(of_a_panic.metadata["outcome"], "unknown");
    }

    /// What a status takes in trailers.
    fn trailers_size(status: &Status) -> usize {
        let mut trailers = http::HeaderMap::new();
        status.add_header(&mut trailers).expect("valid headers");
        let sizes = trailers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 32);
        sizes.sum()
    }

    #[test]
    fn a_status_fits_into_trailers_whatever_it_says() {
        for text in ["\u{1F4B6}", "x", "%", "\0", "\u{e9} "] {
            let long = text.repeat(20_000);
            let mut violations = Violations::default();
            for _ in 0..100 {
                violations.add(long.as_str(), &long);
            }
            let mut details = info("REASON", [("fact", long.as_str())]);
            details.set_resource_info("type", "name", "", &long);
            details.add_precondition_failure_violation("type", "subject", &long);
            details.set_retry_info(Some(RETRY_OUTAGE));
            let statuses = [
                RpcError::from(violations).into(),
                RpcError::from(Violations::one(&long, &long)).into(),
                status(Code::Unknown, long.clone(), details),
            ];
            for status in statuses {
                let size = trailers_size(&status);
                assert!(size < 7 * 1024, "{size} bytes of {text:?}");
                assert!(status.message().contains(text), "{text:?} is not all gone");
            }
        }
    }
}
