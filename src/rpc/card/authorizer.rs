//! The authorizer: decides a card payment within its time, or has it undone.
//!
//! | step    | what happens                                                           | until            |
//! |---------|------------------------------------------------------------------------|------------------|
//! | look up | rules, currency, and what is recorded of this id, in one round trip    | 4/5 of the time  |
//! | decide  | a debit of the mapped category, then CASH, through the batcher          | 4/5 of the time  |
//! | doubt   | only if it was started and is not known: the verdict REVERSED, durable  | the whole time   |
//! | answer  | `00`, `51` or `07`                                                      |                  |
//! | undo    | after such a `07`: waits for the outcome; gives back what was paid      | in the background|
//!
//! **Whose payment it is.** Each attempt puts a random number of its own into the metadata of its debit. So the content
//! of no two attempts is the same: the ledger's unique id lets one of them post, and every other one is told
//! OPERATION_ID_REUSED, reads what is recorded and compares the payment (account, amount, mcc, merchant) itself. That
//! keeps the answer of a retry free of today's rules, and it says exactly whose payment a posted one is, also after a
//! commit whose answer was lost. An attempt answers `00` without further ado only for its own payment, and only its own
//! payment is an attempt ever going to reverse.
//!
//! **The race.** An attempt that answered `07` in doubt wants its payment reversed. A retry that finds the payment posted
//! wants to answer `00`; it cannot know whether the payment's own caller was answered `00`, `07` or nothing. Exactly one
//! of the two may have its way, so both must first give their verdict about (id, attempt): REVERSED or KEPT. The primary
//! key of `card_verdicts` lets the first one stand, whichever instances they are on, and both obey what stands:
//!
//! - REVERSED stands: the retry answers `07`, now and for ever, with a reason that says what is done by then: nothing yet
//!   (REVERSAL_PENDING), the money is back (PAYMENT_REVERSED), the ledger refused that (REVERSAL_REFUSED), or a person settled
//!   it after that (PAYMENT_SETTLED).
//! - KEPT stands: the retry answered `00`, because a `07` by timeout promises that a retry is evaluated again. Nothing is
//!   reversed, and every later retry gets `00`.
//!
//! The verdict is about one attempt's payment. A retry that finds nothing recorded makes a payment of its own, whatever
//! was said about attempts before, which the unique id then lets happen only if theirs did not.
//!
//! **A process that dies.** The verdict REVERSED is written before the `07` is answered (the last fifth of the time is
//! for that), so another instance, or the next start, finds it unsettled and does what is left ([`super::reversals`]).
//! What remains: a database too slow to take even that row in time, and a process killed before its background task got
//! it written. Then a payment may stand although its caller was answered `07`; a retry of it gets `00`. Likewise a retry
//! whose KEPT was written but not confirmed in time answers `07` DEADLINE, and the payment stands.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::super::context::Context;
use super::super::status::RpcError;
use super::super::violations::Violations;
use super::payment_error::PaymentError;
use super::reversals::{Doubt, Fate, Reversals};
use super::settlements::Settlements;
use crate::batcher::{Answer, Batcher, Failure};
use crate::domain::Side;
use crate::domain::card::{self, Attempt, Code, Decimal, Mcc, Merchant, Payment, Rules};
use crate::domain::{
    AccountId, Amount, Category, Currency, Operation, OperationId, Outcome, Refusal,
};
use crate::store::{CardFacts, CardVerdict, Standing, Store, StoreError};

/// The most authorizations at once, those included whose outcome is waited for in the background.
const IN_FLIGHT_MAX: usize = 20_000;
/// The part of the time that is kept for making a doubt durable: one in so many.
const RESERVE_PART: u32 = 5;

/// How much is asked for.
#[derive(Debug, Clone, Copy)]
pub(in crate::rpc) enum Total {
    /// A payment of so much.
    Amount(AskedAmount),
    /// Nothing: the account is verified. In a currency, if the caller named one.
    Nothing(Option<Currency>),
}

/// How much is paid.
#[derive(Debug, Clone, Copy)]
pub(in crate::rpc) enum AskedAmount {
    /// In a currency that the caller named.
    Money(Amount, Currency),
    /// In the currency of the account.
    Decimal(Decimal),
}

/// A payment that is asked for.
#[derive(Debug, Clone)]
pub(in crate::rpc) struct Asked {
    pub(super) operation_id: OperationId,
    pub(super) account_id: AccountId,
    pub(super) total: Total,
    pub(super) mcc: Mcc,
    pub(super) merchant: Merchant,
}

impl Asked {
    /// The payment of this amount, on an account of this currency.
    fn payment(
        self,
        asked: AskedAmount,
        account_currency: Option<Currency>,
    ) -> Result<Payment, RpcError> {
        let Self {
            operation_id,
            account_id,
            mcc,
            merchant,
            ..
        } = self;
        let (amount, currency) = match (asked, account_currency) {
            (AskedAmount::Money(amount, currency), _) => (amount, currency),
            (AskedAmount::Decimal(_), None) => {
                return Err(RpcError::Refusal(Refusal::AccountNotFound { account_id }));
            }
            (AskedAmount::Decimal(decimal), Some(currency)) => {
                let listed = iso_currency::Currency::from_code(currency.as_str());
                let decimals = listed.and_then(|listed| listed.exponent()).unwrap_or(0);
                let amount = decimal
                    .amount(decimals)
                    .map_err(|error| Violations::one("totalAmount", error))?;
                (amount, currency)
            }
        };
        Ok(Payment {
            operation_id,
            account_id,
            amount,
            currency,
            mcc,
            merchant,
        })
    }
}

/// The answer to a card.
#[derive(Debug)]
pub(in crate::rpc) enum Decision {
    /// This category paid, or would be asked first, if it is about nothing.
    Approved(Category),
    /// Nothing was paid, or it was not known in time.
    Declined(RpcError),
}

impl Decision {
    pub(in crate::rpc) fn code(&self) -> Code {
        match self {
            Self::Approved(_) => Code::Approved,
            Self::Declined(RpcError::Refusal(refusal)) => Code::of(refusal),
            Self::Declined(_) => Code::Declined,
        }
    }
}

impl<E: Into<RpcError>> From<E> for Decision {
    fn from(error: E) -> Self {
        Self::Declined(error.into())
    }
}

/// Decides card payments. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authorizer {
    batcher: Batcher,
    store: Store,
    reversals: Reversals,
    timeout: Duration,
    tasks: TaskTracker,
    permits: Arc<Semaphore>,
}

impl Authorizer {
    /// Decides through this batcher and this store, each payment within `timeout`.
    pub fn new(batcher: Batcher, store: Store, timeout: Duration) -> Self {
        Self {
            reversals: Reversals::new(batcher.clone(), store.clone()),
            batcher,
            store,
            timeout,
            tasks: TaskTracker::new(),
            permits: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
        }
    }

    /// What is undone of payments that nobody was approved for.
    pub fn reversals(&self) -> &Reversals {
        &self.reversals
    }

    /// What settles payments that could not be undone.
    pub(super) fn settlements(&self) -> Settlements {
        Settlements::new(self.batcher.clone(), self.store.clone())
    }

    /// When a request that arrives now has to be answered.
    pub(in crate::rpc) fn answer_by(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// Waits until every payment is decided, and given back if it has to be. Nothing new may come meanwhile.
    pub async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Decides a payment. It is decided to its end, also if the caller leaves and the future is dropped.
    pub(in crate::rpc) async fn authorize(&self, asked: Asked, context: Context) -> Decision {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            return Decision::Declined(RpcError::Failure(Failure::Overloaded));
        };
        let this = self.clone();
        let deciding = self
            .tasks
            .spawn(async move { this.decide(asked, context, permit).await });
        deciding.await.unwrap_or_else(|panic| {
            tracing::error!(%panic, "an authorization panicked");
            Decision::Declined(RpcError::Failure(Failure::Internal))
        })
    }

    async fn decide(
        &self,
        asked: Asked,
        context: Context,
        permit: OwnedSemaphorePermit,
    ) -> Decision {
        let answer_by = context.deadline();
        let reserve = answer_by.saturating_duration_since(Instant::now()) / RESERVE_PART;
        let decide_by = answer_by - reserve;
        let CardFacts {
            currency,
            rules,
            recorded,
            standing,
        } = match self.facts(&asked, &context.until(decide_by)).await {
            Ok(facts) => facts,
            Err(error) => return error.into(),
        };
        let amount = match asked.total {
            Total::Amount(amount) => amount,
            Total::Nothing(named) => {
                let verified = self.verify(&asked, named, &rules, recorded, &context);
                return verified.await.unwrap_or_else(Decision::Declined);
            }
        };
        let payment = match asked.payment(amount, currency) {
            Ok(payment) => payment,
            Err(error) => return error.into(),
        };
        if let Some(recorded) = recorded {
            return self.recorded(&payment, &recorded, standing, &context).await;
        }
        let attempt = Attempt::new(rand::random());
        let command = payment.command(&rules, &attempt);
        let mut pending = match self.batcher.submit(command, decide_by) {
            Ok(pending) => pending,
            Err(failure) => return Decision::Declined(RpcError::Failure(failure)),
        };
        let doubt = |fate| Doubt {
            operation_id: payment.operation_id.clone(),
            attempt: attempt.clone(),
            fate,
            is_recorded: false,
        };
        let late = || PaymentError::Late(payment.operation_id.clone()).into();
        match tokio::time::timeout_at(decide_by, pending.answer()).await {
            Ok(Answer::Decided(Ok(receipt))) if Instant::now() < answer_by => {
                approved(&receipt.operation)
            }
            Ok(answer @ Answer::Decided(Ok(_))) => {
                let doubt = doubt(Fate::Answered(answer));
                self.undo(&payment, doubt, late(), &context, permit).await
            }
            Ok(Answer::Decided(Err(Refusal::OperationIdReused { .. }))) => {
                self.look_again(&payment, &context).await
            }
            Ok(Answer::Decided(Err(refusal))) => Decision::Declined(RpcError::Refusal(refusal)),
            Ok(Answer::Failed(failure)) if failure.is_outcome_unknown() => {
                let doubt = doubt(Fate::Answered(Answer::Failed(failure.clone())));
                let error = RpcError::Failure(failure);
                self.undo(&payment, doubt, error, &context, permit).await
            }
            Ok(Answer::Failed(failure)) => Decision::Declined(RpcError::Failure(failure)),
            Err(_elapsed) if pending.withdraw() => {
                Decision::Declined(RpcError::Failure(Failure::Deadline {
                    outcome_unknown: false,
                }))
            }
            Err(_elapsed) => {
                let doubt = doubt(Fate::Open(pending));
                self.undo(&payment, doubt, late(), &context, permit).await
            }
        }
    }

    /// Decides about an amount of zero: whether a payment could be asked for. Moves and records nothing.
    async fn verify(
        &self,
        asked: &Asked,
        named: Option<Currency>,
        rules: &Rules,
        recorded: Option<Operation>,
        context: &Context,
    ) -> Result<Decision, RpcError> {
        let account_id = asked.account_id.clone();
        if recorded.is_some() {
            return Err(RpcError::Refusal(Refusal::OperationIdReused {
                operation_id: asked.operation_id.clone(),
                fields: vec!["total_amount.minor_units"],
            }));
        }
        let store = self.store.before(context.deadline());
        let account = store.get_accounts(vec![account_id.clone()]).await?.pop();
        let account = account.transpose().map_err(StoreError::from)?;
        let refusal = match (account, named) {
            (None, _) => Refusal::AccountNotFound { account_id },
            (Some(account), Some(named)) if account.currency != named => {
                Refusal::CurrencyMismatch {
                    account_id,
                    account_currency: account.currency,
                    amount_currency: named,
                }
            }
            (Some(account), _) if account.closed => Refusal::AccountClosed { account_id },
            (Some(account), _) if account.debits_frozen => Refusal::AccountFrozen {
                account_id,
                side: Side::Debits,
            },
            (Some(_), _) => return Ok(Decision::Approved(rules.category())),
        };
        Err(RpcError::Refusal(refusal))
    }

    async fn facts(&self, asked: &Asked, context: &Context) -> Result<CardFacts, RpcError> {
        let Asked {
            operation_id,
            account_id,
            mcc,
            merchant,
            ..
        } = asked.clone();
        let store = self.store.before(context.deadline());
        Ok(store
            .card_facts(operation_id, account_id, mcc, merchant)
            .await?)
    }

    /// The answer to a payment that another attempt made meanwhile.
    async fn look_again(&self, payment: &Payment, context: &Context) -> Decision {
        let Payment {
            operation_id,
            account_id,
            mcc,
            merchant,
            ..
        } = payment.clone();
        let store = self.store.before(context.deadline());
        let facts = store.card_facts(operation_id.clone(), account_id, mcc, merchant);
        match facts.await {
            Ok(CardFacts {
                recorded: Some(recorded),
                standing,
                ..
            }) => self.recorded(payment, &recorded, standing, context).await,
            Ok(_) => {
                tracing::error!(%operation_id, "a recorded operation is missing");
                Decision::Declined(RpcError::Failure(Failure::Internal))
            }
            Err(error) => {
                tracing::debug!(%error, %operation_id, "the verdict on a payment could not be read in time");
                PaymentError::Unknown(operation_id).into()
            }
        }
    }

    /// The answer to a payment that is recorded, with the verdict on it.
    async fn recorded(
        &self,
        payment: &Payment,
        recorded: &Operation,
        standing: Option<Standing>,
        context: &Context,
    ) -> Decision {
        let operation_id = payment.operation_id.clone();
        let (fields, attempt) = (payment.differing_fields(recorded), Attempt::of(recorded));
        let attempt = match attempt {
            Some(attempt) if fields.is_empty() => attempt,
            _ => {
                return Decision::Declined(RpcError::Refusal(Refusal::OperationIdReused {
                    operation_id,
                    fields,
                }));
            }
        };
        if let Outcome::Refused(refusal) = &recorded.outcome {
            return Decision::Declined(RpcError::Refusal(refusal.clone()));
        }
        let standing = match standing {
            Some(standing) => standing,
            None => {
                let store = self.store.before(context.deadline());
                let given = store.give_card_verdict(
                    operation_id.clone(),
                    attempt.clone(),
                    CardVerdict::Kept,
                );
                match given.await {
                    Ok(standing) => standing,
                    // It may have been given, and then the payment stands.
                    Err(error) => {
                        tracing::debug!(%error, %operation_id, "the verdict on a payment could not be read in time");
                        return PaymentError::Unknown(operation_id).into();
                    }
                }
            }
        };
        let standing = match standing {
            Standing::Pending => self.pending(recorded, &attempt, context).await,
            standing => Some(standing),
        };
        let Some(standing) = standing else {
            return PaymentError::Unknown(operation_id).into();
        };
        let usual_id = || card::reversal_id(&payment.operation_id, &attempt);
        match PaymentError::of(operation_id, standing, usual_id) {
            None => approved(recorded),
            Some(error) => error.into(),
        }
    }

    /// The verdict on a payment whose reversal is not known to have ended: the ledger knows it first. `None`: it did not say
    /// in time.
    async fn pending(
        &self,
        payment: &Operation,
        attempt: &Attempt,
        context: &Context,
    ) -> Option<Standing> {
        let reversal_id = card::reversal_id(&payment.command.operation_id, attempt);
        let store = self.store.before(context.deadline());
        let found = store.get_operation(reversal_id).await;
        let found =
            found.inspect_err(|error| tracing::debug!(%error, "a reversal could not be read"));
        let Some(reversal) = found.ok()? else {
            return Some(Standing::Pending);
        };
        let refused = |reason: &str| Standing::Refused {
            reason: reason.to_owned(),
            settlement_id: None,
        };
        Some(match card::Reversal::of(payment, &reversal) {
            card::Reversal::Posted => Standing::Reversed {
                reversal_id: Some(reversal.command.operation_id.clone()),
            },
            card::Reversal::Refused(refusal) => refused(refusal.reason()),
            card::Reversal::Another => refused("OPERATION_ID_REUSED"),
        })
    }

    /// Answers `07` to a payment that may happen or has happened, and has it undone; unless a retry was approved on it.
    async fn undo(
        &self,
        payment: &Payment,
        mut doubt: Doubt,
        error: RpcError,
        context: &Context,
        permit: OwnedSemaphorePermit,
    ) -> Decision {
        let store = self.store.before(context.deadline());
        let given = store.give_card_verdict(
            doubt.operation_id.clone(),
            doubt.attempt.clone(),
            CardVerdict::Reversed,
        );
        let error = match given.await {
            Ok(Standing::Kept) => return self.look_again(payment, context).await,
            Ok(_) => {
                doubt.is_recorded = true;
                error
            }
            // The background task goes on trying. Until it has succeeded, nobody may say that the payment is reversed.
            Err(cause) => {
                tracing::warn!(error = %cause, "a payment in doubt could not be recorded in time");
                PaymentError::Unknown(payment.operation_id.clone()).into()
            }
        };
        let reversals = self.reversals.clone();
        self.tasks.spawn(async move {
            reversals.undo(doubt).await;
            drop(permit);
        });
        Decision::Declined(error)
    }
}

fn approved(payment: &Operation) -> Decision {
    match payment.entries().first() {
        Some(entry) => Decision::Approved(entry.balance.category.clone()),
        None => {
            tracing::error!("a posted payment has no entry");
            Decision::Declined(RpcError::Failure(Failure::Internal))
        }
    }
}
