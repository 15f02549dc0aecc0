//! Reversals: what becomes of a payment that was answered `07` while it was being committed.
//!
//! The attempt's own process waits for the outcome and gives the money back at once. If it died before that, or the database was
//! away, the verdict that it left behind is taken by the sweep of some instance, again and again with growing pauses, and side by
//! side with others: one that cannot be done now stops no other.
//!
//! A reversal that the ledger refuses (the account was closed or frozen meanwhile, or a limit exceeded) is refused for ever, as
//! every operation is. It is noted as refused, leaves the sweep, and waits for a person ([`super::settlements`]). Trying it again
//! under another id would give the money back a second time to whom a person has already credited it.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::batcher::{Answer, Batcher, Failure, Pending};
use crate::domain::card::{self, Attempt, Reversal};
use crate::domain::{Operation, OperationId};
use crate::store::{CardVerdict, DueVerdict, Standing, Store, StoreError};

/// How long one step in the background may take before it is tried again.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before a step is tried again; it doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often is looked for what is due.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// How many verdicts a sweep takes at once, and how many of them it works on side by side.
const SWEEP_SIZE: usize = 100;
const SWEEP_WIDTH: usize = 16;
/// How often the log says that payments wait for a person, and how many of them are counted.
const REMINDER_INTERVAL: Duration = Duration::from_secs(600);
const REMINDER_COUNT_MAX: i64 = 10_000;

/// What an attempt in doubt will come to.
#[derive(Debug)]
pub(super) enum Fate {
    /// It is still under way.
    Open(Pending),
    /// It came too late, or is not known.
    Answered(Answer),
}

/// An attempt whose caller was answered `07` while it may have happened.
#[derive(Debug)]
pub(super) struct Doubt {
    pub(super) operation_id: OperationId,
    pub(super) attempt: Attempt,
    pub(super) fate: Fate,
    /// Its verdict is durable.
    pub(super) is_recorded: bool,
}

/// Whether money came back.
enum Reversed {
    Done,
    /// It has to be tried again.
    NotYet(Failure),
    /// The ledger refuses it; a person has to settle it.
    Refused,
}

/// Undoes payments. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reversals {
    batcher: Batcher,
    store: Store,
}

impl Reversals {
    pub(super) fn new(batcher: Batcher, store: Store) -> Self {
        Self { batcher, store }
    }

    /// Waits for the outcome of an attempt, and gives back what it paid.
    pub(super) async fn undo(&self, doubt: Doubt) {
        let Doubt {
            operation_id,
            attempt,
            fate,
            is_recorded,
        } = doubt;
        if !is_recorded && self.verdict(&operation_id, &attempt).await == Standing::Kept {
            tracing::warn!(%operation_id, "a payment that was answered 07 is kept, because a retry of it was approved");
            return;
        }
        let answer = match fate {
            Fate::Open(mut pending) => pending.answer().await,
            Fate::Answered(answer) => answer,
        };
        match answer {
            Answer::Decided(Ok(receipt)) => self.reverse_until_done(&receipt.operation).await,
            Answer::Failed(failure) if failure.is_outcome_unknown() => {
                tracing::warn!(%operation_id, "the outcome of a payment is unknown; a sweep will resolve it");
            }
            Answer::Decided(Err(_)) | Answer::Failed(_) => {
                self.settle(operation_id, attempt, None).await;
            }
        }
    }

    /// Gives the verdict REVERSED until it is durable; returns what stands.
    async fn verdict(&self, operation_id: &OperationId, attempt: &Attempt) -> Standing {
        let mut pause = PAUSE_MIN;
        loop {
            let store = self.store.before(step());
            let given = store.give_card_verdict(
                operation_id.clone(),
                attempt.clone(),
                CardVerdict::Reversed,
            );
            match given.await {
                Ok(standing) => return standing,
                Err(error) => {
                    tracing::warn!(%error, %operation_id, "a verdict on a payment could not be stored; it is tried again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn reverse_until_done(&self, payment: &Operation) {
        let mut pause = PAUSE_MIN;
        loop {
            match self.reverse(payment).await {
                // What is left is a sweep's.
                Reversed::Done | Reversed::Refused | Reversed::NotYet(Failure::ShuttingDown) => {
                    return;
                }
                Reversed::NotYet(failure) => {
                    tracing::warn!(?failure, "a reversal failed; it is tried again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Gives a posted payment back, and notes how that ended. However often this is done, and by whom: the reversal's id lets it
    /// happen once.
    async fn reverse(&self, payment: &Operation) -> Reversed {
        let Some((command, attempt)) = card::reversal(payment).zip(Attempt::of(payment)) else {
            return Reversed::Done;
        };
        let operation_id = payment.command.operation_id.clone();
        let reversal_id = command.operation_id.clone();
        let reason = match self.batcher.execute(command, step()).await {
            Answer::Decided(Ok(receipt))
                if Reversal::of(payment, &receipt.operation) == Reversal::Posted =>
            {
                if !receipt.replayed {
                    tracing::info!(%operation_id, "a payment that was answered 07 is reversed");
                }
                self.settle(operation_id, attempt, Some(reversal_id)).await;
                return Reversed::Done;
            }
            // Somebody else's operation has the id, as older versions allowed: this payment is not reversed.
            Answer::Decided(Ok(_)) => "OPERATION_ID_REUSED",
            Answer::Decided(Err(refusal)) => refusal.reason(),
            Answer::Failed(failure) => return Reversed::NotYet(failure),
        };
        self.refuse(operation_id, attempt, reason, reversal_id)
            .await;
        Reversed::Refused
    }

    /// A verdict that stays unsettled is due again later, and everything is found done then.
    async fn settle(
        &self,
        operation_id: OperationId,
        attempt: Attempt,
        reversal_id: Option<OperationId>,
    ) {
        let store = self.store.before(step());
        let settled = store.settle_card_verdict(operation_id, attempt, reversal_id);
        if let Err(error) = settled.await {
            tracing::warn!(%error, "a payment could not be marked as settled; it is tried again");
        }
    }

    /// The same, of one that a person has to settle.
    async fn refuse(
        &self,
        operation_id: OperationId,
        attempt: Attempt,
        reason: &'static str,
        reversal_id: OperationId,
    ) {
        let store = self.store.before(step());
        let refused = store.refuse_card_verdict(operation_id.clone(), attempt, reason, reversal_id);
        match refused.await {
            Ok(true) => {
                tracing::error!(
                    %operation_id,
                    reason,
                    "the reversal of a card payment is refused; settle it with CardService/SettlePayment"
                );
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "a refused reversal could not be noted; it is tried again")
            }
        }
    }

    /// Does what is due, again and again, until `stopping`.
    pub async fn sweep(self, stopping: CancellationToken) {
        let mut remind_at = Instant::now();
        loop {
            tokio::select! {
                swept = self.sweep_once() => {
                    if let Err(error) = swept {
                        tracing::warn!(%error, "looking for unsettled payments failed");
                    }
                }
                () = stopping.cancelled() => return,
            }
            if Instant::now() >= remind_at {
                tokio::select! {
                    () = self.remind() => remind_at = Instant::now() + REMINDER_INTERVAL,
                    () = stopping.cancelled() => return,
                }
            }
            tokio::select! {
                () = tokio::time::sleep(SWEEP_INTERVAL) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    /// Takes what is due until nothing is: what was taken is due again only later.
    async fn sweep_once(&self) -> Result<(), StoreError> {
        loop {
            let store = self.store.before(step());
            let due = store.take_due_verdicts(SWEEP_SIZE as i64).await?;
            let is_last = due.len() < SWEEP_SIZE;
            futures_util::stream::iter(due)
                .for_each_concurrent(SWEEP_WIDTH, |due| self.resolve(due))
                .await;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Reverses a payment that is due, or finds out that there is nothing to reverse.
    async fn resolve(&self, due: DueVerdict) {
        let DueVerdict {
            operation_id,
            attempt,
            is_hopeless,
        } = due;
        let store = self.store.before(step());
        match store.get_operation(operation_id.clone()).await {
            Ok(Some(payment))
                if Attempt::of(&payment).as_ref() == Some(&attempt)
                    && card::reversal(&payment).is_some() =>
            {
                if let Reversed::NotYet(failure) = self.reverse(&payment).await {
                    tracing::warn!(%operation_id, ?failure, "a reversal failed; it is tried again");
                }
            }
            // It was refused, or is another attempt's: this one never will be.
            Ok(Some(_)) => self.settle(operation_id, attempt, None).await,
            Ok(None) if is_hopeless => self.settle(operation_id, attempt, None).await,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, %operation_id, "an unsettled payment could not be read; it is tried again");
            }
        }
    }

    /// Says how many payments wait for a person.
    async fn remind(&self) {
        let store = self.store.before(step());
        match store.count_unsettled_payments(REMINDER_COUNT_MAX).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(
                count,
                "card payments wait for a person; see CardService/ListUnsettledPayments"
            ),
            Err(error) => tracing::warn!(%error, "counting unsettled payments failed"),
        }
    }
}

fn step() -> Instant {
    Instant::now() + STEP_TIMEOUT
}
