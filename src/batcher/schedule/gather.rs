//! What goes into the next batch.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;

use tokio::time::Instant;

use super::reservations::BLOCKED_COUNT_MAX;
use super::{
    AccountState, Batch, GATHERED_ENOUGH, GATHERING_MAX, Holder, Schedule, worth_a_batch_beside,
};
use crate::batcher::ticket::Ticket;
use crate::domain::{AccountId, Set};
use crate::store::Ledger;

/// The search for jobs that can use granted locks ends after this many that need another account too.
const BLOCKED_JOBS_MAX: usize = 64;
/// The same for the accounts of these jobs, of which each may have many.
const BLOCKED_ACCOUNTS_MAX: usize = 4096;

/// A batch that is being gathered, or ready to start.
pub(super) struct Gathered {
    lane: Holder,
    pub(super) tickets: Vec<Ticket>,
    /// The sum of the weights of its jobs.
    weight: usize,
    /// Its accounts; they are its own from the moment they are taken.
    account_ids: Vec<AccountId>,
}

impl Gathered {
    fn new(lane: Holder) -> Self {
        Self {
            lane,
            tickets: Vec::new(),
            weight: 0,
            account_ids: Vec::new(),
        }
    }

    /// Whether the job still goes into a batch of at most this weight. One that is heavier than a batch is a batch by itself.
    fn has_room_for(&self, ticket: &Ticket, weight_max: usize) -> bool {
        self.tickets.is_empty() || self.weight + ticket.job.weight() <= weight_max
    }

    /// The jobs, and the batch that they are from now on.
    pub(super) fn start(self) -> (Vec<Ticket>, Batch) {
        let batch = Batch {
            lane: self.lane,
            account_ids: self.account_ids,
            weight: self.weight,
            started: Instant::now(),
        };
        (self.tickets, batch)
    }
}

impl<L: Ledger> Schedule<L> {
    /// As much as each lane has if all have the same. A batch that takes all there is leaves the other lanes
    /// with little to do until it ends.
    fn share(&self, now: Instant) -> usize {
        let (in_time, late): (Vec<&Batch>, Vec<&Batch>) = self
            .batches()
            .partition(|batch| now - batch.started < GATHERING_MAX);
        let running: usize = in_time.iter().map(|batch| batch.weight).sum();
        let lanes = self.config.lanes.saturating_sub(late.len()).max(1);
        let share = (self.ready_weight() + running).div_ceil(lanes);
        share.max(GATHERED_ENOUGH)
    }

    /// The next batch: a lane's share of the jobs on free accounts, and further jobs that no other lane could do or would
    /// begin with.
    pub(super) fn gather(&mut self) -> Gathered {
        let mut gathered = self.begin_gathering();
        self.gather_ready(&mut gathered);
        self.end_gathering();
        gathered
    }

    /// The batch that makes use of granted locks: all jobs that wait for these accounts, and others as for any batch.
    /// Empty if none of those can go now.
    pub(super) fn gather_for(&mut self, account_ids: &[AccountId]) -> Gathered {
        let mut gathered = self.begin_gathering();
        self.hand_over(account_ids, gathered.lane);
        self.gather_waiting(account_ids, &mut gathered);
        if gathered.tickets.is_empty() {
            self.hand_over(account_ids, Holder::GrantedLock);
        } else {
            gathered.account_ids.extend_from_slice(account_ids);
            self.gather_ready(&mut gathered);
            // Jobs that were ready may be older than those that waited for a granted lock.
            gathered.tickets.sort_by_key(Ticket::number);
        }
        self.end_gathering();
        gathered
    }

    /// Gives accounts whose locks were granted to somebody else.
    fn hand_over(&mut self, account_ids: &[AccountId], holder: Holder) {
        for account_id in account_ids {
            if let Some(account) = self.accounts.get_mut(account_id) {
                account.holder = holder;
            }
        }
    }

    fn begin_gathering(&mut self) -> Gathered {
        self.batch_count += 1;
        self.gathering = Holder::Lane(self.batch_count);
        Gathered::new(self.gathering)
    }

    /// The jobs that wait for the accounts of a complete batch wait on.
    fn end_gathering(&mut self) {
        self.gathering = Holder::Nobody;
        for account_id in std::mem::take(&mut self.open_for_gathering) {
            self.refresh_ready(&account_id);
        }
    }

    /// Adds the jobs that wait for granted accounts, oldest first.
    fn gather_waiting(&mut self, account_ids: &[AccountId], gathered: &mut Gathered) {
        let now = Instant::now();
        let first_at = |schedule: &Self, id: &AccountId| {
            let account = schedule.accounts.get(id)?;
            account.waiting.first_number()
        };
        let oldest = account_ids.iter();
        let oldest = oldest.filter_map(|id| Some((first_at(self, id)?, id)));
        let mut oldest: BTreeMap<u64, &AccountId> = oldest.collect();
        let mut blocked: Vec<(&AccountId, Ticket)> = Vec::new();
        let mut blocked_accounts = 0;
        while gathered.weight < self.config.batch_size_max
            && blocked.len() < BLOCKED_JOBS_MAX
            && blocked_accounts < BLOCKED_ACCOUNTS_MAX
            && let Some((_, account_id)) = oldest.pop_first()
            && let Some(mut ticket) = self.take_waiting(account_id)
        {
            if !gathered.has_room_for(&ticket, self.config.batch_size_max) {
                self.put_back(account_id, ticket);
                break;
            }
            if let Some(next) = first_at(self, account_id) {
                oldest.insert(next, account_id);
            }
            if self.end_if_pointless(&mut ticket, now) {
                ticket.end();
                continue;
            }
            let Some(obstacle) = self.obstacle_beside(&ticket, gathered.lane) else {
                self.note_overtaken_by(&ticket);
                self.take_into(ticket, gathered);
                continue;
            };
            match self.holder(&obstacle) {
                // It may wait long for that one, and does not need this one meanwhile.
                Holder::OtherSession => {
                    self.wait_at(ticket, obstacle);
                    continue;
                }
                Holder::Quarantine => {}
                // The granted lock is not kept for long: its other accounts have to be free soon.
                Holder::Nobody | Holder::Lane(_) | Holder::GrantedLock if blocked.is_empty() => {
                    self.reserve(&mut ticket);
                }
                Holder::Nobody | Holder::Lane(_) | Holder::GrantedLock => {}
            }
            blocked_accounts += ticket.account_ids().len();
            blocked.push((account_id, ticket));
        }
        for (account_id, ticket) in blocked {
            self.put_back(account_id, ticket);
        }
    }

    /// Adds ready jobs, oldest first.
    fn gather_ready(&mut self, gathered: &mut Gathered) {
        let lane = gathered.lane;
        let now = Instant::now();
        let weight_max = self.config.batch_size_max;
        let share = self.share(now);
        let (mut left, mut left_weight, mut left_on) = (Vec::new(), 0, Set::default());
        while gathered.weight.max(left_weight) < weight_max {
            let Some(mut ticket) = self.pop_ready() else {
                break;
            };
            if self.end_if_pointless(&mut ticket, now) {
                ticket.end();
                continue;
            }
            if let Some(account_id) = self.obstacle_beside(&ticket, lane) {
                self.wait_at(ticket, account_id);
                continue;
            }
            if !gathered.has_room_for(&ticket, weight_max) {
                // The next batch begins with it.
                self.ready_jobs.insert(ticket);
                break;
            }
            if gathered.weight >= share {
                let mut account_ids = ticket.account_ids().iter();
                let is_on_taken = account_ids.any(|id| self.holder(id) == lane);
                // None goes before an older one on its account.
                if !is_on_taken || ticket.account_ids().iter().any(|id| left_on.contains(id)) {
                    left_on.extend(ticket.account_ids().iter().cloned());
                    left_weight += ticket.job.weight();
                    left.push(ticket);
                    continue;
                }
            }
            if let Some(ticket) = self.wait_at_operation(ticket) {
                self.take_into(ticket, gathered);
            }
        }
        let mut is_leaving = left_weight >= worth_a_batch_beside(gathered.weight);
        for ticket in left {
            // Meanwhile its account may have been reserved; those after it may be on its other account.
            is_leaving |= !gathered.has_room_for(&ticket, weight_max);
            is_leaving |= self.obstacle_beside(&ticket, lane).is_some();
            if is_leaving {
                self.ready_jobs.insert(ticket);
            } else {
                self.take_into(ticket, gathered);
            }
        }
    }

    /// Adds a job to a batch and gives its accounts to the lane. What waits for one of them may still go into the same batch.
    fn take_into(&mut self, mut ticket: Ticket, gathered: &mut Gathered) {
        self.unreserve(&mut ticket);
        let lane = gathered.lane;
        for account_id in ticket.account_ids() {
            let is_waited_for = match self.accounts.entry(account_id.clone()) {
                Entry::Vacant(vacant) => {
                    vacant.insert(AccountState::by(lane));
                    false
                }
                Entry::Occupied(mut occupied) => {
                    let account = occupied.get_mut();
                    if std::mem::replace(&mut account.holder, lane) == lane {
                        continue;
                    }
                    !account.waiting.is_empty()
                }
            };
            if is_waited_for {
                self.refresh_ready(account_id);
            }
            gathered.account_ids.push(account_id.clone());
        }
        self.waiting_count -= 1;
        gathered.weight += ticket.job.weight();
        gathered.tickets.push(ticket);
    }

    /// A batch by itself.
    pub(super) fn gather_alone(&mut self, ticket: Ticket) -> Gathered {
        let mut gathered = self.begin_gathering();
        self.take_into(ticket, &mut gathered);
        self.end_gathering();
        gathered
    }

    /// A job with a granted lock goes before older ones that wait for its other accounts. It counts as if they were blocked.
    fn note_overtaken_by(&mut self, ticket: &Ticket) {
        for account_id in ticket.account_ids() {
            let Some(account) = self.accounts.get_mut(account_id) else {
                continue;
            };
            let is_overtaken = account.holder == Holder::Nobody
                && account.waiting.first_number() < Some(ticket.number());
            if !is_overtaken {
                continue;
            }
            let Some(mut older) = account.waiting.pop_first() else {
                continue;
            };
            older.progress.blocked_count += 1;
            if older.progress.blocked_count > BLOCKED_COUNT_MAX {
                self.reserve(&mut older);
            }
            self.put_back(account_id, older);
            self.refresh_ready(account_id);
        }
    }
}
