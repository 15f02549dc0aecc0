//! The schedule: which command goes into which batch. It alone knows which accounts are in whose hands, so it needs no
//! lock, and it never waits for the database.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::lane::{self, SteppedAside};
use super::{Answer, BatcherConfig, Failure, Ticket};
use crate::domain::AccountId;
use crate::store::{Ledger, Locking};

/// The accounts that a task has in hand.
enum Hand {
    /// All accounts of its batch.
    Lane(HashSet<AccountId>),
    /// The account that it waits for.
    PatientLane(AccountId),
}

fn accounts_of(tickets: &[Ticket]) -> impl Iterator<Item = &AccountId> {
    tickets
        .iter()
        .flat_map(|ticket| ticket.job.command.movement.account_ids())
}

/// What waits, and what runs.
pub(super) struct Schedule<L> {
    ledger: Arc<L>,
    config: BatcherConfig,
    /// Commands whose accounts are in nobody's hands, as far as is known; oldest first.
    ready: VecDeque<Ticket>,
    /// The accounts in the hands of a lane, each with the commands that wait for it.
    busy: HashMap<AccountId, VecDeque<Ticket>>,
    /// Accounts that are locked from outside, each with the commands that found out. Also in `busy`.
    contended: VecDeque<(AccountId, Vec<Ticket>)>,
    running: JoinSet<SteppedAside>,
    /// What each running task has in hand.
    hands: HashMap<Id, Hand>,
    lanes_running: usize,
    patient_lanes_running: usize,
    /// Commands in `ready`, `busy` and `contended`.
    waiting: usize,
}

impl<L: Ledger> Schedule<L> {
    pub(super) fn new(ledger: Arc<L>, config: BatcherConfig) -> Self {
        Self {
            ledger,
            config,
            ready: VecDeque::new(),
            busy: HashMap::new(),
            contended: VecDeque::new(),
            running: JoinSet::new(),
            hands: HashMap::new(),
            lanes_running: 0,
            patient_lanes_running: 0,
            waiting: 0,
        }
    }

    /// Runs until every sender of the inbox is gone and everything that it brought is answered.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Ticket>) {
        let mut arrived = Vec::new();
        let mut open = true;
        while open || self.waiting > 0 || !self.running.is_empty() {
            let room = self.config.queue_depth_max.saturating_sub(self.waiting);
            tokio::select! {
                biased;
                Some(finished) = self.running.join_next_with_id() => self.finish(finished),
                count = inbox.recv_many(&mut arrived, room), if open && room > 0 => {
                    open = count > 0;
                    self.waiting += count;
                    arrived.drain(..).for_each(|ticket| self.place(ticket));
                }
            }
            self.dispatch();
        }
    }

    /// Puts a command where it has to wait.
    fn place(&mut self, ticket: Ticket) {
        let busy = ticket
            .job
            .command
            .movement
            .account_ids()
            .find(|id| self.busy.contains_key(*id))
            .cloned();
        match busy.and_then(|id| self.busy.get_mut(&id)) {
            Some(parked) => parked.push_back(ticket),
            None => self.ready.push_back(ticket),
        }
    }

    /// Gives work to every lane that has none.
    fn dispatch(&mut self) {
        while self.lanes_running < self.config.lanes {
            let tickets = self.gather();
            if tickets.is_empty() {
                break;
            }
            self.lanes_running += 1;
            self.start(tickets, Locking::Skip);
        }
        while self.patient_lanes_running < self.config.patient_lanes {
            let Some((account_id, mut tickets)) = self.contended.pop_front() else {
                break;
            };
            let count = tickets.len();
            tickets.retain(|ticket| !ticket.is_abandoned());
            self.waiting -= count;
            if tickets.is_empty() {
                self.release(&account_id);
                continue;
            }
            self.patient_lanes_running += 1;
            let now = Instant::now();
            let wait_end = tickets
                .iter()
                .map(|ticket| ticket.lock_wait_end.unwrap_or(now).min(ticket.deadline))
                .max();
            let wait_max = wait_end.unwrap_or(now).saturating_duration_since(now);
            self.start(
                tickets,
                Locking::Wait {
                    account_id,
                    wait_max,
                },
            );
        }
    }

    /// The next batch: commands on accounts that no lane has in hand. Their accounts are in its hands from now on.
    fn gather(&mut self) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        while tickets.len() < self.config.batch_size_max {
            let Some(ticket) = self.ready.pop_front() else {
                break;
            };
            if ticket.is_abandoned() {
                self.waiting -= 1;
                continue;
            }
            let busy = ticket
                .job
                .command
                .movement
                .account_ids()
                .find(|id| self.busy.contains_key(*id))
                .cloned();
            match busy.and_then(|id| self.busy.get_mut(&id)) {
                Some(parked) => parked.push_back(ticket),
                None => tickets.push(ticket),
            }
        }
        self.waiting -= tickets.len();
        for account_id in accounts_of(&tickets) {
            if !self.busy.contains_key(account_id) {
                self.busy.insert(account_id.clone(), VecDeque::new());
            }
        }
        tickets
    }

    fn start(&mut self, tickets: Vec<Ticket>, locking: Locking) {
        let hand = match &locking {
            Locking::Skip => Hand::Lane(accounts_of(&tickets).cloned().collect()),
            Locking::Wait { account_id, .. } => Hand::PatientLane(account_id.clone()),
        };
        let task = self
            .running
            .spawn(lane::run(self.ledger.clone(), tickets, locking));
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
            Some(Hand::Lane(account_ids)) => {
                self.lanes_running -= 1;
                account_ids
            }
            Some(Hand::PatientLane(account_id)) => {
                self.patient_lanes_running -= 1;
                HashSet::from([account_id])
            }
            None => HashSet::new(),
        };
        let now = Instant::now();
        let mut contended: HashMap<AccountId, Vec<Ticket>> = HashMap::new();
        for (account_id, mut ticket) in stepped_aside {
            let wait_end = *ticket
                .lock_wait_end
                .get_or_insert(now + self.config.lock_wait_max);
            if wait_end <= now {
                ticket.answer(Answer::Failed(Failure::Contention {
                    account_id: Some(account_id),
                }));
                continue;
            }
            self.waiting += 1;
            contended.entry(account_id).or_default().push(ticket);
        }
        for account_id in released.iter().filter(|id| !contended.contains_key(*id)) {
            self.release(account_id);
        }
        for (account_id, tickets) in contended {
            self.busy.entry(account_id.clone()).or_default();
            match self.contended.iter_mut().find(|(id, _)| *id == account_id) {
                Some((_, waiting)) => waiting.extend(tickets),
                None => self.contended.push_back((account_id, tickets)),
            }
        }
    }

    /// Takes an account out of all hands. The commands that waited for it are older than all that are ready.
    fn release(&mut self, account_id: &AccountId) {
        for ticket in self
            .busy
            .remove(account_id)
            .unwrap_or_default()
            .into_iter()
            .rev()
        {
            self.ready.push_front(ticket);
        }
    }
}
