//! What became of a payment whose caller was answered 07, and why one cannot be settled: each says what is done, and never
//! what only will be.

use tonic::Code;

use super::super::problem::{self, Problem};
use crate::domain::OperationId;
use crate::store::Standing;

/// Why a payment is not approved although it may have happened, or not settled.
#[derive(Debug)]
pub enum PaymentError {
    /// It was not known in time; it is reversed if it happens, and that is durable.
    Late(OperationId),
    /// It was not known in time whether it happens, or stands.
    Unknown(OperationId),
    /// It happened after its 07, and is not reversed yet.
    ReversalPending(OperationId),
    /// It happened after its 07, and is reversed.
    Reversed {
        /// The payment.
        operation_id: OperationId,
        /// The credit.
        reversal_id: OperationId,
    },
    /// It happened after its 07, and its reversal is refused.
    ReversalRefused {
        /// The payment.
        operation_id: OperationId,
        /// Why.
        reason: String,
    },
    /// It happened after its 07, and a person settled it.
    Settled {
        /// The payment.
        operation_id: OperationId,
        /// The settlement.
        settlement_id: OperationId,
    },
    /// It cannot be settled before it is known how another settlement ended.
    SettlementStarted {
        /// The payment.
        operation_id: OperationId,
        /// The settlement that has begun.
        settlement_id: OperationId,
    },
    /// There is nothing for a person to settle.
    NothingToSettle {
        /// The payment, or what was taken for one.
        operation_id: OperationId,
        /// What it is, in UPPER_SNAKE and in words.
        state: (&'static str, &'static str),
    },
}

impl PaymentError {
    /// Why a payment that was answered 07 is not approved now; `None`: it is.
    pub(super) fn of(
        operation_id: OperationId,
        standing: Standing,
        usual_id: impl FnOnce() -> OperationId,
    ) -> Option<Self> {
        Some(match standing {
            Standing::Kept => return None,
            Standing::Pending => Self::ReversalPending(operation_id),
            Standing::Reversed { reversal_id } => Self::Reversed {
                operation_id,
                reversal_id: reversal_id.unwrap_or_else(usual_id),
            },
            Standing::Refused { reason, .. } => Self::ReversalRefused {
                operation_id,
                reason,
            },
            Standing::Settled { settlement_id } => Self::Settled {
                operation_id,
                settlement_id,
            },
        })
    }
}

impl From<PaymentError> for Problem {
    fn from(error: PaymentError) -> Self {
        match error {
            PaymentError::Late(id) => late(
                format!(
                    "payment {id} was not decided in time; if it still happens, it is reversed, and if that is refused, \
                     ListUnsettledPayments lists it"
                ),
                &id,
            ),
            PaymentError::Unknown(id) => late(
                format!(
                    "payment {id} was not decided in time, and the outcome is unknown: send it again with the same \
                     operation_id"
                ),
                &id,
            ),
            PaymentError::ReversalPending(id) => precondition(
                "REVERSAL_PENDING",
                format!(
                    "payment {id} happened too late and is not reversed yet; the reversal is tried again by itself, pay with a \
                     new operation_id"
                ),
                &id,
                None,
            ),
            PaymentError::Reversed {
                operation_id: id,
                reversal_id,
            } => precondition(
                "PAYMENT_REVERSED",
                format!(
                    "payment {id} happened too late and was reversed by {reversal_id}; pay with a new operation_id"
                ),
                &id,
                Some(("reversal_operation_id", reversal_id.as_str())),
            ),
            PaymentError::ReversalRefused {
                operation_id: id,
                reason,
            } => precondition(
                "REVERSAL_REFUSED",
                format!(
                    "payment {id} happened too late, and its reversal was refused with {reason}; settle it with \
                     SettlePayment"
                ),
                &id,
                Some(("refusal_reason", &reason)),
            ),
            PaymentError::Settled {
                operation_id: id,
                settlement_id,
            } => precondition(
                "PAYMENT_SETTLED",
                format!(
                    "payment {id} happened too late and was settled by a person with {settlement_id}"
                ),
                &id,
                Some(("settlement_operation_id", settlement_id.as_str())),
            ),
            PaymentError::SettlementStarted {
                operation_id: id,
                settlement_id,
            } => precondition(
                "SETTLEMENT_STARTED",
                format!(
                    "settlement {settlement_id} of payment {id} has begun, and it is not known how it ended; send it again"
                ),
                &id,
                Some(("settlement_operation_id", settlement_id.as_str())),
            ),
            PaymentError::NothingToSettle {
                operation_id: id,
                state: (state, words),
            } => precondition(
                "NOTHING_TO_SETTLE",
                format!("operation {id} {words}, so there is nothing to settle"),
                &id,
                Some(("state", state)),
            ),
        }
    }
}

fn late(message: String, operation_id: &OperationId) -> Problem {
    let facts = [
        ("operation_id", operation_id.as_str()),
        ("outcome", "unknown"),
    ];
    Problem {
        code: Code::DeadlineExceeded,
        message,
        details: problem::info("DEADLINE", facts),
    }
}

fn precondition(
    reason: &str,
    message: String,
    operation_id: &OperationId,
    fact: Option<(&str, &str)>,
) -> Problem {
    let facts = [("operation_id", operation_id.as_str())];
    let mut details = problem::info(reason, facts.into_iter().chain(fact));
    let subject = format!("operations/{operation_id}");
    details.add_precondition_failure_violation(reason, subject, &message);
    Problem {
        code: Code::FailedPrecondition,
        message,
        details,
    }
}
