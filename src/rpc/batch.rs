//! A batch: the members of one ExecuteBatch on their way through the batcher, side by side.

use std::collections::HashSet;

use tokio::time::Instant;

use super::member::{self, Member};
use super::proto;
use super::request::Transfer;
use super::status::RpcError;
use crate::batcher::{Batcher, Group};
use crate::domain::{Command, OwnerId, Receipt};
use crate::store::Store;

/// How many members are parsed before they are submitted together: what fills a transaction, and what one turn on a
/// thread that others wait for may take.
const CHUNK_SIZE: usize = 500;

/// The members of one call, and the results of those that have ended.
struct Batch<'a> {
    batcher: &'a Batcher,
    deadline: Instant,
    group: Group<usize>,
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
        group: Group::default(),
        operation_ids: Vec::with_capacity(operations.len()),
        results: std::iter::repeat_with(|| None)
            .take(operations.len())
            .collect(),
    };
    let mut to_owners = Vec::new();
    let mut operations = operations.into_iter().enumerate();
    while operations.len() > 0 {
        let chunk = operations.by_ref().take(CHUNK_SIZE);
        let commands = batch.parse(chunk, &mut to_owners);
        batch.submit(commands).await;
        tokio::task::yield_now().await;
    }
    if !to_owners.is_empty() {
        let commands = batch.settle(store, to_owners).await;
        batch.submit(commands).await;
    }
    while let Some((index, answer)) = batch.group.next().await {
        batch.end(index, member::outcome(answer));
    }
    // Each member was ended: unless it was malformed, by its answer.
    batch.results.into_iter().flatten().collect()
}

type ToOwner = (usize, OwnerId, Transfer);

impl Batch<'_> {
    /// The commands among some operations. Malformed ones end here.
    fn parse(
        &mut self,
        operations: impl Iterator<Item = (usize, proto::OperationRequest)>,
        to_owners: &mut Vec<ToOwner>,
    ) -> Vec<(usize, Command)> {
        let mut commands = Vec::with_capacity(operations.size_hint().0);
        for (index, operation) in operations {
            let (operation_id, member) = member::parse(operation);
            self.operation_ids.push(operation_id);
            match member {
                Ok(Member::Command(command)) => commands.push((index, *command)),
                Ok(Member::ToOwner(owner_id, transfer)) => {
                    to_owners.push((index, owner_id, *transfer));
                }
                Err(error) => self.end(index, Err(error)),
            }
        }
        commands
    }

    /// The commands of transfers to owners, whose settlement accounts are found with one question.
    async fn settle(&mut self, store: &Store, to_owners: Vec<ToOwner>) -> Vec<(usize, Command)> {
        let owner_ids: HashSet<OwnerId> = to_owners.iter().map(|(_, id, _)| id.clone()).collect();
        let owner_ids = owner_ids.into_iter().collect();
        let settlements = member::settlements(store, owner_ids, self.deadline).await;
        let mut commands = Vec::with_capacity(to_owners.len());
        for (index, owner_id, transfer) in to_owners {
            match member::settle(owner_id, transfer, &settlements) {
                Ok(command) => commands.push((index, command)),
                Err(error) => self.end(index, Err(error)),
            }
        }
        commands
    }

    async fn submit(&mut self, commands: Vec<(usize, Command)>) {
        for (index, command) in commands {
            match self.batcher.place(self.deadline).await {
                Ok(place) => self.group.submit(place, command, self.deadline, index),
                Err(failure) => self.end(index, Err(RpcError::Failure(failure))),
            }
        }
    }

    fn end(&mut self, index: usize, outcome: Result<Receipt, RpcError>) {
        let operation_id = std::mem::take(&mut self.operation_ids[index]);
        self.results[index] = Some(member::result(operation_id, outcome));
    }
}
