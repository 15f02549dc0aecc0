//! The ledger as the batcher sees it: something that takes jobs and gives verdicts.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::error::StoreError;
use super::retry::Retries;
use crate::domain::{AccountId, Claim, Command, OperationId, Receipt, Refusal};

/// A command on its way, and the claim that decides between it and its caller's deadline.
#[derive(Debug, Clone)]
pub struct Job {
    /// What to do.
    pub command: Arc<Command>,
    /// Started right before the decision, when all locks are held.
    pub claim: Arc<Claim>,
    /// A command whose deadline has passed before the decision is withdrawn.
    pub deadline: Instant,
}

/// What a batch does about an account that is locked elsewhere. `H` is the ledger's [`Ledger::Hold`].
#[derive(Debug)]
pub enum Locking<H> {
    /// Skips it; its commands come back as [`Verdict::Contended`].
    Skip,
    /// Skips it, but already holds the locks of some accounts, and runs in the transaction that holds them.
    Held(H),
}

/// What became of one job.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Final, and committed.
    Decided(Result<Receipt, Refusal>),
    /// This account is locked elsewhere; nothing happened.
    Contended(AccountId),
    /// The caller withdrew before the decision; nothing happened.
    Withdrawn,
}

/// Something that executes batches durably. The store is one; tests of the coalescing loop bring another.
///
/// Whoever waits for an account or an operation id that somebody outside holds, does it with `await_accounts` or
/// `await_operation`, and holds nothing else meanwhile.
pub trait Ledger: Send + Sync + 'static {
    /// The locks of some accounts, in a transaction that has done nothing else yet. To be used up by `execute` or `release`.
    type Hold: Send + std::fmt::Debug + 'static;

    /// Executes the jobs in one transaction and answers after its commit, one verdict for each job in order. May be
    /// repeated after an error: what was committed is then replayed. Not cancel safe: run it to its end.
    fn execute(
        &self,
        jobs: &[Job],
        locking: Locking<Self::Hold>,
    ) -> impl Future<Output = Result<Vec<Verdict>, StoreError>> + Send;

    /// Waits for the locks of these accounts, in the order of their ids, and of those of their balances that the commands
    /// name, at most `wait_max` for each, and keeps them. [`StoreError::LockTimeout`]: one was not granted.
    fn await_accounts(
        &self,
        account_ids: &[AccountId],
        commands: &[Arc<Command>],
        wait_max: Duration,
    ) -> impl Future<Output = Result<Self::Hold, StoreError>> + Send;

    /// Gives the locks back.
    fn release(&self, hold: Self::Hold) -> impl Future<Output = ()> + Send;

    /// Waits until no transaction outside is about to record this operation id, at most `wait_max`.
    /// [`StoreError::LockTimeout`]: one still is.
    fn await_operation(
        &self,
        operation_id: &OperationId,
        wait_max: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Counts the batches that lost and were repeated.
    fn retries(&self) -> &Retries;
}
