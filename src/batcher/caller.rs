//! A caller: where the answer to a job goes.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::in_flight::InFlight;
use super::{Answer, Failure, GroupAnswer};
use crate::store::{Decision, GroupDecision};

/// Who waits for the answer to one job.
#[derive(Debug)]
pub(super) enum Caller {
    /// A caller of one command.
    Single(oneshot::Sender<Answer>),
    /// A pipeline, for one of its commands.
    Pipeline(InFlight),
    /// A caller of an atomic group.
    Group {
        answer: oneshot::Sender<GroupAnswer>,
        /// Its part of the queue; free again when the group has ended.
        _queue_share: OwnedSemaphorePermit,
    },
}

impl From<oneshot::Sender<Answer>> for Caller {
    fn from(answer: oneshot::Sender<Answer>) -> Self {
        Self::Single(answer)
    }
}

impl From<InFlight> for Caller {
    fn from(in_flight: InFlight) -> Self {
        Self::Pipeline(in_flight)
    }
}

impl Caller {
    /// The caller is gone.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Single(answer) => answer.is_closed(),
            Self::Pipeline(in_flight) => in_flight.is_abandoned(),
            Self::Group { answer, .. } => answer.is_closed(),
        }
    }

    /// Tells the caller how its command was decided. One that left does not read it; its operation is recorded all the same.
    pub(super) fn tell_decision(self, decision: Decision) {
        match self {
            Self::Single(answer) => drop(answer.send(Answer::Decided(decision))),
            Self::Pipeline(in_flight) => in_flight.answer(Answer::Decided(decision)),
            Self::Group { .. } => self.tell_wrong_verdict(),
        }
    }

    /// The same for an atomic group.
    pub(super) fn tell_group_decision(self, decision: GroupDecision) {
        match self {
            Self::Group { answer, .. } => drop(answer.send(Answer::Decided(decision))),
            Self::Single(_) | Self::Pipeline(_) => self.tell_wrong_verdict(),
        }
    }

    /// Tells the caller what went wrong.
    pub(super) fn tell_failure(self, failure: Failure) {
        match self {
            Self::Single(answer) => drop(answer.send(Answer::Failed(failure))),
            Self::Pipeline(in_flight) => in_flight.answer(Answer::Failed(failure)),
            Self::Group { answer, .. } => drop(answer.send(Answer::Failed(failure))),
        }
    }

    fn tell_wrong_verdict(self) {
        tracing::error!("a command got the verdict of a group, or a group that of a command");
        self.tell_failure(Failure::Internal);
    }
}
