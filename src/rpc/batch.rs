//! A batch: the members of one ExecuteBatch on their way through the batcher, side by side.

use tokio::time::Instant;

use super::member::{self, Asks, Member};
use super::status::RpcError;
use super::{brief, page, proto};
use crate::batcher::{Batcher, Pipeline};
use crate::domain::{Command, Receipt};
use crate::store::Store;

/// How many members are parsed before they are submitted together: what fills a transaction, and what one turn on a
/// thread that others wait for may take.
const CHUNK_SIZE: usize = 500;

/// What is reserved for the answer of a batch of so many members, in bytes.
pub fn room(count: usize) -> usize {
    (count * 1024).min(page::ANSWER_SIZE_MAX)
}

/// Errors up to this size, in bytes, are kept until it is known whether all results together fit into the answer.
const KEPT_SIZE: usize = 2 * 1024;

/// The members of one call, and the results of those that have ended.
struct Batch<'a> {
    batcher: &'a Batcher,
    deadline: Instant,
    pipeline: Pipeline<usize>,
    operation_ids: Vec<String>,
    results: Vec<Option<proto::OperationResult>>,
}

/// Executes all operations: one result for each, in their order, by the deadline.
pub async fn execute(
    batcher: &Batcher,
    store: &Store,
    operations: Vec<proto::OperationRequest>,
    deadline: Instant,
) -> Vec<proto::OperationResult> {
    let mut batch = Batch {
        batcher,
        deadline,
        pipeline: Pipeline::default(),
        operation_ids: Vec::with_capacity(operations.len()),
        results: std::iter::repeat_with(|| None)
            .take(operations.len())
            .collect(),
    };
    let mut asking = Vec::new();
    let mut operations = operations.into_iter().enumerate();
    while operations.len() > 0 {
        let chunk = operations.by_ref().take(CHUNK_SIZE);
        let commands = batch.parse(chunk, &mut asking);
        batch.submit(commands).await;
        tokio::task::yield_now().await;
    }
    if !asking.is_empty() {
        let commands = batch.settle(store, asking).await;
        batch.submit(commands).await;
    }
    while let Some((index, answer)) = batch.pipeline.next().await {
        batch.end(index, member::outcome(answer));
    }
    // Each member was ended: unless it was malformed, by its answer.
    let mut results = batch.results.into_iter().flatten().collect();
    brief::shorten_all(&mut results);
    results
}

impl Batch<'_> {
    /// The commands among some operations. Malformed ones end here.
    fn parse(
        &mut self,
        operations: impl Iterator<Item = (usize, proto::OperationRequest)>,
        asking: &mut Vec<(usize, Asks)>,
    ) -> Vec<(usize, Command)> {
        let mut commands = Vec::with_capacity(operations.size_hint().0);
        for (index, operation) in operations {
            let (operation_id, member) = member::parse(operation);
            self.operation_ids.push(operation_id);
            match member {
                Ok(Member::Command(command)) => commands.push((index, *command)),
                Ok(Member::Asks(asks)) => asking.push((index, *asks)),
                Err(error) => self.end(index, Err(error)),
            }
        }
        commands
    }

    /// The commands of members that ask something, after one question for all of them.
    async fn settle(&mut self, store: &Store, asking: Vec<(usize, Asks)>) -> Vec<(usize, Command)> {
        let asks = asking.iter().map(|(_, asks)| asks);
        let facts = member::ask(store, asks, self.deadline).await;
        let mut commands = Vec::with_capacity(asking.len());
        for (index, asks) in asking {
            match asks.settle(&facts) {
                Ok(command) => commands.push((index, command)),
                Err(error) => self.end(index, Err(error)),
            }
        }
        commands
    }

    async fn submit(&mut self, commands: Vec<(usize, Command)>) {
        for (index, command) in commands {
            match self.batcher.slot(self.deadline).await {
                Ok(slot) => self.pipeline.submit(slot, command, self.deadline, index),
                Err(failure) => self.end(index, Err(RpcError::Failure(failure))),
            }
        }
    }

    fn end(&mut self, index: usize, outcome: Result<Receipt, RpcError>) {
        let operation_id = std::mem::take(&mut self.operation_ids[index]);
        let mut result = member::result(operation_id, outcome);
        brief::shorten(
            &mut result,
            brief::size_max(self.results.len()).max(KEPT_SIZE),
        );
        self.results[index] = Some(result);
    }
}
