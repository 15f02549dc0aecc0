//! The batcher: a bounded queue, and the loop that coalesces what waits in it into shared transactions.
//!
//! A job is one command, or an atomic group of them, with any number of accounts. While the lanes (connections) work, the next
//! batch gathers, and a free lane takes its share; the only timer keeps a few jobs from waiting long for more of them. Jobs on
//! an account that a lane has wait until that lane is done, so lanes never wait for each other's row locks, and a hot account
//! is one batch after the other at full size. A job that is blocked again and again reserves its accounts, see
//! `schedule/reservations.rs`.
//!
//! A job on an account that another session holds is deferred. A lock-wait connection waits for that account, holding nothing
//! else, while all others go on; when the lock is granted, all jobs that wait for the account by then go into one batch, in
//! the transaction that has the lock.

mod caller;
mod group;
mod in_flight;
mod lane;
mod pipeline;
mod schedule;
mod thread;
mod ticket;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::domain::{AccountId, Claim, Command};
use crate::store::{Decision, GroupDecision, Job, Ledger, Observer};

pub use pipeline::{Pipeline, QueueSlot};
use schedule::Schedule;
pub use thread::WriteThread;
use ticket::Ticket;

/// The numbers of the write path.
#[derive(Debug, Clone)]
pub struct BatcherConfig {
    /// Lanes: batches that run side by side.
    pub lanes: usize,
    /// Connections that wait for what another session holds.
    pub lock_wait_connections: usize,
    /// The most commands in one transaction; each two accounts count as a command at least. A larger group has a transaction of
    /// its own.
    pub batch_size_max: usize,
    /// The most jobs that wait; beyond it single callers get OVERLOADED. Pipelines and groups wait when their commands are half
    /// of it.
    pub queue_depth_max: usize,
    /// The longest that a job waits for a lock held elsewhere; then CONTENTION.
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
    /// The deadline passed before the job was started.
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

/// The answer to a command, or with another `D` to something else that is decided.
#[derive(Debug, Clone)]
pub enum Answer<D = Decision> {
    /// Decided and durable.
    Decided(D),
    /// Not decided, or not known.
    Failed(Failure),
}

/// The answer to an atomic group.
pub type GroupAnswer = Answer<GroupDecision>;

/// The way into the write path. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Batcher {
    queue: mpsc::Sender<Ticket>,
    /// Tells the loop that its inbox fills while every lane is busy.
    filling: Arc<Notify>,
    /// The part of the queue that pipelines and groups may fill, in commands.
    shared_slots: Arc<Semaphore>,
    shared_slot_count: usize,
    closing: Arc<AtomicBool>,
}

impl Batcher {
    /// Starts the loop on `ledger`, with the lanes and what they spawn, on `runtime`. It ends, with every accepted job
    /// answered, when it was closed and all clones of the batcher are gone. `observer` is told what it does.
    pub fn start<L: Ledger>(
        runtime: &Handle,
        ledger: Arc<L>,
        observer: Observer,
        config: BatcherConfig,
    ) -> (Self, JoinHandle<()>) {
        // Half of what may wait does so in the inbox, the other half where the loop sorts it.
        let inbox_depth = config.queue_depth_max.div_ceil(2);
        let (queue, inbox) = mpsc::channel(inbox_depth);
        let shared_slot_count = (config.queue_depth_max / 2).max(1);
        let config = BatcherConfig {
            queue_depth_max: (config.queue_depth_max - inbox_depth).max(1),
            ..config
        };
        let filling = Arc::new(Notify::new());
        let schedule = Schedule::new(ledger, observer, config);
        let running = runtime.spawn(schedule.run(inbox, filling.clone()));
        (
            Self {
                queue,
                filling,
                shared_slots: Arc::new(Semaphore::new(shared_slot_count)),
                shared_slot_count,
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
        self.answer(Job::new(Arc::new(command), Arc::default(), deadline))
            .await
    }

    /// What [`Batcher::execute`] would answer now. Nothing happens, and nothing is recorded.
    pub async fn validate(&self, command: Command, deadline: Instant) -> Answer {
        let job = Job::new(Arc::new(command), Arc::default(), deadline);
        self.answer(job.only_validated()).await
    }

    async fn answer(&self, job: Job) -> Answer {
        let deadline = job.deadline;
        let mut pending = match self.accept(job) {
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
        self.accept(Job::new(Arc::new(command), Arc::default(), deadline))
    }

    fn accept(&self, job: Job) -> Result<Pending, Failure> {
        if self.is_closing() {
            return Err(Failure::ShuttingDown);
        }
        self.submit_job(job)
    }

    fn submit_job(&self, job: Job) -> Result<Pending, Failure> {
        let now = Instant::now();
        if job.deadline <= now {
            return Err(Failure::NEVER_SENT);
        }
        let claim = job.claim.clone();
        let (answer, answered) = oneshot::channel();
        let ticket = Ticket::new(job, answer, now);
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

/// To be called after each job that goes into the queue. While every lane is busy the loop sleeps, and is woken only
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
