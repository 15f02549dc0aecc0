//! A caller: where the answer to a command goes.

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::Answer;
use super::group::Slot;

/// Who waits for the answer to one command.
#[derive(Debug)]
pub(super) enum Caller {
    /// A caller of one command.
    Single(oneshot::Sender<Answer>),
    /// A group, for one of its commands.
    Group(Line),
}

impl Caller {
    /// The caller is gone.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Single(answer) => answer.is_closed(),
            Self::Group(line) => line.answers.is_closed(),
        }
    }

    /// Tells the caller. One that left does not read it; its operation is recorded all the same.
    pub(super) fn tell(self, answer: Answer) {
        match self {
            Self::Single(caller) => drop(caller.send(answer)),
            Self::Group(mut line) => line.send(Some(answer)),
        }
    }
}

/// What one command of a group says about its end: its answer, or that it was dropped without one.
pub(super) type Message = (Slot, Option<Answer>);

/// One command's line to its group. Dropped unanswered, it says so.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) slot: Slot,
    pub(super) answers: mpsc::UnboundedSender<Message>,
    /// Its part of the queue; free again when the command has ended.
    pub(super) _room: OwnedSemaphorePermit,
    is_answered: bool,
}

impl Line {
    pub(super) fn new(
        slot: Slot,
        answers: mpsc::UnboundedSender<Message>,
        room: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            slot,
            answers,
            _room: room,
            is_answered: false,
        }
    }

    fn send(&mut self, answer: Option<Answer>) {
        self.is_answered = true;
        // A group that is gone needs no answer.
        let _unread = self.answers.send((self.slot, answer));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.is_answered {
            self.send(None);
        }
    }
}
