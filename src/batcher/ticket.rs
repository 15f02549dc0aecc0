//! A ticket: a job in the queue, who waits for its answer, and how far it is.

use tokio::time::Instant;

use super::Failure;
use super::caller::Caller;
use crate::domain::AccountId;
use crate::store::{Decision, GroupDecision, Job};

/// See the module.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) job: Job,
    pub(super) progress: Progress,
}

/// What a ticket is besides its job.
#[derive(Debug)]
pub(super) struct Progress {
    caller: Caller,
    arrived: Instant,
    /// Its place in the order in which jobs came; 0 until the schedule has it.
    pub(super) number: u64,
    /// When its lock wait ends; set when it first has to wait for another session.
    pub(super) lock_wait_end: Option<Instant>,
    /// How often it was deferred: began to wait for an account that another session holds.
    pub(super) deferral_count: u32,
    /// How often its batch failed because another session was about to record one of its operation ids.
    pub(super) obstruction_count: u32,
    /// The account that it waits for, or waited for last.
    pub(super) waits_for: Option<AccountId>,
    /// How often it had to wait for another account than before.
    pub(super) blocked_count: u32,
    /// Whether its accounts are reserved for it.
    pub(super) has_reserved: bool,
}

impl Ticket {
    /// A ticket that arrives now.
    pub(super) fn new(job: Job, caller: impl Into<Caller>, now: Instant) -> Self {
        Self {
            job,
            progress: Progress {
                caller: caller.into(),
                arrived: now,
                number: 0,
                lock_wait_end: None,
                deferral_count: 0,
                obstruction_count: 0,
                waits_for: None,
                blocked_count: 0,
                has_reserved: false,
            },
        }
    }

    pub(super) fn split(self) -> (Job, Progress) {
        (self.job, self.progress)
    }

    pub(super) fn join(job: Job, progress: Progress) -> Self {
        Self { job, progress }
    }

    /// Its place in the order in which jobs came.
    pub(super) fn number(&self) -> u64 {
        self.progress.number
    }

    /// Since when it waits.
    pub(super) fn arrived(&self) -> Instant {
        self.progress.arrived
    }

    /// The accounts that it needs, sorted.
    pub(super) fn account_ids(&self) -> &[AccountId] {
        self.job.account_ids()
    }

    /// Withdraws the job if nobody waits for the answer any more, or the deadline has passed. False: it goes on.
    pub(super) fn withdraw_if_pointless(&self, now: Instant) -> bool {
        let claim = &self.job.claim;
        let is_pointless = || self.job.deadline <= now || self.progress.caller.is_gone();
        claim.is_withdrawn() || (is_pointless() && claim.withdraw())
    }

    /// Tells the caller, if it still listens, that the deadline passed and nothing happened.
    pub(super) fn end(self) {
        self.fail(Failure::NEVER_SENT);
    }

    /// Tells the caller what went wrong.
    pub(super) fn fail(self, failure: Failure) {
        self.progress.caller.tell_failure(failure);
    }

    /// Tells the caller how its command was decided.
    pub(super) fn decide(self, decision: Decision) {
        self.progress.caller.tell_decision(decision);
    }

    /// Tells the caller how its group was decided.
    pub(super) fn decide_group(self, decision: GroupDecision) {
        self.progress.caller.tell_group_decision(decision);
    }
}
