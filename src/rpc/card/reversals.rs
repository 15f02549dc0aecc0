//! Reversals: what becomes of a payment that was answered `07` while it was being committed.
//!
//! The attempt's own process waits for the outcome and gives the money back at once. If it died before that, the verdict
//! that it left behind is found by the sweep of another instance, or of the next start.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::batcher::{Answer, Batcher, Failure, Pending};
use crate::domain::card::{self, Attempt};
use crate::domain::{Operation, OperationId};
use crate::store::{CardVerdict, Store, StoreError, UnsettledVerdict};

/// How long one step in the background may take before it is tried again.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before a step is tried again; it doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often is looked for what a dead process left behind.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// How old a verdict is before a sweep takes it from the process that gave it.
const SWEEP_AGE: &str = "10 seconds";
/// After this long a payment that is not there never will be: every statement and idle transaction has timed out.
const HOPELESS_AGE: &str = "10 minutes";
/// The most verdicts of one sweep.
const SWEEP_SIZE_MAX: i64 = 100;

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
    /// The ledger refuses to take it back; a person has to see to it.
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
        if !is_recorded && self.verdict(&operation_id, &attempt).await == CardVerdict::Kept {
            tracing::warn!(%operation_id, "a payment that was answered 07 stands: a retry of it was approved");
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
                self.settle(operation_id, attempt).await;
            }
        }
    }

    /// Gives the verdict REVERSED until it is durable; returns the one that stands.
    async fn verdict(&self, operation_id: &OperationId, attempt: &Attempt) -> CardVerdict {
        let mut pause = PAUSE_MIN;
        loop {
            let store = self.store.before(step());
            let given = store.give_card_verdict(
                operation_id.clone(),
                attempt.clone(),
                CardVerdict::Reversed,
            );
            match given.await {
                Ok(verdict) => return verdict,
                Err(error) => {
                    tracing::warn!(%error, %operation_id, "a verdict could not be given; it is tried again");
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

    /// Gives a posted payment back, and settles its verdict. However often this is done, and by whom: the reversal's id
    /// lets it happen once.
    async fn reverse(&self, payment: &Operation) -> Reversed {
        let (Some(command), Some(attempt)) = (card::reversal(payment), Attempt::of(payment)) else {
            return Reversed::Done;
        };
        let operation_id = payment.command.operation_id.clone();
        match self.batcher.execute(command, step()).await {
            Answer::Decided(Ok(receipt)) => {
                if !receipt.replayed {
                    tracing::info!(%operation_id, "a payment that was answered 07 is reversed");
                }
                self.settle(operation_id, attempt).await;
                Reversed::Done
            }
            Answer::Decided(Err(refusal)) => {
                tracing::error!(%operation_id, reason = refusal.reason(), "a reversal is refused; credit it by hand");
                Reversed::Refused
            }
            Answer::Failed(failure) => Reversed::NotYet(failure),
        }
    }

    /// A verdict that stays unsettled is looked at by the next sweep, which finds everything done.
    async fn settle(&self, operation_id: OperationId, attempt: Attempt) {
        let store = self.store.before(step());
        let settled = store.settle_card_verdict(operation_id, attempt);
        if let Err(error) = settled.await {
            tracing::warn!(%error, "a verdict could not be settled");
        }
    }

    /// Does what dead processes left undone, again and again, until `stopping`.
    pub async fn sweep(self, stopping: CancellationToken) {
        loop {
            tokio::select! {
                swept = self.sweep_once() => {
                    if let Err(error) = swept {
                        tracing::warn!(%error, "looking for unsettled payments failed");
                    }
                }
                () = stopping.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(SWEEP_INTERVAL) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    async fn sweep_once(&self) -> Result<(), StoreError> {
        let store = self.store.before(step());
        let unsettled = store.unsettled_card_verdicts(SWEEP_AGE, HOPELESS_AGE, SWEEP_SIZE_MAX);
        for verdict in unsettled.await? {
            let UnsettledVerdict {
                operation_id,
                attempt,
                is_hopeless,
            } = verdict;
            let recorded = self
                .store
                .before(step())
                .get_operation(operation_id.clone())
                .await?;
            match recorded {
                Some(payment)
                    if Attempt::of(&payment).as_ref() == Some(&attempt)
                        && card::reversal(&payment).is_some() =>
                {
                    self.reverse(&payment).await;
                }
                // It was refused, or is another attempt's: this one never will be.
                Some(_) => self.settle(operation_id, attempt).await,
                None if is_hopeless => self.settle(operation_id, attempt).await,
                None => {}
            }
        }
        Ok(())
    }
}

fn step() -> Instant {
    Instant::now() + STEP_TIMEOUT
}
