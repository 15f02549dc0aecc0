//! Recorded operations: read by their ids, with all their entries.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Client;
use futures_util::future::join;
use tokio_postgres::types::ToSql;

use super::columns::{LegRow, ReadRow};
use super::error::StoreError;
use super::operation_row;
use super::requests::Requests;
use super::unreadable::{self, UnreadableOperation};
use crate::domain::{Entry, Operation, OperationId, Reversals};

pub(super) const KNOWN_OPERATIONS: &str = include_str!("sql/known_operations.sql");
pub(super) const LOOKUP_OPERATIONS: &str = include_str!("sql/lookup_operations.sql");
pub(super) const LOOKUP_REVERSALS: &str = include_str!("sql/lookup_reversals.sql");
pub(super) const LIST_REVERSALS: &str = include_str!("sql/list_reversals.sql");
pub(super) const LOOKUP_LEGS: &str = include_str!("sql/lookup_legs.sql");

/// The most reversals of an operation that are listed with it; all of them count.
const REVERSALS_LISTED_MAX: i64 = 100;

/// What reversed an operation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReversalList {
    /// The posted reversals, oldest first: the first hundred.
    pub operation_ids: Vec<OperationId>,
    /// How many there are.
    pub count: i64,
    /// What they moved back together, in minor units; 0 if the operation has several legs.
    pub reversed: i64,
}

/// What is known of these operations as far as a reversal needs it.
pub(super) async fn reversals(
    client: &Client,
    operation_ids: &[&str],
) -> Result<Vec<(OperationId, Reversals)>, StoreError> {
    let statement = client.prepare_cached(LOOKUP_REVERSALS).await?;
    let rows = client.query(&statement, &[&operation_ids]).await?;
    let read = rows.iter().map(|row| {
        let reversals = Reversals {
            original: row.get("amount"),
            count: row.get("count"),
            reversed: row.get("reversed"),
        };
        (OperationId::from_stored(row.get("operation_id")), reversals)
    });
    Ok(read.collect())
}

/// The recorded operations of these ids, in no order.
pub(super) async fn operations(
    client: &Client,
    operation_ids: &[&str],
) -> Result<Vec<Operation>, StoreError> {
    let read = readable_operations(client, operation_ids).await?;
    read.into_iter().map(|read| Ok(read?)).collect()
}

/// The recorded operations of these ids, in no order, those included that cannot be read.
pub(super) async fn readable_operations(
    client: &Client,
    operation_ids: &[&str],
) -> Result<Vec<Result<Operation, UnreadableOperation>>, StoreError> {
    let statement = client.prepare_cached(LOOKUP_OPERATIONS).await?;
    let rows = client.query(&statement, &[&operation_ids]).await?;
    let mut read: Vec<_> = rows.iter().map(unreadable::operation).collect();
    let with_legs: Vec<&str> = rows
        .iter()
        .filter(|row| row.get::<_, Option<i32>>("leg_count").is_some())
        .map(|row| row.get("operation_id"))
        .collect();
    if !with_legs.is_empty() {
        add_legs(client, &with_legs, &mut read).await?;
    }
    Ok(read)
}

/// Gives operations the entries of their legs, which come after those of their rows.
async fn add_legs(
    client: &Client,
    operation_ids: &[&str],
    read: &mut [Result<Operation, UnreadableOperation>],
) -> Result<(), StoreError> {
    let statement = client.prepare_cached(LOOKUP_LEGS).await?;
    let rows = client.query(&statement, &[&operation_ids]).await?;
    let mut legs: HashMap<&str, Vec<(usize, Entry)>> = HashMap::new();
    for row in &rows {
        let leg = LegRow::read(row)?;
        // A CHECK keeps it from being negative.
        let position = usize::try_from(leg.position).unwrap_or(0);
        let of_operation = legs.entry(leg.operation_id).or_default();
        of_operation.extend(leg.entry()?.map(|entry| (position, entry)));
    }
    for operation in read.iter_mut().flatten() {
        if let Some(legs) = legs.remove(operation.command.operation_id.as_str()) {
            operation_row::add_legs(operation, legs);
        }
    }
    Ok(())
}

impl Requests {
    /// The operation of this id.
    pub async fn get_operation(
        &self,
        operation_id: OperationId,
    ) -> Result<Option<Operation>, StoreError> {
        self.request(move |client| async move {
            let found = operations(&client, &[operation_id.as_str()]).await?;
            Ok(found.into_iter().next())
        })
        .await
    }

    /// The operation of this id, and what reversed it.
    pub async fn get_operation_and_reversals(
        &self,
        operation_id: OperationId,
    ) -> Result<Option<(Operation, ReversalList)>, StoreError> {
        self.request(move |client| async move {
            let id = operation_id.as_str();
            let ids = [id];
            let list = client.prepare_cached(LIST_REVERSALS).await?;
            let params: [&(dyn ToSql + Sync); 2] = [&id, &REVERSALS_LISTED_MAX];
            let (found, row) =
                join(operations(&client, &ids), client.query_one(&list, &params)).await;
            let (found, row) = (found?, row?);
            let reversal_ids: Vec<&str> = row.get("operation_ids");
            let reversals = ReversalList {
                operation_ids: reversal_ids
                    .into_iter()
                    .map(OperationId::from_stored)
                    .collect(),
                count: row.get("count"),
                reversed: row.get("reversed"),
            };
            Ok(found
                .into_iter()
                .next()
                .map(|operation| (operation, reversals)))
        })
        .await
    }

    /// The recorded operations of these ids, by id, those included that cannot be read.
    pub async fn get_operations(
        &self,
        operation_ids: Vec<OperationId>,
    ) -> Result<HashMap<OperationId, Result<Operation, UnreadableOperation>>, StoreError> {
        self.request(move |client| async move {
            let ids: Vec<&str> = operation_ids.iter().map(OperationId::as_str).collect();
            let read = readable_operations(&client, &ids).await?;
            let by_id = read.into_iter().map(|read| match read {
                Ok(operation) => (operation.command.operation_id.clone(), Ok(operation)),
                Err(unreadable) => (unreadable.operation_id.clone(), Err(unreadable)),
            });
            Ok(by_id.collect())
        })
        .await
    }

    /// Which of these ids have an operation.
    pub async fn recorded_operations(
        &self,
        operation_ids: Vec<OperationId>,
    ) -> Result<HashSet<OperationId>, StoreError> {
        self.request(move |client| async move {
            let ids: Vec<&str> = operation_ids.iter().map(OperationId::as_str).collect();
            let statement = client.prepare_cached(KNOWN_OPERATIONS).await?;
            let row = client.query_one(&statement, &[&ids]).await?;
            let recorded: Vec<&str> = row.get("operation_ids");
            Ok(recorded.into_iter().map(OperationId::from_stored).collect())
        })
        .await
    }
}
