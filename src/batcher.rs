//! The batcher: a bounded queue, and the loop that coalesces what waits in it into shared transactions.
//!
//! While the lanes (connections) work, the next batch gathers, and a free lane takes its share; the only timer
//! keeps a few commands from waiting long for more of them. Commands on an account that a lane has in hand wait until that lane is
//! done, so lanes never wait for each other's row locks, and a hot account is one batch after the other at full size. A
//! command on an account that somebody outside holds steps aside. A lock-wait connection waits for that account, holding
//! nothing else, while all others go on; when the lock is granted, all commands that wait for the account by then go into
//! one batch, in the transaction that has the lock.

mod caller;
mod group;
mod lane;
mod schedule;
mod thread;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::domain::{AccountId, Claim, Command, Receipt, Refusal};
use crate::store::{Job, Ledger};

use caller::Caller;
pub use group::{Group, Place};
use schedule::Schedule;
pub use thread::WriteThread;

/// The numbers of the write path.
#[derive(Debug, Clone)]
pub struct BatcherConfig {
    /// Lanes: batches that run side by side.
    pub lanes: usize,
    /// Connections that wait for what somebody outside holds.
    pub patient_lanes: usize,
    /// The most commands in one transaction.
    pub batch_size_max: usize,
    /// The most commands that wait; beyond it single callers get OVERLOADED, and groups wait at half of it.
    pub queue_depth_max: usize,
    /// The longest that a command waits for a lock held elsewhere; then CONTENTION.
    pub lock_wait_max: Duration,
}

/// A failure: something broke, or took too long. Not a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// A lock stayed taken, or a transaction kept losing. Nothing happened.
    Contention {
        /// The account that is locked, if one is known.
        account_id: Option<AccountId>,
    },
    /// The queue is full. Nothing happened.
    Overloaded,
    /// The instance stops. Nothing happened.
    ShuttingDown,
    /// The database cannot be reached.
    DatabaseUnavailable {
        /// Whether the operation may have happened.
        outcome_unknown: bool,
    },
    /// The caller's deadline passed.
    Deadline {
        /// Whether the operation may have happened, or may still.
        outcome_unknown: bool,
    },
    /// A bug, or a row that somebody changed; it was logged. The command was not committed, but an operation of the same id may
    /// have been before: callers are told that the outcome is unknown.
    Internal,
}

impl Failure {
    /// The deadline passed before the command was started.
    const NEVER_SENT: Self = Self::Deadline {
        outcome_unknown: false,
    };

    /// Whether the operation may have happened, or may still.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::DatabaseUnavailable { outcome_unknown } | Self::Deadline { outcome_unknown } => {
                *outcome_unknown
            }
            Self::Contention { .. } | Self::Overloaded | Self::ShuttingDown | Self::Internal => {
                false
            }
        }
    }
}

/// The answer to a command.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Decided and durable.
    Decided(Result<Receipt, Refusal>),
    /// Not decided, or not known.
    Failed(Failure),
}

/// A job, and where its answer goes.
#[derive(Debug)]
struct Ticket {
    job: Job,
    waiting: Waiting,
}

/// What a ticket is besides its job.
#[derive(Debug)]
struct Waiting {
    caller: Caller,
    /// When its lock wait ends; set when it first has to wait for somebody outside.
    lock_wait_end: Option<Instant>,
    /// Its place in the order in which commands came; 0 until the schedule has it.
    number: u64,
    /// How often a batch could not execute it because of somebody outside.
    step_aside_count: u32,
    /// The account that it waits for, or waited for last.
    waits_for: Option<AccountId>,
    /// How often it had to wait for another account than before.
    detours: u32,
    /// The account that is kept free for it.
    reserved: Option<AccountId>,
}

impl Ticket {
    fn new(job: Job, caller: Caller) -> Self {
        Self {
            job,
            waiting: Waiting {
                caller,
                lock_wait_end: None,
                number: 0,
                step_aside_count: 0,
                waits_for: None,
                detours: 0,
                reserved: None,
            },
        }
    }

    fn split(self) -> (Job, Waiting) {
        (self.job, self.waiting)
    }

    fn join(job: Job, waiting: Waiting) -> Self {
        Self { job, waiting }
    }

    fn account_ids(&self) -> impl Iterator<Item = &AccountId> {
        self.job.command.account_ids()
    }

    /// Withdraws the command if nobody waits for the answer any more, or the deadline has passed. False: it goes on.
    fn withdraw_if_pointless(&self, now: Instant) -> bool {
        let claim = &self.job.claim;
        let is_pointless = || self.job.deadline <= now || self.waiting.caller.is_gone();
        claim.is_withdrawn() || (is_pointless() && claim.withdraw())
    }

    /// Tells the caller, if it still listens, that it is over.
    fn end(self) {
        self.answer(Answer::Failed(Failure::NEVER_SENT));
    }

    fn answer(self, answer: Answer) {
        self.waiting.caller.tell(answer);
    }
}

/// The way into the write path. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Batcher {
    queue: mpsc::Sender<Ticket>,
    /// Tells the loop that its inbox fills while every lane is busy.
    filling: Arc<Notify>,
    /// The part of the queue that groups may fill.
    rooms: Arc<Semaphore>,
    closing: Arc<AtomicBool>,
}

impl Batcher {
    /// Starts the loop on `ledger`, with the lanes and what they spawn, on `runtime`. It ends, with every accepted command
    /// answered, when it was closed and all clones of the batcher are gone.
    pub fn start<L: Ledger>(
        runtime: &Handle,
        ledger: Arc<L>,
        config: BatcherConfig,
    ) -> (Self, JoinHandle<()>) {
        // Half of what may wait does so in the inbox, the other half where the loop sorts it.
        let inbox_depth = config.queue_depth_max.div_ceil(2);
        let (queue, inbox) = mpsc::channel(inbox_depth);
        let rooms = Semaphore::new((config.queue_depth_max / 2).max(1));
        let config = BatcherConfig {
            queue_depth_max: (config.queue_depth_max - inbox_depth).max(1),
            ..config
        };
        let filling = Arc::new(Notify::new());
        let schedule = Schedule::new(ledger, config);
        let running = runtime.spawn(schedule.run(inbox, filling.clone()));
        (
            Self {
                queue,
                filling,
                rooms: Arc::new(rooms),
                closing: Arc::default(),
            },
            running,
        )
    }

    /// From now on every new command is answered with [`Failure::ShuttingDown`].
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Executes one command and waits for its final answer, at most until `deadline`. Dropping the future abandons the
    /// answer, and the command too unless it was started.
    pub async fn execute(&self, command: Command, deadline: Instant) -> Answer {
        let mut pending = match self.submit(command, deadline) {
            Ok(pending) => pending,
            Err(failure) => return Answer::Failed(failure),
        };
        match tokio::time::timeout_at(deadline, pending.answer()).await {
            Ok(answer) => answer,
            Err(_elapsed) => Answer::Failed(Failure::Deadline {
                outcome_unknown: !pending.withdraw(),
            }),
        }
    }

    /// Puts one command into the queue. It waits for locks until `deadline`, but once started it runs to its end.
    pub fn submit(&self, command: Command, deadline: Instant) -> Result<Pending, Failure> {
        if self.is_closing() {
            return Err(Failure::ShuttingDown);
        }
        if deadline <= Instant::now() {
            return Err(Failure::NEVER_SENT);
        }
        let claim = Arc::new(Claim::default());
        let job = Job {
            command: Arc::new(command),
            claim: claim.clone(),
            deadline,
        };
        let (answer, answered) = oneshot::channel();
        let ticket = Ticket::new(job, Caller::Single(answer));
        match self.queue.try_send(ticket) {
            Ok(()) => {
                note_filling(&self.filling, &self.queue);
                Ok(Pending { claim, answered })
            }
            Err(mpsc::error::TrySendError::Full(_)) => Err(Failure::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Failure::ShuttingDown),
        }
    }
}

/// To be called after each command that goes into the queue. While every lane is busy the loop sleeps, and is woken only
/// when its inbox is half full.
fn note_filling(filling: &Notify, queue: &mpsc::Sender<Ticket>) {
    if queue.capacity() <= queue.max_capacity() / 2 {
        filling.notify_one();
    }
}

/// A command in the queue or in a lane. Dropping it abandons the answer, and the command too unless it was started.
#[derive(Debug)]
pub struct Pending {
    claim: Arc<Claim>,
    answered: oneshot::Receiver<Answer>,
}

impl Pending {
    /// Waits for the final answer. Cancel safe; there is only one answer, so not to be called again after it came.
    pub async fn answer(&mut self) -> Answer {
        match (&mut self.answered).await {
            Ok(answer) => answer,
            // The loop died with the command in hand.
            Err(_dropped) => Answer::Failed(Failure::DatabaseUnavailable {
                outcome_unknown: !self.claim.withdraw(),
            }),
        }
    }

    /// Withdraws the command. False: it was started, and its outcome is open until the answer comes.
    pub fn withdraw(&self) -> bool {
        self.claim.withdraw()
    }
}

#[cfg(test)]
mod tests;
