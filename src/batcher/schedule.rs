//! The schedule: which command goes into which batch. It alone knows which task has which accounts in hand, so
//! it needs no lock, and it never waits for the database.

mod apart;
mod gather;
mod outside;
mod quarantine;
mod waits;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::lane::{self, Ended, Obstacle};
use super::{BatcherConfig, Ticket};
use crate::domain::{AccountId, Command, Map, Set};
use crate::store::{Ledger, Locking, StoreError};

use outside::{contention, has_waited_enough};
use quarantine::Quarantine;
use waits::{Wait, Waits};

/// How often a command waits, each time for another one of its accounts, before the free one of them is kept for it.
const DETOURS_MAX: u32 = 4;
/// How often a command steps aside before all its accounts are waited for together.
const STEP_ASIDE_COUNT_MAX: u32 = 2;
/// The search for commands that can use granted locks ends after this many that need another account too.
const BLOCKED_COUNT_MAX: usize = 64;

/// Who has an account in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// Nobody any more: this account no longer keeps the commands that waited for it.
    Nobody,
    /// A lane, with the batch of this number.
    Lane(u64),
    /// Somebody outside; a connection waits for it, or will.
    Outside,
    /// A connection of ours that was granted its lock, and does nothing with it yet.
    Hold,
    /// A command that waits for its other account.
    Ticket,
    /// Nobody, but its commands go one by one, see [`quarantine`].
    Quarantine,
}

/// An account that is or was in somebody's hands, and the commands that wait for it, by their numbers.
struct Held {
    holder: Holder,
    parked: BTreeMap<u64, Ticket>,
    /// Since when somebody outside has it.
    outside_since: Option<Instant>,
}

impl Held {
    fn by(holder: Holder) -> Self {
        Self {
            holder,
            parked: BTreeMap::new(),
            outside_since: None,
        }
    }
}

/// How long a batch may run before others no longer wait for its end. Batches take some milliseconds, full ones some
/// tens; what takes longer is in trouble.
const GATHERING_MAX: Duration = Duration::from_millis(50);

/// This many commands are worth a transaction of their own, whatever else runs: its fixed cost is less than theirs.
const GATHERED_ENOUGH: usize = 32;

/// How many commands a free lane waits for while a batch of this size runs.
fn worth_a_batch_beside(size: usize) -> usize {
    size.min(GATHERED_ENOUGH)
}

/// What a task has in hand.
enum Hand {
    /// A lane: all accounts of its batch.
    Lane(Batch),
    /// A lock-wait connection that was granted locks: all accounts of its batch, the granted ones first.
    Granted {
        batch: Batch,
        account_ids: Vec<AccountId>,
        /// They were somebody else's before.
        was_contended: bool,
    },
    /// A lock-wait connection: what it waits for.
    Wait { wait: Wait, began: Instant },
    /// A lock-wait connection that gives these accounts back.
    Release(Vec<AccountId>),
}

/// A batch in a lane.
struct Batch {
    account_ids: Vec<AccountId>,
    size: usize,
    started: Instant,
}

/// How a task ended.
enum Done<H> {
    Batch(Ended),
    Locks(Result<H, StoreError>),
    Operation(Result<(), StoreError>),
    Released,
    Died,
}

/// What waits, and what runs.
pub(super) struct Schedule<L: Ledger> {
    ledger: Arc<L>,
    config: BatcherConfig,
    /// Commands that arrived and have not met an account in somebody's hands, and those that a batch left to others, by
    /// their numbers: of these and of those that `fronts` leads to, the oldest goes first.
    fresh: BTreeMap<u64, Ticket>,
    /// Of each account that nobody has in hand any more, the number of the oldest command that waited for it. The
    /// commands stay there until a batch has room for them: what many callers wait for is not sorted again for each batch.
    fronts: BTreeMap<u64, AccountId>,
    /// Commands in `fresh`, and on the accounts of `fronts`.
    ready_count: usize,
    /// How many commands came so far.
    arrived_count: u64,
    /// The accounts in somebody's hands, and those of `fronts`.
    held: Map<AccountId, Held>,
    /// How many commands have an account reserved.
    reserved_count: usize,
    waits: Waits<L::Hold>,
    quarantine: Quarantine,
    /// How many batches were begun.
    batch_count: u64,
    running: JoinSet<Done<L::Hold>>,
    /// What each running task has in hand.
    hands: HashMap<Id, Hand>,
    lanes_running: usize,
    /// Commands in `fresh`, `held` and `waits`.
    waiting: usize,
}

impl<L: Ledger> Schedule<L> {
    pub(super) fn new(ledger: Arc<L>, config: BatcherConfig) -> Self {
        Self {
            ledger,
            config,
            fresh: BTreeMap::new(),
            fronts: BTreeMap::new(),
            ready_count: 0,
            arrived_count: 0,
            held: Map::default(),
            reserved_count: 0,
            waits: Waits::new(),
            quarantine: Quarantine::default(),
            batch_count: 0,
            running: JoinSet::new(),
            hands: HashMap::new(),
            lanes_running: 0,
            waiting: 0,
        }
    }

    /// Runs until every sender of the inbox is gone and everything that it brought is answered.
    ///
    /// While every lane is busy a command that arrives could only wait, so it wakes nobody; see [`super::note_filling`].
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Ticket>, filling: Arc<Notify>) {
        let mut arrived = Vec::new();
        let mut open = true;
        while open || self.waiting > 0 || !self.running.is_empty() {
            let room = self.config.queue_depth_max.saturating_sub(self.waiting);
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
                    self.waiting += count;
                    arrived.drain(..).for_each(|ticket| self.place(ticket));
                }
                () = filling.notified(), if can_read && !is_reading => {}
                () = tokio::time::sleep_until(alarm.unwrap_or_else(Instant::now)), if alarm.is_some() => {}
            }
            self.dispatch();
        }
    }

    /// Takes what arrived while every lane was busy, so that the next batch is made of all there is.
    fn take_arrived(&mut self, inbox: &mut mpsc::Receiver<Ticket>) {
        while self.waiting < self.config.queue_depth_max
            && let Ok(ticket) = inbox.try_recv()
        {
            self.waiting += 1;
            self.place(ticket);
        }
    }

    /// Puts a command that arrived where it has to wait.
    fn place(&mut self, mut ticket: Ticket) {
        self.arrived_count += 1;
        ticket.waiting.number = self.arrived_count;
        let Some(ticket) = self.park_at_operation(ticket) else {
            return;
        };
        match self.obstacle(&ticket) {
            Some(account_id) => self.park(ticket, account_id),
            None => self.make_ready(ticket),
        }
    }

    fn make_ready(&mut self, ticket: Ticket) {
        self.fresh.insert(ticket.waiting.number, ticket);
        self.ready_count += 1;
    }

    /// Takes the oldest of the commands that may be able to run.
    fn pop_ready(&mut self) -> Option<Ticket> {
        let fresh = self.fresh.first_key_value().map(|(number, _)| *number);
        let front = self.fronts.first_key_value().map(|(number, _)| *number);
        let ticket = match (fresh, front) {
            (None, None) => return None,
            (Some(fresh), Some(front)) if front < fresh => self.pop_front(),
            (None, Some(_)) => self.pop_front(),
            (Some(_), _) => self.fresh.pop_first().map(|(_, ticket)| ticket),
        };
        self.ready_count -= 1;
        ticket
    }

    /// Takes the oldest command of `fronts`.
    fn pop_front(&mut self) -> Option<Ticket> {
        let (_, account_id) = self.fronts.pop_first()?;
        let held = self.held.get_mut(&account_id)?;
        let (_, ticket) = held.parked.pop_first()?;
        match held.parked.first_key_value() {
            Some((number, _)) => drop(self.fronts.insert(*number, account_id)),
            // A batch that is being gathered may have it already.
            None if held.holder != Holder::Nobody => {}
            None => drop(self.held.remove(&account_id)),
        }
        Some(ticket)
    }

    /// Who has an account in hand.
    fn holder(&self, account_id: &AccountId) -> Holder {
        self.held
            .get(account_id)
            .map_or(Holder::Nobody, |held| held.holder)
    }

    /// Gives an account that nobody had in hand to somebody.
    fn hold(&mut self, account_id: &AccountId, holder: Holder) {
        if self.holder(account_id) == Holder::Nobody {
            self.close_front(account_id);
        }
        let held = self.held.entry(account_id.clone());
        held.or_insert_with(|| Held::by(holder)).holder = holder;
    }

    /// Lets the commands that wait for an account continue to wait, though nobody had it in hand.
    fn close_front(&mut self, account_id: &AccountId) {
        let parked = self.held.get(account_id).map(|held| &held.parked);
        if let Some(parked) = parked
            && let Some((number, _)) = parked.first_key_value()
        {
            self.fronts.remove(number);
            self.ready_count -= parked.len();
        }
    }

    /// The account that keeps a command from running: one in somebody's hands.
    fn obstacle(&self, ticket: &Ticket) -> Option<AccountId> {
        self.obstacle_beside(ticket, Holder::Nobody)
    }

    /// The account that keeps a command from going into the batch of `lane`.
    fn obstacle_beside(&self, ticket: &Ticket, lane: Holder) -> Option<AccountId> {
        let is_in_the_way = |id: &&AccountId| match self.holder(id) {
            Holder::Nobody => false,
            holder => holder != lane && ticket.waiting.reserved.as_ref() != Some(*id),
        };
        ticket.account_ids().find(is_in_the_way).cloned()
    }

    /// Lets a command wait for an account. One that waited often, each time for the other one of two busy accounts, gets
    /// the one that is free reserved; else it might wait for ever.
    fn park(&mut self, mut ticket: Ticket, account_id: AccountId) {
        if ticket.waiting.waits_for.as_ref() != Some(&account_id) {
            ticket.waiting.waits_for = Some(account_id.clone());
            ticket.waiting.detours += 1;
        }
        let is_old = ticket.waiting.detours > DETOURS_MAX;
        match self.holder(&account_id) {
            Holder::Outside => self.expect_a_long_wait(&mut ticket),
            Holder::Quarantine => self.unreserve(&mut ticket),
            // It ends soon, whatever else happens. Waiting for a reservation of another command might not.
            Holder::Lane(_) if is_old && ticket.waiting.reserved.is_none() => {
                self.reserve(&mut ticket);
            }
            Holder::Lane(_) | Holder::Hold | Holder::Ticket | Holder::Nobody => {}
        }
        match self.held.get_mut(&account_id) {
            Some(held) if held.holder != Holder::Nobody => {
                held.parked.insert(ticket.waiting.number, ticket);
            }
            _ => self.make_ready(ticket),
        }
    }

    fn reserve(&mut self, ticket: &mut Ticket) {
        let is_free = |id: &&AccountId| self.holder(id) == Holder::Nobody;
        let free = ticket.account_ids().find(is_free).cloned();
        if let Some(account_id) = &free {
            self.hold(account_id, Holder::Ticket);
            self.reserved_count += 1;
        }
        ticket.waiting.reserved = free;
    }

    /// Its lock wait begins; accounts that it reserved are free for others in this time.
    fn expect_a_long_wait(&mut self, ticket: &mut Ticket) {
        let lock_wait_max = self.config.lock_wait_max;
        let end = &mut ticket.waiting.lock_wait_end;
        end.get_or_insert_with(|| Instant::now() + lock_wait_max);
        self.unreserve(ticket);
    }

    fn unreserve(&mut self, ticket: &mut Ticket) {
        if let Some(account_id) = ticket.waiting.reserved.take() {
            self.reserved_count -= 1;
            self.release(account_id);
        }
    }

    /// Gives work to every lane and every lock-wait connection that has none.
    fn dispatch(&mut self) {
        self.use_holds();
        self.run_quarantined();
        self.start_waits();
        while self.has_free_lane() && !self.is_worth_gathering() {
            let (tickets, account_ids) = self.gather();
            if tickets.is_empty() {
                break;
            }
            self.start_lane(tickets, account_ids);
        }
    }

    fn start_lane(&mut self, tickets: Vec<Ticket>, account_ids: Vec<AccountId>) {
        self.lanes_running += 1;
        let batch = Batch {
            account_ids,
            size: tickets.len(),
            started: Instant::now(),
        };
        self.start(tickets, Hand::Lane(batch), Locking::Skip);
    }

    /// Takes the oldest command that waits for an account in somebody's hands.
    fn unpark(&mut self, account_id: &AccountId) -> Option<Ticket> {
        let held = self.held.get_mut(account_id)?;
        held.parked.pop_first().map(|(_, ticket)| ticket)
    }

    fn repark(&mut self, account_id: &AccountId, ticket: Ticket) {
        if let Some(held) = self.held.get_mut(account_id) {
            held.parked.insert(ticket.waiting.number, ticket);
        }
    }

    /// True if the command is withdrawn; then the caller of this function ends it.
    fn end_if_pointless(&mut self, ticket: &Ticket, now: Instant) -> bool {
        let is_pointless = ticket.withdraw_if_pointless(now);
        if is_pointless {
            self.waiting -= 1;
            if let Some(account_id) = &ticket.waiting.reserved {
                self.reserved_count -= 1;
                self.release(account_id.clone());
            }
        }
        is_pointless
    }

    /// The commands that come first when the accounts are granted.
    fn parked_commands(&self, wait: &Wait) -> Vec<Arc<Command>> {
        let Wait::Accounts(account_ids) = wait else {
            return Vec::new();
        };
        let held = account_ids.iter().filter_map(|id| self.held.get(id));
        let first = held.flat_map(|held| held.parked.values().take(self.config.batch_size_max));
        first.map(|ticket| ticket.job.command.clone()).collect()
    }

    fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.hands.values().filter_map(|hand| match hand {
            Hand::Lane(batch) | Hand::Granted { batch, .. } => Some(batch),
            Hand::Wait { .. } | Hand::Release(_) => None,
        })
    }

    /// Whether a free lane does better to wait: what is ready is less than what runs, and what runs will end
    /// soon and bring more. A transaction costs much that does not depend on how many commands are in it, so two batches
    /// of one size are cheaper than a large one and a small one after the other.
    fn is_worth_gathering(&self) -> bool {
        let now = Instant::now();
        self.batches().any(|batch| {
            self.ready_count < worth_a_batch_beside(batch.size)
                && now - batch.started < GATHERING_MAX
        })
    }

    /// Whether there are commands that wait for more of them, and a free lane with them.
    fn is_gathering(&self) -> bool {
        self.ready_count > 0 && self.has_free_lane()
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
        gathering.into_iter().chain(idle).chain(quarantine).min()
    }

    fn start(&mut self, tickets: Vec<Ticket>, hand: Hand, locking: Locking<L::Hold>) {
        let ended = lane::run(self.ledger.clone(), tickets, locking);
        let task = self
            .running
            .spawn(Box::pin(async move { Done::Batch(ended.await) }));
        self.hands.insert(task.id(), hand);
    }

    /// Takes what a task has in hand back from it.
    fn finish(&mut self, finished: Result<(Id, Done<L::Hold>), JoinError>) {
        let (id, done) = finished.unwrap_or_else(|panic| {
            // A lane only dies of a bug. Its callers see their answers dropped.
            tracing::error!(%panic, "a lane panicked");
            (panic.id(), Done::Died)
        });
        let now = Instant::now();
        match self.hands.remove(&id) {
            Some(Hand::Lane(batch)) => {
                self.lanes_running -= 1;
                self.finish_batch(batch.account_ids, done, now);
            }
            Some(Hand::Granted {
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
            Some(Hand::Wait { wait, began }) => self.finish_wait(wait, done, began, now),
            Some(Hand::Release(account_ids)) => {
                self.waits.connection_count -= 1;
                account_ids.into_iter().for_each(|id| self.release(id));
            }
            None => {}
        }
    }

    fn finish_batch(&mut self, released: Vec<AccountId>, done: Done<L::Hold>, now: Instant) {
        let Ended {
            stepped_aside,
            suspects,
            has_decided,
        } = match done {
            Done::Batch(ended) => ended,
            _ => Ended::default(),
        };
        if has_decided {
            // In quarantine each command is alone: all accounts of the batch are its own.
            released
                .iter()
                .filter(|id| !suspects.contains(id))
                .for_each(|id| self.quarantine.note_executed(id));
        }
        let apart_count = self.quarantine.note_rejected(&suspects, now);
        if apart_count > 0 {
            tracing::warn!(
                accounts = apart_count,
                "the database rejects commands on accounts; for a while each of these commands is executed alone"
            );
        }
        let mut obstructed = Vec::new();
        for (obstacle, mut ticket) in stepped_aside {
            ticket.waiting.step_aside_count += 1;
            self.expect_a_long_wait(&mut ticket);
            self.waiting += 1;
            match obstacle {
                Obstacle::Account(account_id) => obstructed.push((account_id, ticket)),
                Obstacle::Operation(operation_id) => {
                    // It was not the id: something else that it alone needs is locked, and its neighbours do not pay for it.
                    if ticket.waiting.step_aside_count > 1 {
                        let suspects: Vec<AccountId> = ticket.account_ids().cloned().collect();
                        self.quarantine.note_rejected(&suspects, now);
                    }
                    if has_waited_enough(&ticket, None, now) {
                        self.waiting -= 1;
                        ticket.answer(contention(None));
                    } else {
                        self.await_operation(operation_id, ticket);
                    }
                }
            }
        }
        let contended: Set<AccountId> = obstructed.iter().map(|(id, _)| id.clone()).collect();
        for account_id in released {
            if !contended.contains(&account_id) {
                self.release(account_id);
            }
        }
        for (account_id, ticket) in obstructed {
            self.step_aside(account_id, ticket, now);
        }
    }

    /// Takes an account out of all hands.
    fn release(&mut self, account_id: AccountId) {
        let is_apart = self.quarantine.contains(&account_id);
        let Entry::Occupied(mut entry) = self.held.entry(account_id) else {
            return;
        };
        let held = entry.get_mut();
        if held.holder == Holder::Nobody {
            return;
        }
        held.outside_since = None;
        if is_apart {
            held.holder = Holder::Quarantine;
            let account_id = entry.key().clone();
            self.unreserve_for_those_at(&account_id);
            return;
        }
        match held.parked.first_key_value() {
            Some((number, _)) => {
                held.holder = Holder::Nobody;
                let number = *number;
                self.ready_count += held.parked.len();
                self.fronts.insert(number, entry.key().clone());
            }
            None => drop(entry.remove()),
        }
    }
}

/// Whether half of the inbox is taken, by commands or by places for them.
fn is_filling(inbox: &mpsc::Receiver<Ticket>) -> bool {
    inbox.capacity() <= inbox.max_capacity() / 2
}
