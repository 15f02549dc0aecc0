//! The ledger as the batcher sees it: something that takes jobs and gives verdicts.

use std::sync::Arc;
use std::time::Duration;

use super::error::StoreError;
use super::retry::Retries;
use crate::domain::{AccountId, Claim, Command, Receipt, Refusal};

/// A command on its way, and the claim that decides between it and its caller's deadline.
#[derive(Debug, Clone)]
pub struct Job {
    /// What to do.
    pub command: Arc<Command>,
    /// Started right before the decision, when all locks are held.
    pub claim: Arc<Claim>,
}

/// What a batch does about an account that is locked elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locking {
    /// Skips it; its commands come back as [`Verdict::Contended`].
    Skip,
    /// Waits for it, up to the given time.
    Wait {
        /// The account that was found locked, on which all jobs wait.
        account_id: AccountId,
        /// The longest wait.
        wait_max: Duration,
    },
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
pub trait Ledger: Send + Sync + 'static {
    /// Executes the jobs in one transaction and answers after its commit, one verdict for each job in order. May be
    /// repeated after an error: what was committed is then replayed. Not cancel safe: run it to its end.
    fn execute(
        &self,
        jobs: &[Job],
        locking: &Locking,
    ) -> impl Future<Output = Result<Vec<Verdict>, StoreError>> + Send;

    /// Counts the batches that lost and were repeated.
    fn retries(&self) -> &Retries;
}
