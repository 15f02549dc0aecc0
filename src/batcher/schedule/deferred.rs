//! What the schedule does about accounts and operation ids that another session holds: it waits for them, and makes use of the
//! locks that are granted.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::waits::{Awaited, GRANTED_AT_ONCE, IDLE_MAX, IdleHold, Wait};
use super::{AccountState, Done, Holder, Schedule, TaskHolds};
use crate::batcher::Failure;
use crate::batcher::ticket::Ticket;
use crate::domain::{AccountId, OperationId};
use crate::store::{Ledger, Locking, StoreError};

/// How often a job is deferred before those of its accounts that come back soon are waited for together.
const DEFERRAL_COUNT_MAX: u32 = 2;

impl<L: Ledger> Schedule<L> {
    /// Lets a job wait for its operation ids, if another session was about to record one of them. Returns all other jobs.
    pub(super) fn wait_at_operation(&mut self, mut ticket: Ticket) -> Option<Ticket> {
        let awaited = &self.waits.operations;
        if awaited.is_empty() {
            return Some(ticket);
        }
        let mut commands = ticket.job.commands().iter();
        let awaited = commands.find(|command| awaited.contains_key(&command.operation_id));
        let Some(operation_id) = awaited.map(|command| command.operation_id.clone()) else {
            return Some(ticket);
        };
        self.expect_a_long_wait(&mut ticket);
        self.await_operation(operation_id, ticket);
        None
    }

    /// Lets a job wait until no other session is about to record one of its operation ids.
    pub(super) fn await_operations(&mut self, ticket: Ticket) {
        // Which of them it is, is not known: the wait is for all, and has the name of the first.
        let first = ticket.job.commands().first();
        match first.map(|command| command.operation_id.clone()) {
            Some(operation_id) => self.await_operation(operation_id, ticket),
            None => self.put(ticket),
        }
    }

    fn await_operation(&mut self, operation_id: OperationId, ticket: Ticket) {
        let awaited = self.waits.operations.entry(operation_id.clone());
        let awaited = awaited.or_insert_with(|| Awaited {
            waiting: Vec::new(),
            is_waited_for: false,
            since: Instant::now(),
        });
        awaited.waiting.push(ticket);
        awaited.since = Instant::now();
        if !std::mem::replace(&mut awaited.is_waited_for, true) {
            self.waits.push(Wait::Operation(operation_id));
        }
    }

    /// The ids of all jobs that wait under the name of this one, sorted.
    fn awaited_ids(&self, operation_id: &OperationId) -> BTreeSet<OperationId> {
        let awaited = self.waits.operations.get(operation_id);
        let waiting = awaited.into_iter().flat_map(|awaited| &awaited.waiting);
        let commands = waiting.flat_map(|ticket| ticket.job.commands());
        let ids = commands.map(|command| command.operation_id.clone());
        ids.chain([operation_id.clone()]).collect()
    }

    /// Lets the jobs go that wait for granted locks, and gives back the locks that none can use.
    pub(super) fn use_holds(&mut self) {
        if self.waits.idle_holds.is_empty() {
            return;
        }
        let now = Instant::now();
        for idle in std::mem::take(&mut self.waits.idle_holds) {
            let gathered = self.gather_for(&idle.account_ids);
            if !gathered.tickets.is_empty() {
                let (tickets, batch) = gathered.start();
                let holds = TaskHolds::Granted {
                    batch,
                    account_ids: idle.account_ids,
                    was_contended: idle.was_contended,
                };
                self.start(tickets, holds, Locking::Held(idle.hold));
                continue;
            }
            let is_wanted = |id| {
                let account = self.accounts.get(id);
                account.is_some_and(|account| !account.waiting.is_empty())
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
            self.tasks
                .insert(task.id(), TaskHolds::Release(idle.account_ids));
        }
    }

    /// Gives each free lock-wait connection something to wait for.
    pub(super) fn start_waits(&mut self) {
        while self.waits.connection_count < self.config.lock_wait_connections {
            let Some(wait) = self.waits.pop() else {
                return;
            };
            let began = Instant::now();
            let Some(longest) = self.sweep(&wait, began) else {
                continue;
            };
            let connection_count = self.config.lock_wait_connections;
            let wait_max = self.waits.turn(&wait, longest, connection_count);
            self.waits.connection_count += 1;
            let ledger = self.ledger.clone();
            let task = match &wait {
                Wait::Accounts(account_ids) => {
                    let commands = self.waiting_commands(account_ids);
                    let ids = account_ids.clone();
                    self.running.spawn(Box::pin(async move {
                        Done::Locks(ledger.await_accounts(&ids, &commands, wait_max).await)
                    }))
                }
                Wait::Operation(operation_id) => {
                    let ids = self.awaited_ids(operation_id);
                    self.running.spawn(Box::pin(async move {
                        Done::Operations(await_each(&*ledger, &ids, wait_max).await)
                    }))
                }
            };
            self.tasks
                .insert(task.id(), TaskHolds::Wait { wait, began });
        }
    }

    /// Ends what waited enough for what `wait` is about, and says how long the rest may still wait. `None`: nothing is left,
    /// and nobody waits.
    fn sweep(&mut self, wait: &Wait, now: Instant) -> Option<Duration> {
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
                let waiting = std::mem::take(&mut awaited.waiting);
                let (over, staying): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_over);
                awaited.waiting = staying;
                awaited.is_waited_for = !awaited.waiting.is_empty();
                let is_waited_for = awaited.is_waited_for;
                self.waiting_count -= over.len();
                for ticket in over {
                    match ticket.job.claim.is_withdrawn() {
                        true => ticket.end(),
                        false => ticket.fail(Failure::Contention { account_id: None }),
                    }
                }
                self.waits.forget_operations(now);
                is_waited_for.then_some(lock_wait_max)
            }
        }
    }

    /// The same for one account. When the oldest job has waited enough.
    fn sweep_account(&mut self, account_id: &AccountId, now: Instant) -> Option<Instant> {
        let lock_wait_max = self.config.lock_wait_max;
        let account = self.accounts.get_mut(account_id)?;
        // While the account comes back now and then, its jobs wait for each other and not for its lock.
        let held_since = account.held_outside_since;
        let since_end = held_since.map(|since| since + lock_wait_max);
        let is_long = since_end.is_some_and(|end| end <= now);
        let is_over = |ticket: &Ticket| {
            ticket.withdraw_if_pointless(now)
                || (is_long && has_waited_enough(ticket, since_end, now))
        };
        let mut over = Vec::new();
        if is_long {
            over = account.waiting.extract(is_over);
        }
        while account.waiting.first().is_some_and(is_over) {
            over.extend(account.waiting.pop_first());
        }
        let oldest = account.waiting.first().map(|ticket| {
            let end = ticket.progress.lock_wait_end.or(since_end).unwrap_or(now);
            end.max(since_end.unwrap_or(end))
        });
        self.waiting_count -= over.len();
        for mut ticket in over {
            self.unreserve(&mut ticket);
            match ticket.withdraw_if_pointless(now) {
                true => ticket.end(),
                false => ticket.fail(Failure::Contention {
                    account_id: Some(account_id.clone()),
                }),
            }
        }
        oldest
    }

    /// Lets a job wait for an account that another session has.
    pub(super) fn defer(&mut self, account_id: AccountId, mut ticket: Ticket, now: Instant) {
        self.expect_a_long_wait(&mut ticket);
        ticket.progress.deferral_count += 1;
        let is_new = self.holder(&account_id) != Holder::OtherSession;
        if is_new {
            self.hold_outside(&account_id, now);
        }
        let together = match ticket.progress.deferral_count > DEFERRAL_COUNT_MAX {
            true => self.can_be_awaited_with(is_new.then_some(&account_id), &ticket, now),
            false => Vec::new(),
        };
        if together.len() > 1 && together.contains(&account_id) {
            for id in &together {
                if self.holder(id) == Holder::Nobody {
                    self.hold_outside(id, now);
                }
            }
            self.waits.push_together(&together);
        } else if is_new {
            self.waits.push(Wait::Accounts(vec![account_id.clone()]));
        }
        self.put_back(&account_id, ticket);
        if self.config.lock_wait_max.is_zero() {
            self.sweep_account(&account_id, now);
        }
    }

    /// Those accounts of a job that another session and this instance have in turns, and that can be waited for together.
    /// Nobody waits yet for `new`.
    fn can_be_awaited_with(
        &self,
        new: Option<&AccountId>,
        ticket: &Ticket,
        now: Instant,
    ) -> Vec<AccountId> {
        let is_joinable = |id: &AccountId| match self.accounts.get(id) {
            None => true,
            Some(account) => match account.holder {
                Holder::Nobody => !account.keeps_out(ticket.number(), Holder::Nobody),
                Holder::OtherSession => new == Some(id) || self.waits.can_join(id),
                Holder::Lane(_) | Holder::GrantedLock | Holder::Quarantine => false,
            },
        };
        let account_ids = ticket.account_ids().iter();
        let account_ids =
            account_ids.filter(|id| self.waits.comes_back_soon(id, now) && is_joinable(id));
        account_ids.cloned().collect()
    }

    /// Waits for accounts once more that another instance had before: it takes them in turns with this one, and what comes
    /// meanwhile gathers.
    pub(super) fn await_again(&mut self, account_ids: &[AccountId], now: Instant) {
        let is_wanted = |account: &AccountState| {
            let is_free = account.holder == Holder::Nobody && account.reservations.is_empty();
            is_free && !account.waiting.is_empty()
        };
        let wanted: Vec<AccountId> = account_ids
            .iter()
            .filter(|id| self.accounts.get(*id).is_some_and(is_wanted))
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
                    if let Some(account) = self.accounts.get_mut(account_id) {
                        account.holder = Holder::GrantedLock;
                        account.held_outside_since = None;
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
                // Its jobs meet what is wrong in a lane, which tells their callers.
                self.waits.connection_count -= 1;
                account_ids.into_iter().for_each(|id| self.release(id));
            }
            (wait @ Wait::Operation(_), Done::Operations(Err(StoreError::LockTimeout))) => {
                self.waits.connection_count -= 1;
                if self.sweep(&wait, now).is_some() {
                    self.waits.push(wait);
                }
            }
            (Wait::Operation(operation_id), _) => {
                self.waits.connection_count -= 1;
                let awaited = self.waits.operations.remove(&operation_id);
                for ticket in awaited.into_iter().flat_map(|awaited| awaited.waiting) {
                    self.put(ticket);
                }
            }
        }
    }

    /// Notes that another session has an account. Those who wait for it, wait for a lock from now on.
    fn hold_outside(&mut self, account_id: &AccountId, now: Instant) {
        self.hold(account_id, Holder::OtherSession);
        if let Some(account) = self.accounts.get_mut(account_id) {
            account.held_outside_since.get_or_insert(now);
        }
        self.unreserve_for_those_at(account_id);
    }
}

/// Waits for one operation id after the other, so that it never has one while it waits for another.
async fn await_each<L: Ledger>(
    ledger: &L,
    operation_ids: &BTreeSet<OperationId>,
    wait_max: Duration,
) -> Result<(), StoreError> {
    let end = Instant::now() + wait_max;
    for operation_id in operation_ids {
        let rest = end.saturating_duration_since(Instant::now());
        ledger.await_operation(operation_id, rest).await?;
    }
    Ok(())
}

/// `since_end` is for a job that waited already when another session took its account.
pub(super) fn has_waited_enough(ticket: &Ticket, since_end: Option<Instant>, now: Instant) -> bool {
    let end = ticket.progress.lock_wait_end.or(since_end);
    end.is_some_and(|end| end <= now)
}
