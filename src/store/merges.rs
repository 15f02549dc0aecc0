//! Merges in the store: the parts of a merge, each with an entry on both sides, and what else it changes.

use std::collections::HashMap;

use deadpool_postgres::Client;
use futures_util::future::try_join4;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::columns::{EntryColumns, Params};
use super::error::StoreError;
use super::row;
use super::unreadable::{self, UnreadableOperation};
use crate::domain::{
    AccountId, BalanceKey, Book, Category, Closures, Entry, Movement, Operation, Outcome, OwnerId,
    Role,
};

pub(super) const LOOKUP_OPERATIONS: &str = include_str!("sql/lookup_operations.sql");
pub(super) const LOOKUP_MERGE_PARTS: &str = include_str!("sql/lookup_merge_parts.sql");
pub(super) const INSERT_MERGE_PARTS: &str = include_str!("sql/insert_merge_parts.sql");
pub(super) const CLOSE_ACCOUNTS: &str = include_str!("sql/close_accounts.sql");
pub(super) const SET_SETTLEMENT: &str = include_str!("sql/set_settlement.sql");
pub(super) const ACCOUNT_ROLES: &str = include_str!("sql/account_roles.sql");

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
    add_parts(client, read.iter_mut().flatten()).await?;
    Ok(read)
}

/// Gives the merges among the operations their entries.
async fn add_parts(
    client: &Client,
    operations: impl Iterator<Item = &mut Operation>,
) -> Result<(), StoreError> {
    let mut merges: HashMap<String, &mut Operation> = operations
        .filter(|operation| matches!(operation.outcome, Outcome::Merged(_)))
        .map(|operation| (operation.command.operation_id.to_string(), operation))
        .collect();
    if merges.is_empty() {
        return Ok(());
    }
    let operation_ids: Vec<&str> = merges.keys().map(String::as_str).collect();
    let statement = client.prepare_cached(LOOKUP_MERGE_PARTS).await?;
    let rows = client.query(&statement, &[&operation_ids]).await?;
    for part in &rows {
        let operation_id: &str = part.get("operation_id");
        let Some(operation) = merges.get_mut(operation_id) else {
            continue;
        };
        let category = Category::from_stored(part.get("category"));
        let amount: i64 = part.get("amount");
        let entry = |side: &str, account_id: &AccountId, amount| {
            let key = BalanceKey {
                account_id: account_id.clone(),
                category: category.clone(),
            };
            row::entry(part, side, key, amount)
        };
        let command = operation.command.clone();
        if let (
            Movement::Merge {
                source,
                destination,
            },
            Outcome::Merged(parts),
        ) = (&command.movement, &mut operation.outcome)
        {
            parts.push([
                entry("source", source, -amount)?,
                entry("destination", destination, amount)?,
            ]);
        }
    }
    Ok(())
}

/// Adds to the book what only merges ask: whose these locked accounts are, and whether they receive for their owners.
pub(super) async fn add_roles(
    client: &Client,
    account_ids: &[&str],
    book: &mut Book,
) -> Result<(), StoreError> {
    let statement = client.prepare_cached(ACCOUNT_ROLES).await?;
    let roles = client.query(&statement, &[&account_ids]).await?;
    if roles.len() != account_ids.len() {
        return Err(StoreError::Corrupt(format!(
            "one of the accounts {account_ids:?} has balances and no account"
        )));
    }
    for row in roles {
        let role = Role::new(
            OwnerId::from_stored(row.get("owner_id")),
            row.get("settlement"),
        );
        book.add_role(AccountId::from_stored(row.get("account_id")), role);
    }
    Ok(())
}

/// What the merges of a batch write in addition to operations, entries and balances; nothing for other batches.
pub(super) struct MergeWrites<'a> {
    statements: Option<[Statement; 3]>,
    closed: Vec<String>,
    settled_before: Vec<String>,
    settle_now: Vec<String>,
    parts: Parts<'a>,
}

/// The parts of merges as columns, for `unnest`.
#[derive(Default)]
struct Parts<'a> {
    operation_ids: Vec<&'a str>,
    categories: Vec<&'a str>,
    amounts: Vec<i64>,
    sources: EntryColumns<'a>,
    destinations: EntryColumns<'a>,
}

impl<'a> Parts<'a> {
    fn push(&mut self, operation: &'a Operation, [source, destination]: &'a [Entry; 2]) {
        self.operation_ids
            .push(operation.command.operation_id.as_str());
        self.categories.push(source.balance.category.as_str());
        self.amounts.push(destination.amount);
        self.sources.push(Some(source));
        self.destinations.push(Some(destination));
    }

    fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        let keys: Params<'_, 3> = [&self.operation_ids, &self.categories, &self.amounts];
        keys.into_iter()
            .chain(self.sources.plain_params())
            .chain(self.sources.rare_params())
            .chain(self.destinations.plain_params())
            .chain(self.destinations.rare_params())
            .collect()
    }
}

impl<'a> MergeWrites<'a> {
    /// Prepares what these operations need.
    pub(super) async fn prepare(
        client: &Client,
        closures: &Closures,
        operations: impl Iterator<Item = &'a Operation>,
    ) -> Result<Self, StoreError> {
        let texts = |ids: &[AccountId]| {
            let mut texts: Vec<String> = ids.iter().map(ToString::to_string).collect();
            texts.sort_unstable();
            texts
        };
        let mut writes = Self {
            statements: None,
            closed: texts(&closures.closed),
            settled_before: texts(&closures.settled_before),
            settle_now: texts(&closures.settle_now),
            parts: Parts::default(),
        };
        if writes.closed.is_empty() {
            return Ok(writes);
        }
        for operation in operations {
            if let Outcome::Merged(parts) = &operation.outcome {
                for part in parts {
                    writes.parts.push(operation, part);
                }
            }
        }
        writes.statements = Some([
            client.prepare_cached(CLOSE_ACCOUNTS).await?,
            client.prepare_cached(SET_SETTLEMENT).await?,
            client.prepare_cached(INSERT_MERGE_PARTS).await?,
        ]);
        Ok(writes)
    }

    /// Nothing is merged.
    pub(super) fn is_empty(&self) -> bool {
        self.statements.is_none()
    }

    /// Sends all of it when it is first polled, so that a COMMIT behind it in the same flight comes last.
    pub(super) async fn execute(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let Some([close, settle, insert]) = &self.statements else {
            return Ok(());
        };
        let part_params = self.parts.params();
        try_join4(
            client.execute(close, &[&self.closed]),
            client.execute(settle, &[&self.settled_before, &false]),
            client.execute(settle, &[&self.settle_now, &true]),
            client.execute(insert, &part_params),
        )
        .await
        .map(drop)
    }
}
