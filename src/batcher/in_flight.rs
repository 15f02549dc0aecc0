//! One command of a pipeline while it is in flight: how the pipeline knows it, and the way that its answer takes.

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::Answer;

/// A command of a pipeline. The order is that of the deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) deadline: Instant,
    /// Counts the commands of the pipeline.
    pub(super) number: u64,
}

/// How a command ended: with its answer, or dropped without one.
pub(super) type Ended = (Key, Option<Answer>);

/// The way of one command's answer to its pipeline. Dropped unanswered, it says so.
#[derive(Debug)]
pub(super) struct InFlight {
    key: Key,
    answers: mpsc::UnboundedSender<Ended>,
    /// Its part of the queue; free again when the command has ended.
    _queue_share: OwnedSemaphorePermit,
    is_answered: bool,
}

impl InFlight {
    pub(super) fn new(
        key: Key,
        answers: mpsc::UnboundedSender<Ended>,
        queue_share: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            key,
            answers,
            _queue_share: queue_share,
            is_answered: false,
        }
    }

    /// Nobody reads the answer.
    pub(super) fn is_abandoned(&self) -> bool {
        self.answers.is_closed()
    }

    pub(super) fn answer(mut self, answer: Answer) {
        self.send(Some(answer));
    }

    fn send(&mut self, answer: Option<Answer>) {
        self.is_answered = true;
        // A pipeline that is gone needs no answer.
        let _unread = self.answers.send((self.key, answer));
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.is_answered {
            self.send(None);
        }
    }
}
