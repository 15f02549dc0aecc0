//! Settlements: how a person settles a payment whose reversal the ledger refused, once.
//!
//! | step  | what happens                                                                        |
//! |-------|-------------------------------------------------------------------------------------|
//! | read  | the payment, the verdict on it, and whether the account of a credit can receive      |
//! | begin | the settlement is written down, if no other one is: from now on no other one begins  |
//! | do    | a credit goes through the batcher, under the settlement's id; else nothing           |
//! | end   | posted: the payment is settled; refused for ever: another settlement may begin       |
//!
//! Whatever stops it on the way, the same request sent again goes on where it stopped: the ledger lets the credit happen once,
//! and an end that was reached is found.

use super::super::context::Context;
use super::super::status::RpcError;
use super::payment_error::PaymentError;
use crate::batcher::{Answer, Batcher, Failure};
use crate::domain::card::{Attempt, Settlement, SettlementMethod, source_entry};
use crate::domain::{
    AccountId, BalanceKey, Category, Operation, OperationId, Outcome, Refusal, Timestamp,
};
use crate::store::{CreditEnd, SettlementRecord, Standing, Store, StoreError};

/// A settlement as it is asked for.
#[derive(Debug, Clone)]
pub(super) struct AskedSettlement {
    pub(super) operation_id: OperationId,
    pub(super) payment_id: OperationId,
    pub(super) method: SettlementMethod,
    /// `None`: the account that paid.
    pub(super) account_id: Option<AccountId>,
    /// `None`: the category that paid.
    pub(super) category: Option<Category>,
    pub(super) note: String,
}

/// A payment that a person settled.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) payment: Operation,
    pub(super) settlement: Settlement,
    pub(super) settle_time: Timestamp,
    /// By an earlier request.
    pub(super) replayed: bool,
}

/// A payment, the attempt that made it, and the settlement that is asked for.
struct Case {
    payment: Operation,
    attempt: Attempt,
    settlement: Settlement,
}

impl Case {
    fn payment_id(&self) -> OperationId {
        self.payment.command.operation_id.clone()
    }

    fn settled(self, settle_time: Timestamp, replayed: bool) -> Settled {
        Settled {
            payment: self.payment,
            settlement: self.settlement,
            settle_time,
            replayed,
        }
    }
}

/// How far a settlement is.
enum Known {
    /// The payment is settled by it.
    Ended(Timestamp),
    /// It has begun, and its credit may have happened.
    Begun,
    /// Nothing has settled the payment, and no settlement has begun.
    Free,
}

/// Settles payments. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Settlements {
    batcher: Batcher,
    store: Store,
}

impl Settlements {
    pub(super) fn new(batcher: Batcher, store: Store) -> Self {
        Self { batcher, store }
    }

    /// Settles a payment, or says why not. Dropping the future leaves a settlement that may have begun; sent again it goes on.
    pub(super) async fn settle(
        &self,
        asked: AskedSettlement,
        context: &Context,
    ) -> Result<Settled, RpcError> {
        let payment_id = asked.payment_id.clone();
        let store = self.store.before(context.deadline());
        let payment = store.get_operation(payment_id.clone()).await?;
        let payment = payment.ok_or(RpcError::OperationNotFound(payment_id))?;
        let (attempt, settlement) = settlement_of(asked, &payment)?;
        let case = Case {
            payment,
            attempt,
            settlement,
        };
        match self.known(&case, context).await? {
            Known::Ended(settle_time) => return Ok(case.settled(settle_time, true)),
            Known::Begun => {}
            Known::Free => {
                self.check_account(&case, context).await?;
                let store = self.store.before(context.deadline());
                let begun = store.begin_settlement(
                    case.payment_id(),
                    case.attempt.clone(),
                    case.settlement.clone(),
                );
                let begun = begun.await.map_err(RpcError::from)?;
                match self.known(&case, context).await.map_err(unknown)? {
                    Known::Ended(settle_time) => return Ok(case.settled(settle_time, !begun)),
                    Known::Begun => {}
                    // Another one had begun, and is refused by now.
                    Known::Free => {
                        return Err(RpcError::Failure(Failure::Contention { account_id: None }));
                    }
                }
            }
        }
        self.credit(case, context).await
    }

    /// Does what is left of a settlement that has begun and credits.
    async fn credit(&self, case: Case, context: &Context) -> Result<Settled, RpcError> {
        let Some(credit) = case.settlement.credit(&case.payment) else {
            tracing::error!(operation_id = %case.payment_id(), "a settlement without a credit has begun and not ended");
            return Err(RpcError::Failure(Failure::Internal));
        };
        let (end, result) = match self.batcher.execute(credit, context.deadline()).await {
            Answer::Decided(Ok(receipt)) => (CreditEnd::Posted, Ok(receipt.replayed)),
            Answer::Decided(Err(refusal)) if is_for_ever(&refusal) => {
                (CreditEnd::Refused, Err(refusal))
            }
            // The account was there a moment ago: somebody works on the tables. Sent again it goes on.
            Answer::Decided(Err(refusal)) => return Err(RpcError::Refusal(refusal)),
            Answer::Failed(failure) => return Err(RpcError::Failure(failure)),
        };
        let store = self.store.before(context.deadline());
        let ended = store.end_settlement(
            case.payment_id(),
            case.attempt.clone(),
            case.settlement.operation_id.clone(),
            end,
        );
        ended.await.map_err(RpcError::from)?;
        let replayed = result.map_err(RpcError::Refusal)?;
        tracing::info!(
            operation_id = %case.payment_id(),
            settlement_id = %case.settlement.operation_id,
            "a payment is settled by a credit"
        );
        match self.known(&case, context).await.map_err(unknown)? {
            Known::Ended(settle_time) => Ok(case.settled(settle_time, replayed)),
            Known::Begun | Known::Free => Err(RpcError::Failure(Failure::Internal)),
        }
    }

    /// How far this settlement is. An error if it can neither have ended nor begin.
    async fn known(&self, case: &Case, context: &Context) -> Result<Known, RpcError> {
        let operation_id = case.payment_id();
        let store = self.store.before(context.deadline());
        let record = store
            .card_verdict(operation_id.clone(), case.attempt.clone())
            .await?;
        let nothing = |operation_id, state| {
            Err(PaymentError::NothingToSettle {
                operation_id,
                state,
            }
            .into())
        };
        let Some(SettlementRecord {
            standing,
            settlement: recorded,
        }) = record
        else {
            return nothing(operation_id, STANDS);
        };
        if let Some((recorded, settle_time)) = recorded
            && recorded.operation_id == case.settlement.operation_id
        {
            let fields = case.settlement.differing_fields(&recorded);
            if !fields.is_empty() {
                return Err(RpcError::Refusal(Refusal::OperationIdReused {
                    operation_id: recorded.operation_id,
                    fields,
                }));
            }
            return Ok(settle_time.map_or(Known::Begun, Known::Ended));
        }
        match standing {
            Standing::Kept => nothing(operation_id, STANDS),
            Standing::Pending => nothing(operation_id, PENDING),
            Standing::Reversed { .. } => nothing(operation_id, REVERSED),
            Standing::Refused {
                settlement_id: None,
                ..
            } => Ok(Known::Free),
            Standing::Refused {
                settlement_id: Some(settlement_id),
                ..
            } => Err(PaymentError::SettlementStarted {
                operation_id,
                settlement_id,
            }
            .into()),
            Standing::Settled { settlement_id } => Err(PaymentError::Settled {
                operation_id,
                settlement_id,
            }
            .into()),
        }
    }

    /// Whether the account of a credit can receive it at all. Accounts stay and keep their currency, so what is read here holds
    /// for the credit later, and one that has begun is not refused for this.
    async fn check_account(&self, case: &Case, context: &Context) -> Result<(), RpcError> {
        let Some(BalanceKey { account_id, .. }) = case.settlement.destination.clone() else {
            return Ok(());
        };
        let store = self.store.before(context.deadline());
        let account = store.get_accounts(vec![account_id.clone()]).await?.pop();
        let account = account.transpose().map_err(StoreError::from)?;
        let Some(account) = account else {
            return Err(RpcError::Refusal(Refusal::AccountNotFound { account_id }));
        };
        let currency = case.payment.command.currency;
        if account.currency != currency {
            return Err(RpcError::Refusal(Refusal::CurrencyMismatch {
                account_id,
                account_currency: account.currency,
                amount_currency: currency,
            }));
        }
        Ok(())
    }
}

const STANDS: (&str, &str) = ("STANDS", "is a payment that was approved");
const PENDING: (&str, &str) = (
    "REVERSAL_PENDING",
    "is a payment whose reversal is still being tried",
);
const REVERSED: (&str, &str) = ("REVERSED", "is a payment that is reversed");
const NOT_POSTED: (&str, &str) = ("REFUSED", "is a payment that was refused");
const NO_PAYMENT: (&str, &str) = ("NO_PAYMENT", "is not a card payment");

/// The attempt that made a payment, and its settlement.
fn settlement_of(
    asked: AskedSettlement,
    payment: &Operation,
) -> Result<(Attempt, Settlement), RpcError> {
    let AskedSettlement {
        operation_id,
        payment_id,
        method,
        account_id,
        category,
        note,
    } = asked;
    let nothing = |state| PaymentError::NothingToSettle {
        operation_id: payment_id.clone(),
        state,
    };
    let attempt = Attempt::of(payment).ok_or_else(|| nothing(NO_PAYMENT))?;
    let paid = match (source_entry(payment), &payment.outcome) {
        (Some(entry), _) => entry.balance.clone(),
        (None, Outcome::Refused(_)) => return Err(nothing(NOT_POSTED).into()),
        (None, Outcome::Posted(_)) => return Err(nothing(NO_PAYMENT).into()),
    };
    let destination = match method {
        SettlementMethod::Credit => Some(BalanceKey {
            account_id: account_id.unwrap_or(paid.account_id),
            category: category.unwrap_or(paid.category),
        }),
        SettlementMethod::Other => None,
    };
    let settlement = Settlement {
        operation_id,
        method,
        destination,
        note,
    };
    Ok((attempt, settlement))
}

/// Whether a credit of the same id will be refused whenever it is sent.
fn is_for_ever(refusal: &Refusal) -> bool {
    refusal.is_recorded() || matches!(refusal, Refusal::OperationIdReused { .. })
}

/// The failure of a read after a write: what was written is done.
fn unknown(error: RpcError) -> RpcError {
    match error {
        RpcError::Failure(Failure::Internal) => RpcError::Failure(Failure::Internal),
        RpcError::Failure(_) => outcome_unknown(),
        error => error,
    }
}

fn outcome_unknown() -> RpcError {
    RpcError::Failure(Failure::Deadline {
        outcome_unknown: true,
    })
}
