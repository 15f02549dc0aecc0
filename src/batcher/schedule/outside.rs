//! What the schedule does about accounts and operation ids that somebody outside holds: it waits for them, and makes use of the
//! locks that are granted.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::waits::{Awaited, GRANTED_AT_ONCE, IDLE_MAX, IdleHold, Wait};
use super::{Batch, Done, Hand, Held, Holder, STEP_ASIDE_COUNT_MAX, Schedule};
use crate::batcher::{Answer, Failure, Ticket};
use crate::domain::{AccountId, OperationId};
use crate::store::{Ledger, Locking, StoreError};

impl<L: Ledger> Schedule<L> {
    /// Lets a command wait for its operation id, if somebody outside was about to record the id. Returns all other commands.
    pub(super) fn park_at_operation(&mut self, mut ticket: Ticket) -> Option<Ticket> {
        if self.waits.operations.is_empty() {
            return Some(ticket);
        }
        let operation_id = ticket.job.command.operation_id.clone();
        if !self.waits.operations.contains_key(&operation_id) {
            return Some(ticket);
        }
        self.expect_a_long_wait(&mut ticket);
        self.await_operation(operation_id, ticket);
        None
    }

    pub(super) fn await_operation(&mut self, operation_id: OperationId, ticket: Ticket) {
        let awaited = self.waits.operations.entry(operation_id.clone());
        let awaited = awaited.or_insert_with(|| Awaited {
            parked: Vec::new(),
            is_waited_for: false,
            since: Instant::now(),
        });
        awaited.parked.push(ticket);
        awaited.since = Instant::now();
        if !std::mem::replace(&mut awaited.is_waited_for, true) {
            self.waits.push(Wait::Operation(operation_id));
        }
    }

    /// Lets the commands go that wait for granted locks, and gives back the locks that none can use.
    pub(super) fn use_holds(&mut self) {
        if self.waits.idle_holds.is_empty() {
            return;
        }
        let now = Instant::now();
        for idle in std::mem::take(&mut self.waits.idle_holds) {
            let (tickets, taken) = self.gather_for(&idle.account_ids);
            if !tickets.is_empty() {
                let batch = Batch {
                    account_ids: taken,
                    size: tickets.len(),
                    started: now,
                };
                let hand = Hand::Granted {
                    batch,
                    account_ids: idle.account_ids,
                    was_contended: idle.was_contended,
                };
                self.start(tickets, hand, Locking::Held(idle.hold));
                continue;
            }
            let is_wanted = |id| {
                self.held
                    .get(id)
                    .is_some_and(|held| !held.parked.is_empty())
            };
            if idle.end > now && idle.account_ids.iter().any(is_wanted) {
                self.waits.idle_holds.push(idle);
                continue;
            }
            let (ledger, hold) = (self.ledger.clone(), idle.hold);
            let releasing = async move {
                ledger.release(hold).await;
                Done::Released
            };
            let task = self.running.spawn(releasing);
            self.hands
                .insert(task.id(), Hand::Release(idle.account_ids));
        }
    }

    /// Gives each free lock-wait connection something to wait for.
    pub(super) fn start_waits(&mut self) {
        while self.waits.connection_count < self.config.patient_lanes {
            let Some(wait) = self.waits.pop() else {
                return;
            };
            let began = Instant::now();
            let Some(longest) = self.sweep(&wait, began) else {
                continue;
            };
            let connection_count = self.config.patient_lanes;
            let wait_max = self.waits.turn(&wait, longest, connection_count);
            self.waits.connection_count += 1;
            let ledger = self.ledger.clone();
            let waited_for = wait.clone();
            let commands = self.parked_commands(&wait);
            let task = self.running.spawn(Box::pin(async move {
                match waited_for {
                    Wait::Accounts(ids) => {
                        Done::Locks(ledger.await_accounts(&ids, &commands, wait_max).await)
                    }
                    Wait::Operation(id) => {
                        Done::Operation(ledger.await_operation(&id, wait_max).await)
                    }
                }
            }));
            self.hands.insert(task.id(), Hand::Wait { wait, began });
        }
    }

    /// Ends what waited enough for what `wait` is about, and says how long the rest may still wait. `None`: nothing is left,
    /// and nobody waits.
    pub(super) fn sweep(&mut self, wait: &Wait, now: Instant) -> Option<Duration> {
        let lock_wait_max = self.config.lock_wait_max;
        match wait {
            Wait::Accounts(account_ids) => {
                let mut end: Option<Instant> = None;
                for account_id in account_ids {
                    end = end.max(self.sweep_account(account_id, now));
                }
                if end.is_none() {
                    for account_id in account_ids {
                        self.release(account_id.clone());
                    }
                }
                Some(end?.saturating_duration_since(now).max(IDLE_MAX))
            }
            Wait::Operation(operation_id) => {
                let awaited = self.waits.operations.get_mut(operation_id)?;
                let is_over = |ticket: &Ticket| {
                    ticket.withdraw_if_pointless(now) || has_waited_enough(ticket, None, now)
                };
                let parked = std::mem::take(&mut awaited.parked);
                let (over, staying): (Vec<_>, Vec<_>) = parked.into_iter().partition(is_over);
                awaited.parked = staying;
                awaited.is_waited_for = !awaited.parked.is_empty();
                let is_waited_for = awaited.is_waited_for;
                self.waiting -= over.len();
                for ticket in over {
                    match ticket.job.claim.is_withdrawn() {
                        true => ticket.end(),
                        false => ticket.answer(contention(None)),
                    }
                }
                self.waits.forget_operations(now);
                is_waited_for.then_some(lock_wait_max)
            }
        }
    }

    /// The same for one account. When the oldest command has waited enough.
    pub(super) fn sweep_account(
        &mut self,
        account_id: &AccountId,
        now: Instant,
    ) -> Option<Instant> {
        let lock_wait_max = self.config.lock_wait_max;
        let held = self.held.get_mut(account_id)?;
        // While the account comes back now and then, its commands wait for each other and not for its lock.
        let since_end = held.outside_since.map(|since| since + lock_wait_max);
        let mut over = Vec::new();
        let is_long = since_end.is_some_and(|end| end <= now);
        while let Some((_, oldest)) = held.parked.first_key_value() {
            if !(oldest.withdraw_if_pointless(now)
                || (is_long && has_waited_enough(oldest, since_end, now)))
            {
                break;
            }
            over.extend(held.parked.pop_first().map(|(_, ticket)| ticket));
        }
        if is_long {
            let (late, staying): (Vec<_>, Vec<_>) = std::mem::take(&mut held.parked)
                .into_values()
                .partition(|ticket| has_waited_enough(ticket, since_end, now));
            held.parked = staying
                .into_iter()
                .map(|ticket| (ticket.waiting.number, ticket))
                .collect();
            over.extend(late);
        }
        let oldest = held.parked.first_key_value().map(|(_, ticket)| {
            let end = ticket.waiting.lock_wait_end.or(since_end).unwrap_or(now);
            end.max(since_end.unwrap_or(end))
        });
        self.waiting -= over.len();
        for mut ticket in over {
            self.unreserve(&mut ticket);
            match ticket.withdraw_if_pointless(now) {
                true => ticket.end(),
                false => ticket.answer(contention(Some(account_id.clone()))),
            }
        }
        oldest
    }

    /// Lets a command wait for an account that somebody outside has.
    pub(super) fn step_aside(&mut self, account_id: AccountId, ticket: Ticket, now: Instant) {
        let is_new = self.holder(&account_id) != Holder::Outside;
        if is_new {
            self.hold_outside(&account_id, now);
        }
        let needs_all = ticket.waiting.step_aside_count > STEP_ASIDE_COUNT_MAX
            && ticket.account_ids().all(|id| {
                let is_joinable = match self.holder(id) {
                    Holder::Nobody => true,
                    Holder::Outside => (is_new && *id == account_id) || self.waits.can_join(id),
                    Holder::Lane(_) | Holder::Hold | Holder::Ticket | Holder::Quarantine => false,
                };
                is_joinable && self.waits.comes_back_soon(id, now)
            });
        if needs_all {
            let account_ids: Vec<AccountId> = ticket.account_ids().cloned().collect();
            for id in &account_ids {
                if self.holder(id) == Holder::Nobody {
                    self.hold_outside(id, now);
                }
            }
            self.waits.push_together(&account_ids);
        } else if is_new {
            self.waits.push(Wait::Accounts(vec![account_id.clone()]));
        }
        self.repark(&account_id, ticket);
        if self.config.lock_wait_max.is_zero() {
            self.sweep_account(&account_id, now);
        }
    }

    /// Waits for accounts once more that another instance had in hand before: it takes them in turns with this one, and
    /// what comes meanwhile gathers.
    pub(super) fn await_again(&mut self, account_ids: &[AccountId], now: Instant) {
        let is_wanted = |held: &Held| held.holder == Holder::Nobody && !held.parked.is_empty();
        let wanted: Vec<AccountId> = account_ids
            .iter()
            .filter(|id| self.held.get(*id).is_some_and(is_wanted))
            .cloned()
            .collect();
        if wanted.is_empty() {
            return;
        }
        for account_id in &wanted {
            self.hold_outside(account_id, now);
        }
        self.waits.push(Wait::Accounts(wanted));
    }

    pub(super) fn finish_wait(
        &mut self,
        wait: Wait,
        done: Done<L::Hold>,
        began: Instant,
        now: Instant,
    ) {
        match (wait, done) {
            // The connection keeps the locks, and is used up or released later.
            (Wait::Accounts(account_ids), Done::Locks(Ok(hold))) => {
                self.waits.note_granted(&account_ids, now);
                for account_id in &account_ids {
                    if let Some(held) = self.held.get_mut(account_id) {
                        held.holder = Holder::Hold;
                        held.outside_since = None;
                    }
                }
                self.waits.idle_holds.push(IdleHold {
                    hold,
                    account_ids,
                    was_contended: now - began > GRANTED_AT_ONCE,
                    end: now + IDLE_MAX,
                });
            }
            (Wait::Accounts(account_ids), Done::Locks(Err(StoreError::LockTimeout))) => {
                self.waits.connection_count -= 1;
                self.waits.forget_granted(&account_ids);
                for account_id in account_ids {
                    let wait = Wait::Accounts(vec![account_id]);
                    if self.sweep(&wait, now).is_some() {
                        self.waits.push(wait);
                    }
                }
            }
            (Wait::Accounts(account_ids), _) => {
                // Its commands meet what is wrong in a lane, which tells their callers.
                self.waits.connection_count -= 1;
                account_ids.into_iter().for_each(|id| self.release(id));
            }
            (wait @ Wait::Operation(_), Done::Operation(Err(StoreError::LockTimeout))) => {
                self.waits.connection_count -= 1;
                if self.sweep(&wait, now).is_some() {
                    self.waits.push(wait);
                }
            }
            (Wait::Operation(operation_id), _) => {
                self.waits.connection_count -= 1;
                let awaited = self.waits.operations.remove(&operation_id);
                for ticket in awaited.into_iter().flat_map(|awaited| awaited.parked) {
                    match self.obstacle(&ticket) {
                        Some(account_id) => self.park(ticket, account_id),
                        None => self.make_ready(ticket),
                    }
                }
            }
        }
    }

    /// Notes that somebody outside has an account. Those who wait for it, wait for a lock from now on.
    pub(super) fn hold_outside(&mut self, account_id: &AccountId, now: Instant) {
        self.hold(account_id, Holder::Outside);
        if let Some(held) = self.held.get_mut(account_id) {
            held.outside_since.get_or_insert(now);
        }
        self.unreserve_for_those_at(account_id);
    }

    /// The commands that wait for an account may wait long from now on: what they reserved is free for others meanwhile.
    pub(super) fn unreserve_for_those_at(&mut self, account_id: &AccountId) {
        if self.reserved_count == 0 {
            return;
        }
        let parked = self.held.get_mut(account_id).map(|held| &mut held.parked);
        let reserved: Vec<AccountId> = parked
            .into_iter()
            .flat_map(BTreeMap::values_mut)
            .filter_map(|ticket| ticket.waiting.reserved.take())
            .collect();
        for reserved in reserved {
            self.reserved_count -= 1;
            self.release(reserved);
        }
    }
}

/// `since_end` is for a command that waited already when somebody outside took its account.
pub(super) fn has_waited_enough(ticket: &Ticket, since_end: Option<Instant>, now: Instant) -> bool {
    let end = ticket.waiting.lock_wait_end.or(since_end);
    end.is_some_and(|end| end <= now)
}

pub(super) fn contention(account_id: Option<AccountId>) -> Answer {
    Answer::Failed(Failure::Contention { account_id })
}
