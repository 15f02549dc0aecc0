//! The schedule: which job goes into which batch. It alone knows which task has which accounts, so it needs no lock, and it
//! never waits for the database.
//!
//! A job is *ready* until it meets an account that keeps it out; then it *waits* at that account. When the account is free
//! again, its jobs are ready where they are, oldest first. A job whose account another session holds is *deferred*: it waits
//! until a lock-wait connection was granted the account.

mod accounts;
mod deferred;
mod gather;
mod quarantine;
mod quarantine_turns;
mod reservations;
mod waits;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::lane::{self, Ended};
use super::ticket::Ticket;
use super::{BatcherConfig, Failure};
use crate::domain::{AccountId, Command, Map, Set};
use crate::store::{Ledger, Locking, Observer, StoreError};

use accounts::{AccountState, Holder, JobQueue};
use deferred::has_waited_enough;
use gather::Gathered;
use quarantine::Quarantine;
use reservations::BLOCKED_COUNT_MAX;
use waits::{Wait, Waits};

/// How long a batch may run before others no longer wait for its end. Batches take some milliseconds, full ones some
/// tens; what takes longer is in trouble.
const GATHERING_MAX: Duration = Duration::from_millis(50);

/// This many commands are worth a transaction of their own, whatever else runs: its fixed cost is less than theirs.
const GATHERED_ENOUGH: usize = 32;

/// How many commands a free lane waits for while a batch of this weight runs.
fn worth_a_batch_beside(weight: usize) -> usize {
    weight.min(GATHERED_ENOUGH)
}

/// What a running task has.
enum TaskHolds {
    /// A lane: all accounts of its batch.
    Lane(Batch),
    /// A lock-wait connection that was granted locks: all accounts of its batch, the granted ones first.
    Granted {
        batch: Batch,
        account_ids: Vec<AccountId>,
        /// Another session had them before.
        was_contended: bool,
    },
    /// A lock-wait connection: what it waits for.
    Wait { wait: Wait, began: Instant },
    /// A lock-wait connection that gives these accounts back.
    Release(Vec<AccountId>),
}

/// A batch that runs.
struct Batch {
    lane: Holder,
    account_ids: Vec<AccountId>,
    /// The sum of the weights of its jobs.
    weight: usize,
    started: Instant,
}

/// How a task ended.
enum Done<H> {
    Batch(Ended),
    Locks(Result<H, StoreError>),
    Operations(Result<(), StoreError>),
    Released,
    Died,
}

/// What waits, and what runs.
pub(super) struct Schedule<L: Ledger> {
    ledger: Arc<L>,
    observer: Observer,
    config: BatcherConfig,
    /// Jobs that arrived and have not met an account that keeps them out, and those that a batch left to others. Of these and
    /// of those at `ready_accounts` the oldest goes first.
    ready_jobs: JobQueue,
    /// The accounts whose jobs may go, by the numbers of their oldest jobs. The jobs stay there until a batch has room for
    /// them: what many callers wait for is not sorted again for each batch.
    ready_accounts: BTreeMap<u64, AccountId>,
    /// The weight of the jobs at `ready_accounts`.
    ready_account_weight: usize,
    /// How many jobs came so far.
    arrived_count: u64,
    /// The accounts that somebody has, that jobs wait for, or that jobs reserved.
    accounts: Map<AccountId, AccountState>,
    /// How many jobs have reservations.
    reserving_count: usize,
    waits: Waits<L::Hold>,
    quarantine: Quarantine,
    /// How many batches were begun.
    batch_count: u64,
    /// The lane whose batch is being gathered; `Nobody`: none is.
    gathering: Holder,
    /// The accounts of that batch that are among `ready_accounts` until it is complete.
    open_for_gathering: Vec<AccountId>,
    running: JoinSet<Done<L::Hold>>,
    /// What each running task has.
    tasks: HashMap<Id, TaskHolds>,
    lanes_running: usize,
    /// Jobs that wait: ready, at accounts, and in `waits`.
    waiting_count: usize,
}

impl<L: Ledger> Schedule<L> {
    pub(super) fn new(ledger: Arc<L>, observer: Observer, config: BatcherConfig) -> Self {
        Self {
            ledger,
            observer,
            config,
            ready_jobs: JobQueue::default(),
            ready_accounts: BTreeMap::new(),
            ready_account_weight: 0,
            arrived_count: 0,
            accounts: Map::default(),
            reserving_count: 0,
            waits: Waits::new(),
            quarantine: Quarantine::default(),
            batch_count: 0,
            gathering: Holder::Nobody,
            open_for_gathering: Vec::new(),
            running: JoinSet::new(),
            tasks: HashMap::new(),
            lanes_running: 0,
            waiting_count: 0,
        }
    }

    /// Runs until every sender of the inbox is gone and everything that it brought is answered.
    ///
    /// While every lane is busy a job that arrives could only wait, so it wakes nobody; see [`super::note_filling`].
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Ticket>, filling: Arc<Notify>) {
        let mut arrived = Vec::new();
        let mut open = true;
        while open || self.waiting_count > 0 || !self.running.is_empty() {
            let room = self
                .config
                .queue_depth_max
                .saturating_sub(self.waiting_count);
            let alarm = self.alarm();
            let can_read = open && room > 0;
            let is_reading = can_read && (self.has_free_lane() || is_filling(&inbox));
            tokio::select! {
                biased;
                Some(finished) = self.running.join_next_with_id() => {
                    self.finish(finished);
                    self.take_arrived(&mut inbox);
                }
                count = inbox.recv_many(&mut arrived, room), if is_reading => {
                    open = count > 0;
                    self.waiting_count += count;
                    arrived.drain(..).for_each(|ticket| self.admit(ticket));
                }
                () = filling.notified(), if can_read && !is_reading => {}
                () = tokio::time::sleep_until(alarm.unwrap_or_else(Instant::now)), if alarm.is_some() => {}
            }
            self.dispatch();
            self.observer
                .set_queue_depth(self.waiting_count + inbox.len());
        }
    }

    /// Takes what arrived while every lane was busy, so that the next batch is made of all there is.
    fn take_arrived(&mut self, inbox: &mut mpsc::Receiver<Ticket>) {
        while self.waiting_count < self.config.queue_depth_max
            && let Ok(ticket) = inbox.try_recv()
        {
            self.waiting_count += 1;
            self.admit(ticket);
        }
    }

    /// Puts a job that arrived where it has to wait.
    fn admit(&mut self, mut ticket: Ticket) {
        self.arrived_count += 1;
        ticket.progress.number = self.arrived_count;
        if let Some(ticket) = self.wait_at_operation(ticket) {
            self.put(ticket);
        }
    }

    /// Lets a job wait for an account that keeps it out, or be ready.
    fn put(&mut self, ticket: Ticket) {
        match self.obstacle(&ticket) {
            Some(account_id) => self.wait_at(ticket, account_id),
            None => self.ready_jobs.insert(ticket),
        }
    }

    /// The weight of the jobs that may be able to run.
    fn ready_weight(&self) -> usize {
        self.ready_jobs.weight() + self.ready_account_weight
    }

    /// Takes the oldest of the jobs that may be able to run.
    fn pop_ready(&mut self) -> Option<Ticket> {
        let at_account = self.ready_accounts.first_key_value();
        let at_account = at_account.map(|(number, _)| *number);
        match (self.ready_jobs.first_number(), at_account) {
            (Some(job), Some(at_account)) if at_account < job => self.pop_at_ready_account(),
            (None, Some(_)) => self.pop_at_ready_account(),
            (_, _) => self.ready_jobs.pop_first(),
        }
    }

    /// Takes the oldest job at `ready_accounts`.
    fn pop_at_ready_account(&mut self) -> Option<Ticket> {
        let (_, account_id) = self.ready_accounts.pop_first()?;
        let account = self.accounts.get_mut(&account_id)?;
        let before = account.ready.take();
        self.ready_account_weight -= before.map_or(0, |ready| ready.weight);
        let ticket = account.waiting.pop_first();
        account.ready = account.readiness(self.gathering);
        match account.ready {
            Some(ready) => {
                self.ready_account_weight += ready.weight;
                self.ready_accounts.insert(ready.number, account_id);
            }
            None if account.is_unused() => drop(self.accounts.remove(&account_id)),
            None => {}
        }
        ticket
    }

    /// Puts an account among those whose jobs may go, or takes it away from there, after something about it changed.
    fn refresh_ready(&mut self, account_id: &AccountId) {
        let Some(account) = self.accounts.get_mut(account_id) else {
            return;
        };
        let ready = account.readiness(self.gathering);
        if let Some(before) = account.ready.take() {
            self.ready_account_weight -= before.weight;
            self.ready_accounts.remove(&before.number);
        }
        if let Some(ready) = ready {
            account.ready = Some(ready);
            self.ready_account_weight += ready.weight;
            self.ready_accounts.insert(ready.number, account_id.clone());
            if account.holder != Holder::Nobody {
                self.open_for_gathering.push(account_id.clone());
            }
        } else if account.is_unused() {
            self.accounts.remove(account_id);
        }
    }

    /// Who has an account.
    fn holder(&self, account_id: &AccountId) -> Holder {
        self.accounts
            .get(account_id)
            .map_or(Holder::Nobody, |account| account.holder)
    }

    /// Gives an account to somebody.
    fn hold(&mut self, account_id: &AccountId, holder: Holder) {
        let account = self.accounts.entry(account_id.clone());
        account.or_insert_with(|| AccountState::by(holder)).holder = holder;
        self.refresh_ready(account_id);
    }

    /// The account that keeps a job from running.
    fn obstacle(&self, ticket: &Ticket) -> Option<AccountId> {
        self.obstacle_beside(ticket, Holder::Nobody)
    }

    /// The account that keeps a job from going into the batch of `lane`. If there are several, it is the one for which the job
    /// has to wait longest.
    fn obstacle_beside(&self, ticket: &Ticket, lane: Holder) -> Option<AccountId> {
        let mut obstacle: Option<(Holder, &AccountId)> = None;
        for account_id in ticket.account_ids() {
            let Some(account) = self.accounts.get(account_id) else {
                continue;
            };
            if !account.keeps_out(ticket.number(), lane) {
                continue;
            }
            match account.holder {
                Holder::OtherSession => return Some(account_id.clone()),
                Holder::Quarantine => obstacle = Some((Holder::Quarantine, account_id)),
                holder => drop(obstacle.get_or_insert((holder, account_id))),
            }
        }
        obstacle.map(|(_, account_id)| account_id.clone())
    }

    /// Lets a job wait for an account that keeps it out. One that was blocked often reserves its accounts.
    fn wait_at(&mut self, mut ticket: Ticket, account_id: AccountId) {
        if ticket.progress.waits_for.as_ref() != Some(&account_id) {
            ticket.progress.waits_for = Some(account_id.clone());
            ticket.progress.blocked_count += 1;
        }
        match self.holder(&account_id) {
            Holder::OtherSession => {
                self.defer(account_id, ticket, Instant::now());
                return;
            }
            Holder::Quarantine => self.unreserve(&mut ticket),
            holder if ticket.progress.blocked_count > BLOCKED_COUNT_MAX => {
                match self.is_in_trouble(holder, Instant::now()) {
                    true => self.unreserve(&mut ticket),
                    false => self.reserve(&mut ticket),
                }
            }
            Holder::Lane(_) | Holder::GrantedLock | Holder::Nobody => {}
        }
        match self.accounts.get_mut(&account_id) {
            Some(account) if account.keeps_out(ticket.number(), Holder::Nobody) => {
                account.waiting.insert(ticket);
            }
            _ => self.ready_jobs.insert(ticket),
        }
    }

    /// The lock wait of a job begins; what it reserved is free for others in this time.
    fn expect_a_long_wait(&mut self, ticket: &mut Ticket) {
        let lock_wait_max = self.config.lock_wait_max;
        let end = &mut ticket.progress.lock_wait_end;
        end.get_or_insert_with(|| Instant::now() + lock_wait_max);
        self.unreserve(ticket);
    }

    /// Gives work to every lane and every lock-wait connection that has none.
    fn dispatch(&mut self) {
        self.unreserve_at_trouble();
        self.use_holds();
        self.run_quarantined();
        self.start_waits();
        while self.has_free_lane() && !self.is_worth_gathering() {
            let gathered = self.gather();
            if gathered.tickets.is_empty() {
                break;
            }
            self.start_lane(gathered);
        }
    }

    fn start_lane(&mut self, gathered: Gathered) {
        self.lanes_running += 1;
        let (tickets, batch) = gathered.start();
        self.start(tickets, TaskHolds::Lane(batch), Locking::Skip);
    }

    /// Takes the oldest job that waits for an account.
    fn take_waiting(&mut self, account_id: &AccountId) -> Option<Ticket> {
        let account = self.accounts.get_mut(account_id)?;
        account.waiting.pop_first()
    }

    /// Puts a job back that was taken from there.
    fn put_back(&mut self, account_id: &AccountId, ticket: Ticket) {
        match self.accounts.get_mut(account_id) {
            Some(account) => account.waiting.insert(ticket),
            None => self.ready_jobs.insert(ticket),
        }
    }

    /// True if the job is withdrawn; then the caller of this function ends it.
    fn end_if_pointless(&mut self, ticket: &mut Ticket, now: Instant) -> bool {
        let is_pointless = ticket.withdraw_if_pointless(now);
        if is_pointless {
            self.waiting_count -= 1;
            self.unreserve(ticket);
        }
        is_pointless
    }

    /// The commands of the jobs that come first when the accounts are granted, no more than fill a batch.
    fn waiting_commands(&self, account_ids: &[AccountId]) -> Vec<Arc<Command>> {
        let accounts = account_ids.iter().filter_map(|id| self.accounts.get(id));
        let waiting = accounts.flat_map(|account| account.waiting.iter());
        let commands = waiting.flat_map(|ticket| ticket.job.commands());
        commands.take(self.config.batch_size_max).cloned().collect()
    }

    fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.tasks.values().filter_map(|holds| match holds {
            TaskHolds::Lane(batch) | TaskHolds::Granted { batch, .. } => Some(batch),
            TaskHolds::Wait { .. } | TaskHolds::Release(_) => None,
        })
    }

    /// Whether a free lane does better to wait: what is ready is less than what runs, and what runs will end
    /// soon and bring more. A transaction costs much that does not depend on how many commands are in it, so two batches
    /// of one size are cheaper than a large one and a small one after the other.
    fn is_worth_gathering(&self) -> bool {
        let now = Instant::now();
        let ready_weight = self.ready_weight();
        self.batches().any(|batch| {
            ready_weight < worth_a_batch_beside(batch.weight) && now - batch.started < GATHERING_MAX
        })
    }

    /// Whether there are jobs that wait for more of them, and a free lane with them.
    fn is_gathering(&self) -> bool {
        self.ready_weight() > 0 && self.has_free_lane()
    }

    fn has_free_lane(&self) -> bool {
        self.lanes_running < self.config.lanes
    }

    /// When they have waited enough.
    fn gathering_end(&self) -> Instant {
        let now = Instant::now();
        let ends = self.batches().map(|batch| batch.started + GATHERING_MAX);
        ends.filter(|end| *end > now).min().unwrap_or(now)
    }

    /// When to look again, without anything having happened.
    fn alarm(&self) -> Option<Instant> {
        let gathering = self.is_gathering().then(|| self.gathering_end());
        let idle = self.waits.idle_holds.iter().map(|idle| idle.end).min();
        let quarantine = self.quarantine.next(Instant::now());
        let trouble = self.next_trouble();
        let alarms = [gathering, idle, quarantine, trouble];
        alarms.into_iter().flatten().min()
    }

    fn start(&mut self, tickets: Vec<Ticket>, holds: TaskHolds, locking: Locking<L::Hold>) {
        let now = Instant::now();
        let command_count = tickets.iter().map(|it| it.job.commands().len()).sum();
        let waited = tickets.iter().map(|ticket| now - ticket.arrived()).sum();
        self.observer.note_batch(command_count, waited);
        let (ledger, observer) = (self.ledger.clone(), self.observer.clone());
        let ended = lane::run(ledger, observer, tickets, locking);
        let task = self
            .running
            .spawn(Box::pin(async move { Done::Batch(ended.await) }));
        self.tasks.insert(task.id(), holds);
    }

    /// Takes back from a task what it has.
    fn finish(&mut self, finished: Result<(Id, Done<L::Hold>), JoinError>) {
        let (id, done) = finished.unwrap_or_else(|panic| {
            // A lane only dies of a bug. Its callers see their answers dropped.
            tracing::error!(%panic, "a lane panicked");
            (panic.id(), Done::Died)
        });
        let now = Instant::now();
        match self.tasks.remove(&id) {
            Some(TaskHolds::Lane(batch)) => {
                self.lanes_running -= 1;
                self.finish_batch(batch.account_ids, done, now);
            }
            Some(TaskHolds::Granted {
                batch,
                account_ids,
                was_contended,
            }) => {
                self.waits.connection_count -= 1;
                self.finish_batch(batch.account_ids, done, now);
                if was_contended {
                    self.await_again(&account_ids, now);
                }
            }
            Some(TaskHolds::Wait { wait, began }) => {
                self.observer.note_lock_wait(now - began);
                self.finish_wait(wait, done, began, now);
            }
            Some(TaskHolds::Release(account_ids)) => {
                self.waits.connection_count -= 1;
                account_ids.into_iter().for_each(|id| self.release(id));
            }
            None => {}
        }
    }

    fn finish_batch(&mut self, released: Vec<AccountId>, done: Done<L::Hold>, now: Instant) {
        let Ended {
            contended,
            obstructed,
            suspects,
            has_decided,
        } = match done {
            Done::Batch(ended) => ended,
            _ => Ended::default(),
        };
        if has_decided {
            // In quarantine each job is alone: all accounts of the batch are its own.
            released
                .iter()
                .filter(|id| !suspects.contains(id))
                .for_each(|id| self.quarantine.note_executed(id));
        }
        let suspect_count = self.quarantine.note_rejected(&suspects, now);
        if suspect_count > 0 {
            tracing::warn!(
                accounts = suspect_count,
                "the database rejects commands on accounts; for a while each of these commands is executed alone"
            );
        }
        self.waiting_count += contended.len() + obstructed.len();
        for ticket in obstructed {
            self.finish_obstructed(ticket, now);
        }
        let held_outside: Set<AccountId> = contended.iter().map(|(id, _)| id.clone()).collect();
        for account_id in released {
            if !held_outside.contains(&account_id) {
                self.release(account_id);
            }
        }
        for (account_id, ticket) in contended {
            self.defer(account_id, ticket, now);
        }
    }

    /// Another session is about to record an operation id of this job.
    fn finish_obstructed(&mut self, mut ticket: Ticket, now: Instant) {
        ticket.progress.obstruction_count += 1;
        self.expect_a_long_wait(&mut ticket);
        // It was not the id: something else that it alone needs is locked, and its neighbours do not pay for it.
        if ticket.progress.obstruction_count > 1 {
            self.quarantine.note_rejected(ticket.account_ids(), now);
        }
        if has_waited_enough(&ticket, None, now) {
            self.waiting_count -= 1;
            ticket.fail(Failure::Contention { account_id: None });
        } else {
            self.await_operations(ticket);
        }
    }

    /// Takes an account away from whoever has it.
    fn release(&mut self, account_id: AccountId) {
        let is_suspect = self.quarantine.contains(&account_id);
        let Entry::Occupied(mut entry) = self.accounts.entry(account_id) else {
            return;
        };
        let account = entry.get_mut();
        if account.holder == Holder::Nobody {
            return;
        }
        account.held_outside_since = None;
        if is_suspect {
            account.holder = Holder::Quarantine;
            let account_id = entry.key().clone();
            self.unreserve_for_those_at(&account_id);
            return;
        }
        account.holder = Holder::Nobody;
        if account.is_unused() {
            entry.remove();
            return;
        }
        let account_id = entry.key().clone();
        self.refresh_ready(&account_id);
    }
}

/// Whether half of the inbox is taken, by jobs or by slots for them.
fn is_filling(inbox: &mpsc::Receiver<Ticket>) -> bool {
    inbox.capacity() <= inbox.max_capacity() / 2
}
