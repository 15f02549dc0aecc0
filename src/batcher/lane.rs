//! A lane: one batch on its way through the ledger, with what is done when that fails.
//!
//! A batch that lost a race is repeated, bounded and jittered. A batch that the database rejected, or could not finish
//! in time, is repeated in halves, so that one job that always fails does not make its neighbours fail and
//! costs them few transactions. A commit whose answer was lost is resolved by repeating it: what was committed is found by its
//! operation ids.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::Failure;
use super::ticket::Ticket;
use crate::domain::{AccountId, OperationId, Set, Timestamp};
use crate::store::{
    InDoubt, Job, Ledger, Locking, Observer, Outcome, SERIALIZATION_ATTEMPTS_MAX, StoreError,
    Verdict, pause_after,
};

/// How often a batch is tried before its callers are told.
const ATTEMPTS_MAX: u32 = 6;
/// The longest that a repetition waits for the locks of a commit whose answer was lost.
const OWN_COMMIT_WAIT_MAX: Duration = Duration::from_millis(1000);

/// What a batch leaves behind. All jobs that are not in here are answered.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// The jobs that have to wait for an account that another session has locked.
    pub(super) contended: Vec<(AccountId, Ticket)>,
    /// The jobs that have to wait for another session, which is about to record one of their operation ids.
    pub(super) obstructed: Vec<Ticket>,
    /// The accounts of jobs that the database rejects alone, without those of jobs that it executed.
    pub(super) suspects: Vec<AccountId>,
    /// Whether it executed any.
    pub(super) has_decided: bool,
}

/// Executes the jobs and answers them.
pub(super) async fn run<L: Ledger>(
    ledger: Arc<L>,
    observer: Observer,
    tickets: Vec<Ticket>,
    locking: Locking<L::Hold>,
) -> Ended {
    let (jobs, progress): (Vec<Job>, Vec<_>) = tickets.into_iter().map(Ticket::split).unzip();
    let ends = execute(&*ledger, &observer, &jobs, locking).await;
    let mut ended = Ended {
        suspects: suspects(&jobs, &ends),
        ..Ended::default()
    };
    for ((job, progress), end) in jobs.into_iter().zip(progress).zip(ends) {
        let ticket = Ticket::join(job, progress);
        match end {
            End::Verdict(Verdict::Decided(decision)) => {
                ended.has_decided = true;
                ticket.decide(decision);
            }
            End::Verdict(Verdict::GroupDecided(decision)) => {
                ended.has_decided = true;
                ticket.decide_group(decision);
            }
            End::Verdict(Verdict::Contended(account_id)) => {
                ended.contended.push((account_id, ticket));
            }
            End::Obstructed => ended.obstructed.push(ticket),
            // Mostly the caller withdrew it and has its answer; one whose deadline passed meanwhile is told so.
            End::Verdict(Verdict::Withdrawn) => ticket.end(),
            End::Failed { failure, .. } => ticket.fail(failure),
        }
    }
    ended
}

/// What became of one job.
#[derive(Debug, Clone)]
enum End {
    Verdict(Verdict),
    /// One of its operation ids is about to be recorded by another session.
    Obstructed,
    Failed {
        failure: Failure,
        /// The database would reject it again, and all that is in one transaction with it.
        is_poisonous: bool,
    },
}

impl End {
    fn is_decided(&self) -> bool {
        matches!(
            self,
            Self::Verdict(Verdict::Decided(_) | Verdict::GroupDecided(_))
        )
    }
}

fn suspects(jobs: &[Job], ends: &[End]) -> Vec<AccountId> {
    let account_ids_of = |is_meant: fn(&End) -> bool| {
        let meant = jobs.iter().zip(ends).filter(move |(_, end)| is_meant(end));
        meant.flat_map(|(job, _)| job.account_ids())
    };
    let is_poisonous = |end: &End| matches!(end, End::Failed { is_poisonous, .. } if *is_poisonous);
    if !ends.iter().any(is_poisonous) {
        return Vec::new();
    }
    let executed: Set<&AccountId> = account_ids_of(End::is_decided).collect();
    let suspects: Set<&AccountId> = account_ids_of(is_poisonous).collect();
    suspects.difference(&executed).copied().cloned().collect()
}

async fn execute<L: Ledger>(
    ledger: &L,
    observer: &Observer,
    jobs: &[Job],
    locking: Locking<L::Hold>,
) -> Vec<End> {
    let mut locking = Some(locking);
    let mut ends: Vec<End> = Vec::with_capacity(jobs.len());
    // The parts that are still to be executed, the next one last.
    let mut parts: Vec<Range<usize>> = Vec::new();
    parts.push(0..jobs.len());
    while let Some(part) = parts.pop() {
        let locking = locking.take().unwrap_or(Locking::Skip);
        let error = match attempt(ledger, observer, &jobs[part.clone()], locking).await {
            Ok(verdicts) => {
                ends.extend(verdicts);
                continue;
            }
            Err(error) => error,
        };
        if part.len() > 1 && is_worth_halving(&error) {
            if part.len() == jobs.len() {
                tracing::warn!(%error, jobs = jobs.len(), "a batch failed; it is repeated in halves");
            }
            let middle = part.start + part.len() / 2;
            parts.push(middle..part.end);
            parts.push(part.start..middle);
            continue;
        }
        let is_down = matches!(error, StoreError::Unavailable { .. });
        let first = jobs.get(part.start).and_then(|job| job.commands().first());
        let operation_id = first.map(|command| &command.operation_id);
        ends.extend(std::iter::repeat_n(
            failed(&error, operation_id),
            part.len(),
        ));
        // What is left would only wait for the same database.
        if is_down && !parts.is_empty() {
            let nothing_sent = StoreError::unavailable(error);
            ends.extend(std::iter::repeat_n(
                failed(&nothing_sent, None),
                jobs.len() - ends.len(),
            ));
            break;
        }
    }
    ends
}

/// Whether a part of a batch may succeed where all of it failed.
fn is_worth_halving(error: &StoreError) -> bool {
    match error {
        StoreError::Rejected { .. }
        | StoreError::Duplicate { .. }
        | StoreError::Corrupt(_)
        | StoreError::StatementTimeout
        // Locked accounts are skipped, so this was an operation id that somebody else is about to record.
        | StoreError::LockTimeout => true,
        // It was repeated for long enough, or would meet the same.
        StoreError::Serialization
        | StoreError::TableLocked
        | StoreError::Deadline { .. }
        | StoreError::Exhausted
        | StoreError::Unavailable { .. } => false,
    }
}

/// Operations whose commit was lost, with the times at which this instance decided them.
type AllInDoubt = HashMap<OperationId, Vec<Timestamp>>;

/// Executes a batch, again while that may help.
async fn attempt<L: Ledger>(
    ledger: &L,
    observer: &Observer,
    jobs: &[Job],
    locking: Locking<L::Hold>,
) -> Result<Vec<End>, StoreError> {
    let mut in_doubt = AllInDoubt::new();
    let mut locking = Some(locking);
    let mut attempts = 0;
    loop {
        attempts += 1;
        let executed = match witness(jobs, &in_doubt) {
            None => {
                let locking = locking.take().unwrap_or(Locking::Skip);
                ledger.execute(jobs, locking).await
            }
            // The lost commit may still be under way. It held the locks of all its accounts to its end, so it has ended
            // when one of them is granted.
            Some(account_id) => {
                let account_ids = std::slice::from_ref(account_id);
                let awaited = ledger.await_accounts(account_ids, &[], OWN_COMMIT_WAIT_MAX);
                match awaited.await {
                    Ok(hold) => ledger.execute(jobs, Locking::Held(hold)).await,
                    Err(error) => Err(error),
                }
            }
        };
        let error = match executed {
            Ok(verdicts) => return Ok(first_answers(jobs, verdicts, in_doubt)),
            Err(error) => error,
        };
        if let StoreError::Unavailable {
            outcome: Outcome::Unknown(operations),
            cause,
        } = &error
        {
            tracing::warn!(
                cause,
                operations = operations.len(),
                "the answer to a commit was lost; resolving it"
            );
            for operation in operations {
                let times = in_doubt.entry(operation.operation_id.clone());
                times.or_default().push(operation.create_time);
            }
        }
        if attempts >= attempts_max(&error)
            || !is_worth_repeating(&error, attempts, !in_doubt.is_empty())
        {
            return Err(match in_doubt.is_empty() {
                true => error,
                false => StoreError::Unavailable {
                    outcome: Outcome::Unknown(all_of(in_doubt)),
                    cause: error.to_string(),
                },
            });
        }
        if matches!(error, StoreError::Serialization) {
            observer.retries().note();
            tracing::debug!(
                attempts,
                jobs = jobs.len(),
                "a batch conflicted with another transaction; it is repeated"
            );
        }
        tokio::time::sleep(pause_after(attempts)).await;
    }
}

fn all_of(in_doubt: AllInDoubt) -> Vec<InDoubt> {
    let each = |(operation_id, times): (OperationId, Vec<Timestamp>)| {
        times.into_iter().map(move |create_time| InDoubt {
            operation_id: operation_id.clone(),
            create_time,
        })
    };
    in_doubt.into_iter().flat_map(each).collect()
}

/// An account whose lock the lost commit held; `None`: no commit was lost.
fn witness<'a>(jobs: &'a [Job], in_doubt: &AllInDoubt) -> Option<&'a AccountId> {
    if in_doubt.is_empty() {
        return None;
    }
    let job = jobs.iter().find(|job| is_in_doubt(job, in_doubt))?;
    job.account_ids().first()
}

fn is_in_doubt(job: &Job, in_doubt: &AllInDoubt) -> bool {
    let mut commands = job.commands().iter();
    commands.any(|command| in_doubt.contains_key(&command.operation_id))
}

fn is_worth_repeating(error: &StoreError, attempts: u32, in_doubt: bool) -> bool {
    match error {
        StoreError::Serialization => true,
        // A pooled connection may have died with a restart of the database; the next one is new.
        StoreError::Unavailable { .. } | StoreError::Exhausted => in_doubt || attempts == 1,
        StoreError::LockTimeout
        | StoreError::TableLocked
        | StoreError::Deadline { .. }
        | StoreError::StatementTimeout
        | StoreError::Duplicate { .. }
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

/// What is known after a repetition. A receipt of a lost commit of our own is the first answer, not a replay; one that
/// another instance recorded meanwhile is a replay. A job that could not be looked at again may have happened in the
/// lost commit.
fn first_answers(jobs: &[Job], verdicts: Vec<Verdict>, mut in_doubt: AllInDoubt) -> Vec<End> {
    if in_doubt.is_empty() {
        return verdicts.into_iter().map(End::Verdict).collect();
    }
    let first_answer = |(job, mut verdict): (&Job, Verdict)| {
        if matches!(verdict, Verdict::Contended(_)) && is_in_doubt(job, &in_doubt) {
            return End::Failed {
                failure: Failure::DatabaseUnavailable {
                    outcome_unknown: true,
                },
                is_poisonous: false,
            };
        }
        let receipts = match &mut verdict {
            Verdict::Decided(Ok(receipt)) => std::slice::from_mut(receipt),
            Verdict::GroupDecided(Ok(receipts)) => receipts,
            Verdict::Decided(Err(_))
            | Verdict::GroupDecided(Err(_))
            | Verdict::Contended(_)
            | Verdict::Withdrawn => &mut [],
        };
        for receipt in receipts {
            // The second of two equal commands in one batch replays the first.
            let times = in_doubt.remove(&receipt.operation.command.operation_id);
            if times.is_some_and(|times| times.contains(&receipt.operation.create_time)) {
                receipt.replayed = false;
            }
        }
        End::Verdict(verdict)
    };
    jobs.iter().zip(verdicts).map(first_answer).collect()
}

/// `operation_id` is for the log; the first one, if there are several.
fn failed(error: &StoreError, operation_id: Option<&OperationId>) -> End {
    let (failure, is_poisonous) = match error {
        StoreError::LockTimeout => return End::Obstructed,
        StoreError::Serialization | StoreError::TableLocked => {
            (Failure::Contention { account_id: None }, false)
        }
        StoreError::Exhausted => (Failure::Overloaded, false),
        StoreError::StatementTimeout => {
            let failure = Failure::DatabaseUnavailable {
                outcome_unknown: false,
            };
            (failure, true)
        }
        StoreError::Deadline { .. } => {
            let failure = Failure::DatabaseUnavailable {
                outcome_unknown: false,
            };
            (failure, false)
        }
        StoreError::Unavailable { outcome, cause } => {
            tracing::warn!(cause, "the database is unavailable");
            let failure = Failure::DatabaseUnavailable {
                outcome_unknown: *outcome != Outcome::None,
            };
            (failure, false)
        }
        StoreError::Rejected { .. } | StoreError::Corrupt(_) | StoreError::Duplicate { .. } => {
            let operation_id = operation_id.map(OperationId::as_str);
            tracing::error!(operation_id, %error, "a command cannot be executed");
            (Failure::Internal, true)
        }
    };
    End::Failed {
        failure,
        is_poisonous,
    }
}
