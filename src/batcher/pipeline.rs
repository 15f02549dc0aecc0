//! A pipeline: many commands of one caller in flight, answered through one channel as they end, with one timer for all
//! deadlines. A pipeline waits for room in the queue where a single caller is told OVERLOADED; so that pipelines and atomic
//! groups do not crowd single callers out, together they have half of the queue.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, Sleep};

use super::caller::Caller;
use super::in_flight::{Ended, InFlight, Key};
use super::ticket::Ticket;
use super::{Answer, Batcher, Failure, note_filling};
use crate::domain::{Claim, Command};
use crate::store::Job;

/// A reserved slot in the queue, for one job. Dropping it gives it back.
#[derive(Debug)]
pub struct QueueSlot {
    /// The part of the queue that is shared by pipelines and groups.
    queue_share: OwnedSemaphorePermit,
    queue: mpsc::OwnedPermit<Ticket>,
    filling: Arc<Notify>,
}

impl QueueSlot {
    /// Puts the job into the queue.
    pub(super) fn send(self, job: Job, caller: impl FnOnce(OwnedSemaphorePermit) -> Caller) {
        let ticket = Ticket::new(job, caller(self.queue_share), Instant::now());
        let queue = self.queue.send(ticket);
        note_filling(&self.filling, &queue);
    }
}

impl Batcher {
    /// A slot for one command, if one is free and nobody waits for it.
    pub fn try_slot(&self) -> Option<QueueSlot> {
        if self.is_closing() {
            return None;
        }
        let queue_share = self.shared_slots.clone().try_acquire_owned().ok()?;
        let queue = self.queue.clone().try_reserve_owned().ok()?;
        Some(QueueSlot {
            queue_share,
            queue,
            filling: self.filling.clone(),
        })
    }

    /// Waits for a slot for one command, in the order of arrival, at most until `deadline`. Dropping the future stops
    /// waiting.
    pub async fn slot(&self, deadline: Instant) -> Result<QueueSlot, Failure> {
        self.slots(1, deadline).await
    }

    /// The same for one job of so many commands.
    pub(super) async fn slots(
        &self,
        command_count: usize,
        deadline: Instant,
    ) -> Result<QueueSlot, Failure> {
        if self.is_closing() {
            return Err(Failure::ShuttingDown);
        }
        if deadline <= Instant::now() {
            return Err(Failure::NEVER_SENT);
        }
        if command_count == 1
            && let Some(slot) = self.try_slot()
        {
            return Ok(slot);
        }
        // A group that is larger than the shared part takes all of it.
        let share = command_count.min(self.shared_slot_count);
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        let reserve = async {
            let queue_share = self.shared_slots.clone().acquire_many_owned(share).await;
            let queue = self.queue.clone().reserve_owned().await;
            queue_share
                .ok()
                .zip(queue.ok())
                .map(|(queue_share, queue)| QueueSlot {
                    queue_share,
                    queue,
                    filling: self.filling.clone(),
                })
                .ok_or(Failure::ShuttingDown)
        };
        tokio::time::timeout_at(deadline, reserve)
            .await
            .unwrap_or(Err(Failure::NEVER_SENT))
    }
}

/// Commands in flight for one caller, who knows them by their `T`. Dropping the pipeline abandons the answers, and the commands that were not started.
#[derive(Debug)]
pub struct Pipeline<T> {
    sender: mpsc::UnboundedSender<Ended>,
    answers: mpsc::UnboundedReceiver<Ended>,
    /// What has no answer yet; the earliest deadline first.
    open: BTreeMap<Key, (T, Arc<Claim>)>,
    submitted_count: u64,
    /// Ends at the earliest deadline or before.
    timer: Pin<Box<Sleep>>,
}

impl<T> Default for Pipeline<T> {
    fn default() -> Self {
        let (sender, answers) = mpsc::unbounded_channel();
        Self {
            sender,
            answers,
            open: BTreeMap::new(),
            submitted_count: 0,
            timer: Box::pin(tokio::time::sleep_until(Instant::now())),
        }
    }
}

impl<T> Pipeline<T> {
    /// Nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Executes a command, to be answered by `deadline`.
    pub fn submit(&mut self, slot: QueueSlot, command: Command, deadline: Instant, tag: T) {
        let key = Key {
            deadline,
            number: self.submitted_count,
        };
        self.submitted_count += 1;
        let claim = Arc::new(Claim::default());
        self.open.insert(key, (tag, claim.clone()));
        let job = Job::new(Arc::new(command), claim, deadline);
        let answers = self.sender.clone();
        slot.send(job, |queue_share| {
            InFlight::new(key, answers, queue_share).into()
        });
    }

    /// The next answer; `None`: nothing is in flight. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<(T, Answer)> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(T, Answer)>> {
        if self.open.is_empty() {
            return Poll::Ready(None);
        }
        while let Poll::Ready(Some((key, answer))) = self.answers.poll_recv(context) {
            // What has had its deadline is answered already.
            if let Some((tag, claim)) = self.open.remove(&key) {
                // Without an answer: the loop died with the command in hand.
                let answer = answer.unwrap_or_else(|| {
                    Answer::Failed(Failure::DatabaseUnavailable {
                        outcome_unknown: !claim.withdraw(),
                    })
                });
                return Poll::Ready(Some((tag, answer)));
            }
        }
        // An answer that this turn has no time left for is still an answer.
        if !tokio::task::coop::has_budget_remaining() {
            return Poll::Pending;
        }
        loop {
            let Some(earliest) = self.open.first_entry() else {
                return Poll::Ready(None);
            };
            let deadline = earliest.key().deadline;
            if deadline <= Instant::now() {
                let (tag, claim) = earliest.remove();
                let too_late = Failure::Deadline {
                    outcome_unknown: !claim.withdraw(),
                };
                return Poll::Ready(Some((tag, Answer::Failed(too_late))));
            }
            // Set seldom: one that ends for a command that has its answer by then is set to the next deadline.
            if self.timer.is_elapsed() || deadline < self.timer.deadline() {
                self.timer.as_mut().reset(deadline);
            }
            ready!(self.timer.as_mut().poll(context));
        }
    }
}

impl<T> Drop for Pipeline<T> {
    fn drop(&mut self) {
        for (_, claim) in self.open.values() {
            // One that was started goes on, and nobody reads its answer.
            let _withdrawn = claim.withdraw();
        }
    }
}
