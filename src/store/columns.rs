//! Columns: many rows as one array per column, which `unnest` turns into rows again. One statement writes a whole batch.

use std::sync::Arc;

use tokio_postgres::types::ToSql;

use super::lock::RowIds;
use super::row::{self, PgTime, RowId};
use crate::domain::{
    AccountId, Amount, BalanceChange, BalanceKey, Category, Entry, Operation, OperationId, Outcome,
    Refusal,
};

/// Every so many entries of a balance, one has a mark. The statements that read entries know this number, and
/// `verify_marks` tells whether they agree.
const ENTRIES_PER_MARK: i64 = 16;

pub(super) type Params<'a, const N: usize> = [&'a (dyn ToSql + Sync); N];

/// Balances as columns, for `unnest`.
#[derive(Default)]
pub(super) struct BalanceColumns<'a> {
    keys: Vec<&'a BalanceKey>,
    row_ids: Vec<RowId>,
    account_ids: Vec<&'a str>,
    categories: Vec<&'a str>,
    currencies: Vec<&'a str>,
    posted: Vec<i64>,
    held: Vec<i64>,
    versions: Vec<i64>,
    update_times: Vec<PgTime>,
    last_operation_ids: Vec<Option<&'a str>>,
}

impl<'a> BalanceColumns<'a> {
    /// The changes of balances that have a row, in the order of their places, and of those that have none yet, in the
    /// order of their keys: each statement goes through its pages once.
    pub(super) fn split(changes: &'a [BalanceChange], row_ids: &RowIds<'_>) -> (Self, Self) {
        let (mut updates, mut inserts) = (Self::default(), Self::default());
        let mut placed = Vec::with_capacity(changes.len());
        let mut unplaced = Vec::new();
        for change in changes {
            match row_ids.get(&change.key) {
                Some(row_id) => placed.push((row_id, change)),
                None => unplaced.push(change),
            }
        }
        placed.sort_unstable_by_key(|(row_id, _)| *row_id);
        unplaced.sort_unstable_by_key(|change| &change.key);
        for (row_id, change) in placed {
            updates.row_ids.push(row_id);
            updates.push(change);
        }
        unplaced.into_iter().for_each(|change| inserts.push(change));
        (updates, inserts)
    }

    fn push(&mut self, change: &'a BalanceChange) {
        let BalanceChange {
            key,
            currency,
            balance,
        } = change;
        self.keys.push(key);
        self.account_ids.push(key.account_id.as_str());
        self.categories.push(key.category.as_str());
        self.currencies.push(currency.as_str());
        self.posted.push(balance.posted);
        self.held.push(balance.held);
        self.versions.push(balance.version);
        self.update_times.push(PgTime(balance.update_time));
        let last_operation_id = balance.last_operation_id.as_ref();
        self.last_operation_ids
            .push(last_operation_id.map(OperationId::as_str));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.account_ids.is_empty()
    }

    /// The accounts, as far as these are their balances `main`; the others have no place to be remembered.
    pub(super) fn mains(&self) -> impl Iterator<Item = Option<&'a AccountId>> {
        self.keys
            .iter()
            .map(|key| key.category.is_main().then_some(&key.account_id))
    }

    pub(super) fn params_of_update(&self) -> Params<'_, 6> {
        [
            &self.row_ids,
            &self.account_ids,
            &self.posted,
            &self.versions,
            &self.update_times,
            &self.last_operation_ids,
        ]
    }

    pub(super) fn params_of_insert(&self) -> Params<'_, 8> {
        [
            &self.account_ids,
            &self.categories,
            &self.currencies,
            &self.posted,
            &self.held,
            &self.versions,
            &self.update_times,
            &self.last_operation_ids,
        ]
    }
}

/// The entries of one side as columns; NULL where there is none.
#[derive(Default)]
pub(super) struct EntryColumns<'a> {
    versions: Vec<Option<i64>>,
    posted_after: Vec<Option<i64>>,
    previous_ids: Vec<Option<&'a str>>,
    held_after: Vec<Option<i64>>,
    available_after: Vec<Option<i64>>,
}

impl<'a> EntryColumns<'a> {
    pub(super) fn push(&mut self, entry: Option<&'a Entry>) {
        let (held_after, available_after) = entry.map_or((None, None), row::after_columns);
        let previous_id = entry.and_then(|entry| entry.previous_operation_id.as_ref());
        self.versions.push(entry.map(|entry| entry.version));
        self.posted_after
            .push(entry.map(|entry| entry.posted_after));
        self.previous_ids.push(previous_id.map(OperationId::as_str));
        self.held_after.push(held_after);
        self.available_after.push(available_after);
    }

    /// Whether nothing is held or overdrawn, so that the columns which tell are empty.
    fn are_plain(&self) -> bool {
        self.held_after.iter().all(Option::is_none)
            && self.available_after.iter().all(Option::is_none)
    }

    pub(super) fn plain_params(&self) -> Params<'_, 3> {
        [&self.versions, &self.posted_after, &self.previous_ids]
    }

    pub(super) fn rare_params(&self) -> Params<'_, 2> {
        [&self.held_after, &self.available_after]
    }
}

/// One side of operations as columns: the balance, and its entry if the operation made one.
#[derive(Default)]
struct SideColumns<'a> {
    account_ids: Vec<Option<&'a str>>,
    categories: Vec<Option<&'a str>>,
    entries: EntryColumns<'a>,
}

impl<'a> SideColumns<'a> {
    fn push(
        &mut self,
        account_id: Option<&'a AccountId>,
        category: Option<&'a Category>,
        entry: Option<&'a Entry>,
    ) {
        self.account_ids.push(account_id.map(AccountId::as_str));
        self.categories.push(category.map(Category::as_str));
        self.entries.push(entry);
    }

    fn plain_params(&self) -> impl Iterator<Item = &(dyn ToSql + Sync)> {
        let balances: Params<'_, 2> = [&self.account_ids, &self.categories];
        balances.into_iter().chain(self.entries.plain_params())
    }
}

/// Operations with their entries as columns, for `unnest`.
#[derive(Default)]
pub(super) struct OperationColumns<'a> {
    operation_ids: Vec<&'a str>,
    kinds: Vec<&'a str>,
    amounts: Vec<Option<i64>>,
    currencies: Vec<&'a str>,
    create_times: Vec<PgTime>,
    sources: SideColumns<'a>,
    source_asked: Vec<Option<String>>,
    destinations: SideColumns<'a>,
    destination_owner_ids: Vec<Option<&'a str>>,
    descriptions: Vec<Option<&'a str>>,
    metadata: Vec<Option<String>>,
    refusal_reasons: Vec<Option<&'a str>>,
    refusal_facts: Vec<Option<String>>,
}

impl<'a> OperationColumns<'a> {
    /// In the order of their ids, so that the index is gone through once.
    pub(super) fn new(operations: &'a [Arc<Operation>]) -> Self {
        let with_id =
            |operation: &'a Arc<Operation>| (operation.command.operation_id.as_str(), &**operation);
        let mut sorted: Vec<(&str, &Operation)> = operations.iter().map(with_id).collect();
        sorted.sort_unstable_by_key(|(operation_id, _)| *operation_id);
        let mut columns = Self::default();
        for (_, operation) in sorted {
            columns.push(operation);
        }
        columns
    }

    fn push(&mut self, operation: &'a Operation) {
        let Operation {
            command,
            outcome,
            create_time,
        } = operation;
        let movement = &command.movement;
        let (source, destination) = (movement.source(), movement.destination());
        let (source_entry, destination_entry, refusal) = match outcome {
            Outcome::Posted {
                source,
                destination,
            } => (source.as_ref(), destination.as_ref(), None),
            // Its entries are those of its parts.
            Outcome::Merged(_) => (None, None, None),
            Outcome::Refused(refusal) => (None, None, Some(refusal)),
        };
        let first_asked = || source.and_then(|source| source.categories.first());
        let paid = source_entry
            .map(|entry| &entry.balance.category)
            .or_else(first_asked);
        let description = command.note.description.as_str();

        self.operation_ids.push(command.operation_id.as_str());
        self.kinds.push(row::kind(&command.movement));
        self.amounts.push(command.amount.map(Amount::minor_units));
        self.currencies.push(command.currency.as_str());
        self.create_times.push(PgTime(*create_time));
        self.sources
            .push(movement.source_account_id(), paid, source_entry);
        self.source_asked
            .push(source.and_then(row::join_categories));
        self.destinations.push(
            movement.destination_account_id(),
            destination.map(|key| &key.category),
            destination_entry,
        );
        self.destination_owner_ids.push(
            command
                .movement
                .destination_owner_id()
                .map(|id| id.as_str()),
        );
        self.descriptions
            .push((!description.is_empty()).then_some(description));
        self.metadata.push(row::to_json(&command.note.metadata));
        self.refusal_reasons.push(refusal.map(Refusal::reason));
        self.refusal_facts
            .push(refusal.and_then(|refusal| row::to_json(&refusal.facts())));
    }

    /// Whether nobody has anything in the columns that a plain operation leaves out.
    pub(super) fn are_plain(&self) -> bool {
        self.source_asked.iter().all(Option::is_none)
            && self.destination_owner_ids.iter().all(Option::is_none)
            && self.descriptions.iter().all(Option::is_none)
            && self.metadata.iter().all(Option::is_none)
            && self.refusal_reasons.iter().all(Option::is_none)
            && self.sources.entries.are_plain()
            && self.destinations.entries.are_plain()
    }

    pub(super) fn plain_params(&self) -> Vec<&(dyn ToSql + Sync)> {
        let own: Params<'_, 5> = [
            &self.operation_ids,
            &self.kinds,
            &self.amounts,
            &self.currencies,
            &self.create_times,
        ];
        own.into_iter()
            .chain(self.sources.plain_params())
            .chain(self.destinations.plain_params())
            .collect()
    }

    pub(super) fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        let rare: Params<'_, 6> = [
            &self.source_asked,
            &self.destination_owner_ids,
            &self.descriptions,
            &self.metadata,
            &self.refusal_reasons,
            &self.refusal_facts,
        ];
        self.plain_params()
            .into_iter()
            .chain(rare)
            .chain(self.sources.entries.rare_params())
            .chain(self.destinations.entries.rare_params())
            .collect()
    }
}

/// The marks of entries as columns, for `unnest`.
#[derive(Default)]
pub(super) struct MarkColumns<'a> {
    account_ids: Vec<&'a str>,
    categories: Vec<&'a str>,
    versions: Vec<i64>,
    operation_ids: Vec<&'a str>,
    create_times: Vec<PgTime>,
}

impl<'a> MarkColumns<'a> {
    /// Those of the operations' entries that get one.
    pub(super) fn new(operations: &'a [Arc<Operation>]) -> Self {
        let mut columns = Self::default();
        for operation in operations {
            for entry in operation.entries() {
                if entry.version % ENTRIES_PER_MARK == 0 {
                    columns.push(operation, entry);
                }
            }
        }
        columns
    }

    fn push(&mut self, operation: &'a Operation, entry: &'a Entry) {
        self.account_ids.push(entry.balance.account_id.as_str());
        self.categories.push(entry.balance.category.as_str());
        self.versions.push(entry.version);
        self.operation_ids
            .push(operation.command.operation_id.as_str());
        self.create_times.push(PgTime(operation.create_time));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    pub(super) fn params(&self) -> Params<'_, 5> {
        [
            &self.account_ids,
            &self.categories,
            &self.versions,
            &self.operation_ids,
            &self.create_times,
        ]
    }
}
