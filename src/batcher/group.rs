//! Atomic groups: several commands of one caller that happen together or not at all. A group is one job.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::caller::Caller;
use super::{Answer, Batcher, Failure, GroupAnswer};
use crate::domain::{Claim, Command};
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
        if commands.is_empty() {
            return Answer::Decided(Ok(Vec::new()));
        }
        let slot = match self.slots(commands.len(), deadline).await {
            Ok(slot) => slot,
            Err(failure) => return Answer::Failed(failure),
        };
        let claim = Arc::new(Claim::default());
        let job = Job::group(commands, claim.clone(), deadline);
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
