//! What goes into the next batch.

use std::collections::hash_map::Entry;

use tokio::time::Instant;

use super::{
    BLOCKED_COUNT_MAX, Batch, GATHERED_ENOUGH, GATHERING_MAX, Held, Holder, Schedule,
    worth_a_batch_beside,
};
use crate::batcher::Ticket;
use crate::domain::{AccountId, Set};
use crate::store::Ledger;

/// A batch that is being gathered.
struct Gathering {
    lane: Holder,
    tickets: Vec<Ticket>,
    /// The accounts in its hands.
    taken: Vec<AccountId>,
    /// Those of them that commands wait for which may still go along.
    fronted: Vec<AccountId>,
}

impl Gathering {
    fn new(lane: Holder) -> Self {
        Self {
            lane,
            tickets: Vec::new(),
            taken: Vec::new(),
            fronted: Vec::new(),
        }
    }
}

impl<L: Ledger> Schedule<L> {
    /// As many commands as each lane has if all have the same. A batch that takes all there are leaves the other lanes
    /// with little to do until it ends.
    pub(super) fn share(&self, now: Instant) -> usize {
        let (in_time, in_trouble): (Vec<&Batch>, Vec<&Batch>) = self
            .batches()
            .partition(|batch| now - batch.started < GATHERING_MAX);
        let running: usize = in_time.iter().map(|batch| batch.size).sum();
        let lanes = self.config.lanes.saturating_sub(in_trouble.len()).max(1);
        let share = (self.ready_count + running).div_ceil(lanes);
        share.max(GATHERED_ENOUGH)
    }

    /// The next batch: a lane's share of the commands on free accounts, and further commands that no other lane could do or
    /// would begin with. Its accounts, which are returned with it, are in its hands from now on.
    pub(super) fn gather(&mut self) -> (Vec<Ticket>, Vec<AccountId>) {
        self.batch_count += 1;
        let mut gathering = Gathering::new(Holder::Lane(self.batch_count));
        self.gather_ready(&mut gathering);
        self.end_gathering(gathering)
    }

    /// The batch that makes use of granted locks: all commands that wait for these accounts, and others as for any batch.
    /// Empty if none of those can go now.
    pub(super) fn gather_for(
        &mut self,
        account_ids: &[AccountId],
    ) -> (Vec<Ticket>, Vec<AccountId>) {
        self.batch_count += 1;
        let mut gathering = Gathering::new(Holder::Lane(self.batch_count));
        for account_id in account_ids {
            if let Some(held) = self.held.get_mut(account_id) {
                held.holder = gathering.lane;
            }
        }
        let now = Instant::now();
        let mut blocked = Vec::new();
        while gathering.tickets.len() < self.config.batch_size_max
            && blocked.len() < BLOCKED_COUNT_MAX
            && let Some(account_id) = self.with_the_oldest_parked(account_ids)
            && let Some(mut ticket) = self.unpark(account_id)
        {
            if self.end_if_pointless(&ticket, now) {
                ticket.end();
            } else if self.obstacle_beside(&ticket, gathering.lane).is_some() {
                blocked.push((account_id, ticket));
            } else {
                self.take_into(&mut ticket, &mut gathering);
                gathering.tickets.push(ticket);
            }
        }
        for (account_id, ticket) in blocked {
            self.repark(account_id, ticket);
        }
        if gathering.tickets.is_empty() {
            for account_id in account_ids {
                if let Some(held) = self.held.get_mut(account_id) {
                    held.holder = Holder::Hold;
                }
            }
            return (Vec::new(), Vec::new());
        }
        gathering.taken.extend_from_slice(account_ids);
        self.gather_ready(&mut gathering);
        self.end_gathering(gathering)
    }

    /// Of these accounts the one for which the oldest command waits.
    fn with_the_oldest_parked<'a>(&self, account_ids: &'a [AccountId]) -> Option<&'a AccountId> {
        let oldest = |id: &'a AccountId| {
            let (number, _) = self.held.get(id)?.parked.first_key_value()?;
            Some((*number, id))
        };
        let oldest = account_ids.iter().filter_map(oldest);
        oldest.min_by_key(|(number, _)| *number).map(|(_, id)| id)
    }

    fn gather_ready(&mut self, gathering: &mut Gathering) {
        let lane = gathering.lane;
        let now = Instant::now();
        let share = self.share(now);
        let (mut left, mut left_on) = (Vec::new(), Set::default());
        while gathering.tickets.len().max(left.len()) < self.config.batch_size_max {
            let Some(ticket) = self.pop_ready() else {
                break;
            };
            if self.end_if_pointless(&ticket, now) {
                ticket.end();
                continue;
            }
            if let Some(account_id) = self.obstacle_beside(&ticket, lane) {
                self.park(ticket, account_id);
                continue;
            }
            if gathering.tickets.len() >= share {
                let is_on_taken = ticket.account_ids().any(|id| self.holder(id) == lane);
                // None goes before an older one on its account.
                if !is_on_taken || ticket.account_ids().any(|id| left_on.contains(id)) {
                    left_on.extend(ticket.account_ids().cloned());
                    left.push(ticket);
                    continue;
                }
            }
            let Some(mut ticket) = self.park_at_operation(ticket) else {
                continue;
            };
            self.take_into(&mut ticket, gathering);
            gathering.tickets.push(ticket);
        }
        let mut is_leaving = left.len() >= worth_a_batch_beside(gathering.tickets.len());
        for mut ticket in left {
            // Meanwhile its account may have been kept free for another one; those after it may be on its other account.
            is_leaving |= gathering.tickets.len() == self.config.batch_size_max;
            is_leaving |= self.obstacle_beside(&ticket, lane).is_some();
            if is_leaving {
                self.make_ready(ticket);
                continue;
            }
            self.take_into(&mut ticket, gathering);
            gathering.tickets.push(ticket);
        }
    }

    fn end_gathering(&mut self, gathering: Gathering) -> (Vec<Ticket>, Vec<AccountId>) {
        self.waiting -= gathering.tickets.len();
        for account_id in &gathering.fronted {
            self.close_front(account_id);
        }
        (gathering.tickets, gathering.taken)
    }

    fn take_into(&mut self, ticket: &mut Ticket, gathering: &mut Gathering) {
        let Gathering {
            lane,
            taken,
            fronted,
            ..
        } = gathering;
        self.take(ticket, *lane, taken, fronted);
    }

    /// Gives a command's accounts to the lane that gathers, and adds those to `taken` that it did not have yet. What waits
    /// for one may still go into the same batch: it stays among the `fronts` until that is complete, see `fronted`.
    pub(super) fn take(
        &mut self,
        ticket: &mut Ticket,
        lane: Holder,
        taken: &mut Vec<AccountId>,
        fronted: &mut Vec<AccountId>,
    ) {
        if ticket.waiting.reserved.take().is_some() {
            self.reserved_count -= 1;
        }
        for account_id in ticket.job.command.account_ids() {
            match self.held.entry(account_id.clone()) {
                Entry::Vacant(vacant) => drop(vacant.insert(Held::by(lane))),
                Entry::Occupied(occupied) if occupied.get().holder == lane => continue,
                Entry::Occupied(mut occupied) => {
                    let held = occupied.get_mut();
                    if held.holder == Holder::Nobody {
                        fronted.push(account_id.clone());
                    }
                    held.holder = lane;
                }
            }
            taken.push(account_id.clone());
        }
    }
}
