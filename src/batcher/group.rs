//! A group: many commands of one caller, answered through one channel as they end, with one timer for all deadlines.
//! A group waits for room in the queue where a single caller is told OVERLOADED; so that it does not crowd single callers
//! out, all groups together have half of the queue.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, Sleep};

use super::caller::{Caller, Line, Message};
use super::{Answer, Batcher, Failure, Ticket, note_filling};
use crate::domain::{Claim, Command};
use crate::store::Job;

/// A place in the queue for one command of a group. Dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    room: OwnedSemaphorePermit,
    queue: mpsc::OwnedPermit<Ticket>,
    filling: Arc<Notify>,
}

impl Batcher {
    /// A place, if one is free and nobody waits for it.
    pub fn try_place(&self) -> Option<Place> {
        if self.is_closing() {
            return None;
        }
        let room = self.rooms.clone().try_acquire_owned().ok()?;
        let queue = self.queue.clone().try_reserve_owned().ok()?;
        Some(Place {
            room,
            queue,
            filling: self.filling.clone(),
        })
    }

    /// Waits for a place, in the order of arrival, at most until `deadline`. Dropping the future stops waiting.
    pub async fn place(&self, deadline: Instant) -> Result<Place, Failure> {
        if self.is_closing() {
            return Err(Failure::ShuttingDown);
        }
        if deadline <= Instant::now() {
            return Err(Failure::NEVER_SENT);
        }
        if let Some(place) = self.try_place() {
            return Ok(place);
        }
        let reserve = async {
            let closed = Failure::ShuttingDown;
            let room = self.rooms.clone().acquire_owned().await;
            let queue = self.queue.clone().reserve_owned().await;
            room.ok()
                .zip(queue.ok())
                .map(|(room, queue)| Place {
                    room,
                    queue,
                    filling: self.filling.clone(),
                })
                .ok_or(closed)
        };
        tokio::time::timeout_at(deadline, reserve)
            .await
            .unwrap_or(Err(Failure::NEVER_SENT))
    }
}

/// One command of a group. The order is that of the deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    deadline: Instant,
    number: u64,
}

/// Commands in flight for one caller, who knows them by their `T`. Dropping the group abandons the answers, and the commands that were not started.
#[derive(Debug)]
pub struct Group<T> {
    sender: mpsc::UnboundedSender<Message>,
    answers: mpsc::UnboundedReceiver<Message>,
    /// What has no answer yet; the earliest deadline first.
    open: BTreeMap<Slot, (T, Arc<Claim>)>,
    submitted_count: u64,
    /// Ends at the earliest deadline or before.
    timer: Pin<Box<Sleep>>,
}

impl<T> Default for Group<T> {
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

impl<T> Group<T> {
    /// Nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Executes a command, to be answered by `deadline`.
    pub fn submit(&mut self, place: Place, command: Command, deadline: Instant, tag: T) {
        let slot = Slot {
            deadline,
            number: self.submitted_count,
        };
        self.submitted_count += 1;
        let claim = Arc::new(Claim::default());
        self.open.insert(slot, (tag, claim.clone()));
        let job = Job {
            command: Arc::new(command),
            claim,
            deadline,
        };
        let line = Line::new(slot, self.sender.clone(), place.room);
        let queue = place.queue.send(Ticket::new(job, Caller::Group(line)));
        note_filling(&place.filling, &queue);
    }

    /// The next answer; `None`: nothing is in flight. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<(T, Answer)> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(T, Answer)>> {
        if self.open.is_empty() {
            return Poll::Ready(None);
        }
        while let Poll::Ready(Some((slot, answer))) = self.answers.poll_recv(context) {
            // What has had its deadline is answered already.
            if let Some((tag, claim)) = self.open.remove(&slot) {
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

impl<T> Drop for Group<T> {
    fn drop(&mut self) {
        for (_, claim) in self.open.values() {
            // One that was started goes on, and nobody reads its answer.
            let _withdrawn = claim.withdraw();
        }
    }
}
