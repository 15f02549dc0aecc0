//! A batch: the members of one ExecuteBatch on their way through the batcher, side by side, or as one atomic group.

use std::sync::Arc;

use super::context::Context;
use super::member::{self, Member, Unresolved};
use super::status::RpcError;
use super::{page, proto, short_errors};
use crate::batcher::{Answer, Batcher, Pipeline};
use crate::domain::{Command, MemberRefused, Receipt};
use crate::store::Store;

/// How many members are parsed before they are submitted together: what fills a transaction, and what one turn on a
/// thread that others wait for may take.
const CHUNK_SIZE: usize = 500;

/// How many bytes are reserved for the answer of a batch of so many members.
pub fn reserved_size(count: usize) -> usize {
    (count * 1024).min(page::ANSWER_SIZE_MAX)
}

/// Errors up to this size, in bytes, are kept until it is known whether all results together fit into the answer.
const KEPT_SIZE: usize = 2 * 1024;

/// The members of one call, and the results of those that have ended.
struct Batch<'a> {
    batcher: &'a Batcher,
    context: &'a Context,
    pipeline: Pipeline<usize>,
    operation_ids: Vec<String>,
    results: Vec<Option<proto::OperationResult>>,
}

/// Executes all operations: one result for each, in their order, by the deadline of `context`.
pub async fn execute(
    batcher: &Batcher,
    store: &Store,
    operations: Vec<proto::OperationRequest>,
    context: &Context,
) -> Vec<proto::OperationResult> {
    let mut batch = Batch {
        batcher,
        context,
        pipeline: Pipeline::default(),
        operation_ids: Vec::with_capacity(operations.len()),
        results: std::iter::repeat_with(|| None)
            .take(operations.len())
            .collect(),
    };
    let mut unresolved = Vec::new();
    let mut operations = operations.into_iter().enumerate();
    while operations.len() > 0 {
        let chunk = operations.by_ref().take(CHUNK_SIZE);
        let commands = batch.parse(chunk, &mut unresolved);
        batch.submit(commands).await;
        tokio::task::yield_now().await;
    }
    if !unresolved.is_empty() {
        let commands = batch.resolve(store, unresolved).await;
        batch.submit(commands).await;
    }
    while let Some((index, answer)) = batch.pipeline.next().await {
        batch.end(index, member::outcome(answer));
    }
    // Each member was ended: unless it was malformed, by its answer.
    let mut results = batch.results.into_iter().flatten().collect();
    short_errors::shorten_all(&mut results);
    results
}

/// Executes all operations as one: all of them happen, in their order, or none does. Then the members that are to blame have
/// errors of their own, and all others say so. Fails as a whole if something breaks or takes too long. With `validate_only`,
/// says what would happen.
pub async fn execute_atomic(
    batcher: &Batcher,
    store: &Store,
    operations: Vec<proto::OperationRequest>,
    validate_only: bool,
    context: &Context,
) -> Result<Vec<proto::OperationResult>, RpcError> {
    let (operation_ids, members): (Vec<String>, Vec<_>) =
        operations.into_iter().map(member::parse).unzip();
    let unresolved = members.iter().filter_map(|member| match member {
        Ok(Member::Unresolved(operation)) => Some(&**operation),
        _ => None,
    });
    let resolved = member::resolve(store, unresolved, context)
        .await
        .map_err(RpcError::BatchFailure)?;
    let resolved = Ok(resolved);
    let commands = members.into_iter().map(|member| match member? {
        Member::Command(command) => Ok(*command),
        Member::Unresolved(operation) => operation.command(&resolved),
    });
    let commands: Vec<Result<Command, RpcError>> = commands.collect();
    if commands.iter().any(Result::is_err) {
        let errors = commands.into_iter().map(Result::err).collect();
        return Ok(refused(operation_ids, errors));
    }
    let commands: Arc<[Arc<Command>]> = commands.into_iter().flatten().map(Arc::new).collect();
    let answer = match validate_only {
        true => batcher.validate_group(commands, context.deadline()).await,
        false => batcher.execute_group(commands, context.deadline()).await,
    };
    match answer {
        Answer::Decided(Ok(receipts)) => Ok(operation_ids
            .into_iter()
            .zip(receipts)
            .map(|(operation_id, receipt)| member::result(operation_id, Ok(receipt)))
            .collect()),
        Answer::Decided(Err(MemberRefused { index, refusal })) => {
            let mut errors: Vec<_> = operation_ids.iter().map(|_| None).collect();
            errors[index] = Some(RpcError::Refusal(refusal));
            Ok(refused(operation_ids, errors))
        }
        Answer::Failed(failure) => Err(RpcError::BatchFailure(failure)),
    }
}

/// The results of an atomic batch of which nothing happened. Who has no error of its own is told which member has the first one.
fn refused(
    operation_ids: Vec<String>,
    errors: Vec<Option<RpcError>>,
) -> Vec<proto::OperationResult> {
    let first = errors.iter().position(Option::is_some).unwrap_or_default();
    let results = operation_ids.into_iter().zip(errors);
    let mut results = results
        .map(|(operation_id, error)| {
            let error = error.unwrap_or(RpcError::BatchRefused { member: first });
            member::result(operation_id, Err(error))
        })
        .collect();
    short_errors::shorten_all(&mut results);
    results
}

impl Batch<'_> {
    /// The commands among some operations. Malformed ones end here.
    fn parse(
        &mut self,
        operations: impl Iterator<Item = (usize, proto::OperationRequest)>,
        unresolved: &mut Vec<(usize, Unresolved)>,
    ) -> Vec<(usize, Command)> {
        let mut commands = Vec::with_capacity(operations.size_hint().0);
        for (index, operation) in operations {
            let (operation_id, member) = member::parse(operation);
            self.operation_ids.push(operation_id);
            match member {
                Ok(Member::Command(command)) => commands.push((index, *command)),
                Ok(Member::Unresolved(operation)) => unresolved.push((index, *operation)),
                Err(error) => self.end(index, Err(error)),
            }
        }
        commands
    }

    /// The commands of unresolved members, after one look-up for all of them.
    async fn resolve(
        &mut self,
        store: &Store,
        unresolved: Vec<(usize, Unresolved)>,
    ) -> Vec<(usize, Command)> {
        let operations = unresolved.iter().map(|(_, operation)| operation);
        let resolved = member::resolve(store, operations, self.context).await;
        let mut commands = Vec::with_capacity(unresolved.len());
        for (index, operation) in unresolved {
            match operation.command(&resolved) {
                Ok(command) => commands.push((index, command)),
                Err(error) => self.end(index, Err(error)),
            }
        }
        commands
    }

    async fn submit(&mut self, commands: Vec<(usize, Command)>) {
        let deadline = self.context.deadline();
        for (index, command) in commands {
            match self.batcher.slot(deadline).await {
                Ok(slot) => self.pipeline.submit(slot, command, deadline, index),
                Err(failure) => self.end(index, Err(RpcError::Failure(failure))),
            }
        }
    }

    fn end(&mut self, index: usize, outcome: Result<Receipt, RpcError>) {
        let operation_id = std::mem::take(&mut self.operation_ids[index]);
        let mut result = member::result(operation_id, outcome);
        short_errors::shorten(
            &mut result,
            short_errors::size_max(self.results.len()).max(KEPT_SIZE),
        );
        self.results[index] = Some(result);
    }
}
