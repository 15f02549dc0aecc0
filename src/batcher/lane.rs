//! A lane: one batch on its way through the ledger, with what is done when that fails.
//!
//! A batch that lost a race is repeated, bounded and jittered. A batch that the database rejected, or could not finish
//! in time, is repeated one command at a time, so that one poisonous command does not sink its neighbours. A commit
//! whose answer was lost is resolved by repeating it: what was committed is found by its operation ids.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::caller::Caller;
use super::{Answer, Failure, Ticket};
use crate::domain::{AccountId, OperationId};
use crate::store::{
    Job, Ledger, Locking, Outcome, SERIALIZATION_ATTEMPTS_MAX, StoreError, Verdict, pause_after,
};

/// How often a batch is tried before its callers are told.
const ATTEMPTS_MAX: u32 = 6;
/// The longest that a repetition waits for the locks of a commit whose answer was lost.
const OWN_COMMIT_WAIT_MAX: Duration = Duration::from_millis(1000);

/// The commands that found an account locked from outside. All others of their batch are answered.
pub(super) type SteppedAside = Vec<(AccountId, Ticket)>;

/// Executes the commands and answers them.
pub(super) async fn run<L: Ledger>(
    ledger: Arc<L>,
    tickets: Vec<Ticket>,
    locking: Locking,
) -> SteppedAside {
    let (jobs, waiting): (Vec<Job>, Vec<Waiting>) =
        tickets.into_iter().map(Waiting::from_ticket).unzip();
    let results = execute(&*ledger, &jobs, &locking).await;
    let mut stepped_aside = Vec::new();
    for ((job, waiting), result) in jobs.into_iter().zip(waiting).zip(results) {
        let ticket = waiting.into_ticket(job);
        match result {
            Ok(Verdict::Decided(decision)) => ticket.answer(Answer::Decided(decision)),
            Ok(Verdict::Contended(account_id)) => stepped_aside.push((account_id, ticket)),
            // The caller withdrew it, so the caller has its answer.
            Ok(Verdict::Withdrawn) => {}
            Err(failure) => ticket.answer(Answer::Failed(failure)),
        }
    }
    stepped_aside
}

/// A ticket without its job.
struct Waiting {
    caller: Caller,
    deadline: Instant,
    lock_wait_end: Option<Instant>,
}

impl Waiting {
    fn from_ticket(ticket: Ticket) -> (Job, Self) {
        let Ticket {
            job,
            caller,
            deadline,
            lock_wait_end,
            // They say where it waits; from now on, if at all, it waits for a lock.
            number: _,
            waits_for: _,
            detours: _,
            reserved: _,
        } = ticket;
        (
            job,
            Self {
                caller,
                deadline,
                lock_wait_end,
            },
        )
    }

    fn into_ticket(self, job: Job) -> Ticket {
        let Self {
            caller,
            deadline,
            lock_wait_end,
        } = self;
        Ticket {
            lock_wait_end,
            ..Ticket::new(job, caller, deadline)
        }
    }
}

type Results = Vec<Result<Verdict, Failure>>;

async fn execute<L: Ledger>(ledger: &L, jobs: &[Job], locking: &Locking) -> Results {
    match attempt(ledger, jobs, locking).await {
        Ok(results) => results,
        Err(error) if jobs.len() > 1 && is_worth_singling_out(&error, locking) => {
            tracing::warn!(%error, commands = jobs.len(), "a batch failed; its commands run one by one");
            let mut results = Vec::with_capacity(jobs.len());
            for job in jobs.chunks(1) {
                match attempt(ledger, job, locking).await {
                    Ok(result) => results.extend(result),
                    Err(error) => results.push(failed(&error, locking)),
                }
            }
            results
        }
        Err(error) => jobs.iter().map(|_| failed(&error, locking)).collect(),
    }
}

/// Whether single commands may succeed where their batch failed.
fn is_worth_singling_out(error: &StoreError, locking: &Locking) -> bool {
    match error {
        StoreError::Rejected { .. }
        | StoreError::Duplicate { .. }
        | StoreError::Corrupt(_)
        | StoreError::StatementTimeout => true,
        // Without waiting for accounts, only an operation id that somebody else is just inserting takes so long.
        StoreError::LockTimeout => *locking == Locking::Skip,
        // It was repeated for long enough.
        StoreError::Serialization
        | StoreError::Deadline { .. }
        | StoreError::Exhausted
        | StoreError::Unavailable { .. } => false,
    }
}

/// Executes a batch, again while that may help.
async fn attempt<L: Ledger>(
    ledger: &L,
    jobs: &[Job],
    locking: &Locking,
) -> Result<Results, StoreError> {
    let mut in_doubt: HashSet<OperationId> = HashSet::new();
    let mut attempts = 0;
    loop {
        attempts += 1;
        let doubtful = (!in_doubt.is_empty())
            .then(|| wait_for_own_commit(jobs))
            .flatten();
        let error = match ledger
            .execute(jobs, doubtful.as_ref().unwrap_or(locking))
            .await
        {
            Ok(verdicts) => return Ok(first_answers(jobs, verdicts, in_doubt)),
            Err(error) => error,
        };
        if let StoreError::Unavailable {
            outcome: Outcome::Unknown(operation_ids),
            cause,
        } = &error
        {
            tracing::warn!(
                cause,
                operations = operation_ids.len(),
                "the answer to a commit was lost; resolving it"
            );
            in_doubt.extend(operation_ids.iter().cloned());
        }
        if attempts >= attempts_max(&error)
            || !is_worth_repeating(&error, attempts, !in_doubt.is_empty())
        {
            return Err(match in_doubt.is_empty() {
                true => error,
                false => {
                    let outcome = Outcome::Unknown(in_doubt.into_iter().collect());
                    StoreError::Unavailable {
                        outcome,
                        cause: error.to_string(),
                    }
                }
            });
        }
        if matches!(error, StoreError::Serialization) {
            ledger.retries().note();
            tracing::debug!(
                attempts,
                commands = jobs.len(),
                "a batch lost against another one; again"
            );
        }
        tokio::time::sleep(pause_after(attempts)).await;
    }
}

/// A lost commit may still be under way and hold its locks: the repetition waits for them instead of stepping aside.
fn wait_for_own_commit(jobs: &[Job]) -> Option<Locking> {
    let account_id = jobs.first()?.command.movement.account_ids().next()?.clone();
    Some(Locking::Wait {
        account_id,
        wait_max: OWN_COMMIT_WAIT_MAX,
    })
}

fn is_worth_repeating(error: &StoreError, attempts: u32, in_doubt: bool) -> bool {
    match error {
        StoreError::Serialization | StoreError::Duplicate { .. } => true,
        // A pooled connection may have died with a restart of the database; the next one is new.
        StoreError::Unavailable { .. } | StoreError::Exhausted => in_doubt || attempts == 1,
        StoreError::LockTimeout
        | StoreError::Deadline { .. }
        | StoreError::StatementTimeout
        | StoreError::Rejected { .. }
        | StoreError::Corrupt(_) => in_doubt,
    }
}

fn attempts_max(error: &StoreError) -> u32 {
    match error {
        StoreError::Serialization => SERIALIZATION_ATTEMPTS_MAX,
        _ => ATTEMPTS_MAX,
    }
}

/// What is known after a repetition. A receipt that was found after a lost commit of our own is the first answer, not a
/// replay; a command that could not be looked at again may have happened in that commit.
fn first_answers(
    jobs: &[Job],
    verdicts: Vec<Verdict>,
    mut in_doubt: HashSet<OperationId>,
) -> Results {
    let first_answer = |(job, mut verdict): (&Job, Verdict)| {
        let is_in_doubt = in_doubt.remove(&job.command.operation_id);
        match &mut verdict {
            Verdict::Decided(Ok(receipt)) if is_in_doubt => receipt.replayed = false,
            Verdict::Contended(_) if is_in_doubt => {
                return Err(Failure::DatabaseUnavailable {
                    outcome_unknown: true,
                });
            }
            _ => {}
        }
        Ok(verdict)
    };
    jobs.iter().zip(verdicts).map(first_answer).collect()
}

fn failed(error: &StoreError, locking: &Locking) -> Result<Verdict, Failure> {
    let account_id = match locking {
        Locking::Wait { account_id, .. } => Some(account_id.clone()),
        Locking::Skip => None,
    };
    Err(match (error, account_id) {
        (StoreError::LockTimeout, Some(account_id)) => return Ok(Verdict::Contended(account_id)),
        (
            StoreError::LockTimeout | StoreError::Serialization | StoreError::Duplicate { .. },
            account_id,
        ) => Failure::Contention { account_id },
        (StoreError::Exhausted, _) => Failure::Overloaded,
        (StoreError::StatementTimeout | StoreError::Deadline { .. }, _) => {
            Failure::DatabaseUnavailable {
                outcome_unknown: false,
            }
        }
        (StoreError::Unavailable { outcome, cause }, _) => {
            tracing::warn!(cause, "the database is unavailable");
            Failure::DatabaseUnavailable {
                outcome_unknown: *outcome != Outcome::None,
            }
        }
        (StoreError::Rejected { .. } | StoreError::Corrupt(_), _) => {
            tracing::error!(%error, "a command cannot be executed");
            Failure::Internal
        }
    })
}
