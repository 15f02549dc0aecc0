//! The schedule: which command goes into which batch. It alone knows which accounts are in whose hands, so it needs no
//! lock, and it never waits for the database.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::lane::{self, SteppedAside};
use super::{Answer, BatcherConfig, Failure, Ticket};
use crate::domain::{AccountId, Map, Set};
use crate::store::{Ledger, Locking};

/// How often a command waits, each time for another one of its accounts, before the free one of them is kept for it.
const DETOURS_MAX: u32 = 4;
/// How long a patient lane waits for one lock while commands on other accounts want the lane.
const PATIENT_TURN: Duration = Duration::from_millis(150);

/// Who has an account in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// Nobody any more: the commands that waited for it may go, as far as it is concerned.
    Nobody,
    /// A lane, with the batch of this number.
    Lane(u64),
    /// Somebody outside; a patient lane waits for it, or will.
    Outside,
    /// A command that waits for its other account.
    Ticket,
}

/// An account that is or was in somebody's hands, and the commands that wait for it, by their numbers.
struct Held {
    holder: Holder,
    parked: BTreeMap<u64, Ticket>,
}

impl Held {
    fn by(holder: Holder) -> Self {
        Self {
            holder,
            parked: BTreeMap::new(),
        }
    }
}

/// How long a batch may run before others no longer wait for its end. Batches take some milliseconds, full ones some
/// tens; what takes longer is in trouble.
const GATHERING_MAX: Duration = Duration::from_millis(50);

/// So many commands are worth a transaction whatever else runs: what it costs by itself is less than theirs.
const GATHERED_ENOUGH: usize = 32;

/// How many commands a free lane waits for while a batch of this size runs.
fn worth_a_batch_beside(size: usize) -> usize {
    size.min(GATHERED_ENOUGH)
}

/// The accounts that a task has in hand.
enum Hand {
    /// All accounts of its batch.
    Lane(Batch),
    /// The account that it waits for.
    PatientLane(AccountId),
}

/// A batch in a lane.
struct Batch {
    account_ids: Vec<AccountId>,
    size: usize,
    started: Instant,
}

/// What waits, and what runs.
pub(super) struct Schedule<L> {
    ledger: Arc<L>,
    config: BatcherConfig,
    /// Commands that arrived and have not met an account in somebody's hands, and those that a batch left to others, by
    /// their numbers: of these and of those that `fronts` leads to, the oldest goes first.
    fresh: BTreeMap<u64, Ticket>,
    /// Of each account that nobody has in hand any more, the number of the oldest command that waited for it. The
    /// commands stay there until a batch has room for them: what many callers wait for is not sorted anew for each batch.
    fronts: BTreeMap<u64, AccountId>,
    /// Commands in `fresh`, and on the accounts of `fronts`.
    ready_count: usize,
    /// How many commands came so far.
    arrived_count: u64,
    /// The accounts in somebody's hands, and those of `fronts`.
    held: Map<AccountId, Held>,
    /// Accounts that are locked from outside, each with the commands that found out. Also in `held`.
    contended: VecDeque<(AccountId, Vec<Ticket>)>,
    /// How many batches were begun.
    batch_count: u64,
    running: JoinSet<SteppedAside>,
    /// What each running task has in hand.
    hands: HashMap<Id, Hand>,
    lanes_running: usize,
    patient_lanes_running: usize,
    /// Commands in `fresh`, `held` and `contended`.
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
            contended: VecDeque::new(),
            batch_count: 0,
            running: JoinSet::new(),
            hands: HashMap::new(),
            lanes_running: 0,
            patient_lanes_running: 0,
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
            let gathering_end = self.gathering_end();
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
                () = tokio::time::sleep_until(gathering_end), if self.is_gathering() => {}
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
        ticket.number = self.arrived_count;
        match self.obstacle(&ticket) {
            Some(account_id) => self.park(ticket, account_id),
            None => self.make_ready(ticket),
        }
    }

    fn make_ready(&mut self, ticket: Ticket) {
        self.fresh.insert(ticket.number, ticket);
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

    /// Lets the commands that wait for an account go on waiting, though nobody had it in hand.
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
        let mut account_ids = ticket.job.command.movement.account_ids();
        let is_in_the_way = |id: &&AccountId| match self.holder(id) {
            Holder::Nobody => false,
            holder => holder != lane && ticket.reserved.as_ref() != Some(*id),
        };
        account_ids.find(is_in_the_way).cloned()
    }

    /// Lets a command wait for an account. One that waited often, each time for the other one of two busy accounts, gets
    /// the one that is free reserved; else it might wait for ever.
    fn park(&mut self, mut ticket: Ticket, account_id: AccountId) {
        if ticket.waits_for.as_ref() != Some(&account_id) {
            ticket.waits_for = Some(account_id.clone());
            ticket.detours += 1;
        }
        let is_old = ticket.detours > DETOURS_MAX;
        match self.holder(&account_id) {
            Holder::Outside => self.expect_a_long_wait(&mut ticket),
            // It ends soon, whatever else happens. Waiting for a reservation of another command might not.
            Holder::Lane(_) if is_old && ticket.reserved.is_none() => self.reserve(&mut ticket),
            Holder::Lane(_) | Holder::Ticket | Holder::Nobody => {}
        }
        match self.held.get_mut(&account_id) {
            Some(held) if held.holder != Holder::Nobody => {
                held.parked.insert(ticket.number, ticket);
            }
            _ => self.make_ready(ticket),
        }
    }

    fn reserve(&mut self, ticket: &mut Ticket) {
        let mut account_ids = ticket.job.command.movement.account_ids();
        let is_free = |id: &&AccountId| self.holder(id) == Holder::Nobody;
        ticket.reserved = account_ids.find(is_free).cloned();
        if let Some(account_id) = &ticket.reserved {
            self.hold(account_id, Holder::Ticket);
        }
    }

    /// Its lock wait begins, and what it reserved is free for others meanwhile.
    fn expect_a_long_wait(&mut self, ticket: &mut Ticket) {
        let lock_wait_max = self.config.lock_wait_max;
        ticket
            .lock_wait_end
            .get_or_insert_with(|| Instant::now() + lock_wait_max);
        self.unreserve(ticket);
    }

    fn unreserve(&mut self, ticket: &mut Ticket) {
        if let Some(account_id) = ticket.reserved.take() {
            self.release(account_id);
        }
    }

    /// Gives work to every lane that has none. Patient lanes come first: what they turn out not to need is released.
    fn dispatch(&mut self) {
        while self.patient_lanes_running < self.config.patient_lanes {
            let Some((account_id, tickets)) = self.contended.pop_front() else {
                break;
            };
            self.waiting -= tickets.len();
            let now = Instant::now();
            let (over, tickets): (Vec<_>, Vec<_>) = tickets
                .into_iter()
                .partition(|ticket| ticket.withdraw_if_pointless(now));
            over.into_iter().for_each(Ticket::end);
            if tickets.is_empty() {
                self.release(account_id);
                continue;
            }
            self.patient_lanes_running += 1;
            let wait_max = self.wait_max(&tickets);
            let hand = Hand::PatientLane(account_id.clone());
            let locking = Locking::Wait {
                account_id,
                wait_max,
            };
            self.start(tickets, hand, locking);
        }
        while self.has_free_lane() && !self.is_worth_gathering() {
            let (tickets, account_ids) = self.gather();
            if tickets.is_empty() {
                break;
            }
            self.lanes_running += 1;
            let batch = Batch {
                account_ids,
                size: tickets.len(),
                started: Instant::now(),
            };
            self.start(tickets, Hand::Lane(batch), Locking::Skip);
        }
    }

    fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.hands.values().filter_map(|hand| match hand {
            Hand::Lane(batch) => Some(batch),
            Hand::PatientLane(_) => None,
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

    /// How long a patient lane may wait: as long as one of its commands does, but only in turns while others want it.
    fn wait_max(&self, tickets: &[Ticket]) -> Duration {
        let now = Instant::now();
        let wait_end = |ticket: &Ticket| ticket.lock_wait_end.unwrap_or(now).min(ticket.deadline);
        let wait_end = tickets.iter().map(wait_end).max().unwrap_or(now);
        let wait_max = wait_end.saturating_duration_since(now);
        if self.contended.is_empty() {
            wait_max
        } else {
            wait_max.min(PATIENT_TURN)
        }
    }

    /// As many commands as each lane has if all have the same. A batch that takes all there are leaves the other lanes
    /// with little to do until it ends.
    fn share(&self, now: Instant) -> usize {
        let (in_time, in_trouble): (Vec<&Batch>, Vec<&Batch>) = self
            .batches()
            .partition(|batch| now - batch.started < GATHERING_MAX);
        let running: usize = in_time.iter().map(|batch| batch.size).sum();
        let lanes = self.config.lanes.saturating_sub(in_trouble.len()).max(1);
        let share = (self.ready_count + running).div_ceil(lanes);
        share.max(GATHERED_ENOUGH)
    }

    /// The next batch: commands on accounts in nobody's hands, a lane's share, and what no other lane could do meanwhile or
    /// would not begin with. Their accounts, which come with it, are in its hands from now on.
    fn gather(&mut self) -> (Vec<Ticket>, Vec<AccountId>) {
        let mut tickets = Vec::new();
        let (mut taken, mut fronted) = (Vec::new(), Vec::new());
        self.batch_count += 1;
        let lane = Holder::Lane(self.batch_count);
        let now = Instant::now();
        let share = self.share(now);
        let (mut left, mut left_on) = (Vec::new(), Set::default());
        while tickets.len().max(left.len()) < self.config.batch_size_max {
            let Some(mut ticket) = self.pop_ready() else {
                break;
            };
            if ticket.withdraw_if_pointless(now) {
                self.waiting -= 1;
                self.unreserve(&mut ticket);
                ticket.end();
                continue;
            }
            if let Some(account_id) = self.obstacle_beside(&ticket, lane) {
                self.park(ticket, account_id);
                continue;
            }
            if tickets.len() >= share {
                let movement = &ticket.job.command.movement;
                let is_on_taken = movement.account_ids().any(|id| self.holder(id) == lane);
                // None goes before an older one on its account.
                if !is_on_taken || movement.account_ids().any(|id| left_on.contains(id)) {
                    left_on.extend(movement.account_ids().cloned());
                    left.push(ticket);
                    continue;
                }
            }
            self.take(&mut ticket, lane, &mut taken, &mut fronted);
            tickets.push(ticket);
        }
        let mut is_leaving = left.len() >= worth_a_batch_beside(tickets.len());
        for mut ticket in left {
            // Meanwhile its account may have been kept free for another one; those after it may be on its other account.
            is_leaving |= tickets.len() == self.config.batch_size_max;
            is_leaving |= self.obstacle_beside(&ticket, lane).is_some();
            if is_leaving {
                self.make_ready(ticket);
                continue;
            }
            self.take(&mut ticket, lane, &mut taken, &mut fronted);
            tickets.push(ticket);
        }
        self.waiting -= tickets.len();
        for account_id in &fronted {
            self.close_front(account_id);
        }
        (tickets, taken)
    }

    /// Gives a command's accounts to the lane that gathers, and adds those to `taken` that it did not have yet. What waits
    /// for one may still go into the same batch: it stays among the `fronts` until that is complete, see `fronted`.
    fn take(
        &mut self,
        ticket: &mut Ticket,
        lane: Holder,
        taken: &mut Vec<AccountId>,
        fronted: &mut Vec<AccountId>,
    ) {
        ticket.reserved = None;
        for account_id in ticket.job.command.movement.account_ids() {
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

    fn start(&mut self, tickets: Vec<Ticket>, hand: Hand, locking: Locking) {
        let task = self
            .running
            .spawn(Box::pin(lane::run(self.ledger.clone(), tickets, locking)));
        self.hands.insert(task.id(), hand);
    }

    /// Takes a batch back from its lane.
    fn finish(&mut self, finished: Result<(Id, SteppedAside), JoinError>) {
        let (id, stepped_aside) = finished.unwrap_or_else(|panic| {
            // A lane only dies of a bug. Its callers see their answers dropped.
            tracing::error!(%panic, "a lane died");
            (panic.id(), Vec::new())
        });
        let released = match self.hands.remove(&id) {
            Some(Hand::Lane(batch)) => {
                self.lanes_running -= 1;
                batch.account_ids
            }
            Some(Hand::PatientLane(account_id)) => {
                self.patient_lanes_running -= 1;
                vec![account_id]
            }
            None => Vec::new(),
        };
        let now = Instant::now();
        let mut contended: Map<AccountId, Vec<Ticket>> = Map::default();
        for (account_id, mut ticket) in stepped_aside {
            self.expect_a_long_wait(&mut ticket);
            if ticket.has_waited_enough(now) {
                ticket.answer(contention(account_id));
                continue;
            }
            self.waiting += 1;
            contended.entry(account_id).or_default().push(ticket);
        }
        for account_id in released {
            if !contended.contains_key(&account_id) {
                self.release(account_id);
            }
        }
        for (account_id, tickets) in contended {
            self.hold_outside(&account_id, now);
            match self.contended.iter_mut().find(|(id, _)| *id == account_id) {
                Some((_, waiting)) => waiting.extend(tickets),
                None => self.contended.push_back((account_id, tickets)),
            }
        }
    }

    /// Notes that somebody outside holds an account. Those who wait for it, wait for a lock from now on, and those who
    /// waited enough are told.
    fn hold_outside(&mut self, account_id: &AccountId, now: Instant) {
        self.hold(account_id, Holder::Outside);
        let parked = self.held.get_mut(account_id).map(|held| &mut held.parked);
        let parked = parked.map(std::mem::take).unwrap_or_default();
        let mut staying = BTreeMap::new();
        for (number, mut ticket) in parked {
            self.expect_a_long_wait(&mut ticket);
            if ticket.has_waited_enough(now) {
                self.waiting -= 1;
                ticket.answer(contention(account_id.clone()));
            } else {
                staying.insert(number, ticket);
            }
        }
        if let Some(held) = self.held.get_mut(account_id) {
            held.parked = staying;
        }
    }

    /// Takes an account out of all hands.
    fn release(&mut self, account_id: AccountId) {
        let Entry::Occupied(mut entry) = self.held.entry(account_id) else {
            return;
        };
        let held = entry.get_mut();
        if held.holder == Holder::Nobody {
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

fn contention(account_id: AccountId) -> Answer {
    Answer::Failed(Failure::Contention {
        account_id: Some(account_id),
    })
}
