//! Reservations: how a job gets several busy accounts at once.
//!
//! A job that was blocked often, each time by another of its accounts, reserves all of its accounts in one step. A reserved
//! account is free for the job itself and for older ones, and for younger ones only in a batch that has the account anyway.
//!
//! Why no jobs wait for each other in a circle, and none waits for ever:
//!
//! 1. A lane and a granted lock never wait for a job: a batch has all its accounts before it starts, and ends by itself.
//! 2. A job that waits for another session, for a quarantine or for a batch in trouble has no reservations, so whoever waits
//!    because of a reservation waits, directly or through other jobs, only for batches that end soon.
//! 3. Whoever waits for a reserved account waits for an older job; numbers fall along each chain of such waits, so no chain
//!    comes back to where it began, whatever the number of accounts.
//! 4. The oldest waiting job cannot be kept out by a reservation, and after [`BLOCKED_COUNT_MAX`] blocks its own keep all
//!    younger jobs from its accounts, so it is executed at the latest when the batches that have its accounts now have ended.
//! 5. Only finitely many jobs are older than a given one, so by induction each is executed after a bounded number of batches,
//!    times that it waits for other sessions not counted.

use std::time::Duration;

use tokio::time::Instant;

use super::{AccountState, Batch, Holder, Schedule};
use crate::batcher::ticket::Ticket;
use crate::domain::AccountId;
use crate::store::Ledger;

/// How often a job is blocked, each time by another one of its accounts, before it reserves them.
pub(super) const BLOCKED_COUNT_MAX: u32 = 4;
/// A batch that runs for longer is in trouble: no job keeps reservations while it waits for it. Full batches take some tens
/// of milliseconds.
const TROUBLE_AFTER: Duration = Duration::from_secs(1);

impl<L: Ledger> Schedule<L> {
    /// Reserves all accounts of a job.
    pub(super) fn reserve(&mut self, ticket: &mut Ticket) {
        if std::mem::replace(&mut ticket.progress.has_reserved, true) {
            return;
        }
        self.reserving_count += 1;
        for account_id in ticket.account_ids() {
            let account = self.accounts.entry(account_id.clone());
            let account = account.or_insert_with(|| AccountState::by(Holder::Nobody));
            account.reservations.insert(ticket.number());
            self.refresh_ready(account_id);
        }
    }

    /// Gives up the reservations of a job.
    pub(super) fn unreserve(&mut self, ticket: &mut Ticket) {
        if std::mem::take(&mut ticket.progress.has_reserved) {
            self.remove_reservations(ticket.number(), ticket.account_ids());
        }
    }

    fn remove_reservations(&mut self, number: u64, account_ids: &[AccountId]) {
        self.reserving_count -= 1;
        for account_id in account_ids {
            if let Some(account) = self.accounts.get_mut(account_id) {
                account.reservations.remove(&number);
                self.refresh_ready(account_id);
            }
        }
    }

    /// The jobs that wait for an account may wait long from now on: what they reserved is free for others meanwhile.
    pub(super) fn unreserve_for_those_at(&mut self, account_id: &AccountId) {
        if self.reserving_count == 0 {
            return;
        }
        let Some(account) = self.accounts.get_mut(account_id) else {
            return;
        };
        let reserving: Vec<(u64, Vec<AccountId>)> = account
            .waiting
            .iter_mut()
            .filter(|ticket| ticket.progress.has_reserved)
            .map(|ticket| {
                ticket.progress.has_reserved = false;
                (ticket.number(), ticket.account_ids().to_vec())
            })
            .collect();
        for (number, account_ids) in reserving {
            self.remove_reservations(number, &account_ids);
        }
    }

    /// Whether a batch is in trouble, see [`TROUBLE_AFTER`].
    pub(super) fn is_in_trouble(&self, holder: Holder, now: Instant) -> bool {
        let mut batches = self.batches();
        batches.any(|batch| batch.lane == holder && has_trouble(batch, now))
    }

    /// Gives up the reservations of the jobs that wait for a batch in trouble.
    pub(super) fn unreserve_at_trouble(&mut self) {
        if self.reserving_count == 0 {
            return;
        }
        let now = Instant::now();
        let in_trouble = self.batches().filter(|batch| has_trouble(batch, now));
        let account_ids: Vec<AccountId> = in_trouble
            .flat_map(|batch| batch.account_ids.iter().cloned())
            .collect();
        for account_id in account_ids {
            self.unreserve_for_those_at(&account_id);
        }
    }

    /// When a running batch will be in trouble, if that matters to a reservation.
    pub(super) fn next_trouble(&self) -> Option<Instant> {
        if self.reserving_count == 0 {
            return None;
        }
        let now = Instant::now();
        let ends = self.batches().map(|batch| batch.started + TROUBLE_AFTER);
        ends.filter(|end| *end > now).min()
    }
}

fn has_trouble(batch: &Batch, now: Instant) -> bool {
    batch.started + TROUBLE_AFTER <= now
}
