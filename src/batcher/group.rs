//! Atomic groups: several commands of one caller that happen together or not at all. A group is one job.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::caller::Caller;
use super::{Answer, Batcher, Failure, GroupAnswer};
use crate::domain::Command;
use crate::store::Job;

impl Batcher {
    /// Executes the commands, in their order, as one: all of them happen, or none does. Waits for the final answer, at most
    /// until `deadline`. The group waits for room in the queue as pipelines do, see [`super::Pipeline`].
    ///
    /// Dropping the future abandons the answer, and the group too unless it was started.
    pub async fn execute_group(
        &self,
        commands: Arc<[Arc<Command>]>,
        deadline: Instant,
    ) -> GroupAnswer {
        self.group_answer(Job::group(commands, Arc::default(), deadline))
            .await
    }

    /// What [`Batcher::execute_group`] would answer now. Nothing happens, and nothing is recorded.
    pub async fn validate_group(
        &self,
        commands: Arc<[Arc<Command>]>,
        deadline: Instant,
    ) -> GroupAnswer {
        let job = Job::group(commands, Arc::default(), deadline);
        self.group_answer(job.only_validated()).await
    }

    async fn group_answer(&self, job: Job) -> GroupAnswer {
        let (command_count, deadline) = (job.commands().len(), job.deadline);
        if command_count == 0 {
            return Answer::Decided(Ok(Vec::new()));
        }
        let slot = match self.slots(command_count, deadline).await {
            Ok(slot) => slot,
            Err(failure) => return Answer::Failed(failure),
        };
        let claim = job.claim.clone();
        let (answer, answered) = oneshot::channel();
        slot.send(job, |queue_share| Caller::Group {
            answer,
            _queue_share: queue_share,
        });
        let failure = match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => return answer,
            // The loop died with the group in hand.
            Ok(Err(_dropped)) => Failure::DatabaseUnavailable {
                outcome_unknown: !claim.withdraw(),
            },
            Err(_elapsed) => Failure::Deadline {
                outcome_unknown: !claim.withdraw(),
            },
        };
        Answer::Failed(failure)
    }
}
