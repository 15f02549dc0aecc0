//! Columns: many rows as one array per column, which `unnest` turns into rows again. One statement writes a whole batch.

use std::sync::Arc;

use tokio_postgres::types::ToSql;

use super::lock::RowIds;
use super::row::{self, PgTime, RowId};
use crate::domain::{
    AccountId, Amount, BalanceChange, BalanceKey, Category, Entry, Operation, OperationId, Outcome,
    Refusal,
};

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
}

impl<'a> BalanceColumns<'a> {
    /// The changes of balances that have a row, with the place of each, and of those that have none yet.
    pub(super) fn split(changes: &'a [BalanceChange], row_ids: &RowIds) -> (Self, Self) {
        let (mut updates, mut inserts) = (Self::default(), Self::default());
        for change in changes {
            match row_ids.get(&change.key) {
                Some(row_id) => {
                    updates.row_ids.push(row_id);
                    updates.push(change);
                }
                None => inserts.push(change),
            }
        }
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
    }

    pub(super) fn len(&self) -> usize {
        self.account_ids.len()
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

    pub(super) fn params_of_update(&self) -> Params<'_, 5> {
        [
            &self.row_ids,
            &self.account_ids,
            &self.posted,
            &self.versions,
            &self.update_times,
        ]
    }

    pub(super) fn params_of_insert(&self) -> Params<'_, 7> {
        [
            &self.account_ids,
            &self.categories,
            &self.currencies,
            &self.posted,
            &self.held,
            &self.versions,
            &self.update_times,
        ]
    }
}

/// Operations as columns, for `unnest`.
#[derive(Default)]
pub(super) struct OperationColumns<'a> {
    operation_ids: Vec<&'a str>,
    kinds: Vec<&'a str>,
    amounts: Vec<Option<i64>>,
    currencies: Vec<&'a str>,
    create_times: Vec<PgTime>,
    source_account_ids: Vec<Option<&'a str>>,
    source_categories: Vec<Option<&'a str>>,
    source_versions: Vec<Option<i64>>,
    source_asked: Vec<Option<String>>,
    destination_account_ids: Vec<Option<&'a str>>,
    destination_categories: Vec<Option<&'a str>>,
    destination_versions: Vec<Option<i64>>,
    destination_owner_ids: Vec<Option<&'a str>>,
    descriptions: Vec<Option<&'a str>>,
    metadata: Vec<Option<String>>,
    refusal_reasons: Vec<Option<&'a str>>,
    refusal_facts: Vec<Option<String>>,
}

impl<'a> OperationColumns<'a> {
    pub(super) fn new(operations: &[&'a Operation]) -> Self {
        let mut columns = Self::default();
        for operation in operations {
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
        self.source_account_ids
            .push(movement.source_account_id().map(AccountId::as_str));
        self.source_categories.push(paid.map(Category::as_str));
        self.source_versions
            .push(source_entry.map(|entry| entry.version));
        self.source_asked
            .push(source.and_then(row::join_categories));
        self.destination_account_ids
            .push(movement.destination_account_id().map(AccountId::as_str));
        self.destination_categories
            .push(destination.map(|key| key.category.as_str()));
        self.destination_versions
            .push(destination_entry.map(|entry| entry.version));
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
    }

    pub(super) fn plain_params(&self) -> Params<'_, 11> {
        [
            &self.operation_ids,
            &self.kinds,
            &self.amounts,
            &self.currencies,
            &self.create_times,
            &self.source_account_ids,
            &self.source_categories,
            &self.source_versions,
            &self.destination_account_ids,
            &self.destination_categories,
            &self.destination_versions,
        ]
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
        self.plain_params().into_iter().chain(rare).collect()
    }
}

/// Entries as columns, for `unnest`.
#[derive(Default)]
pub(super) struct EntryColumns<'a> {
    account_ids: Vec<&'a str>,
    categories: Vec<&'a str>,
    versions: Vec<i64>,
    operation_ids: Vec<&'a str>,
    amounts: Vec<i64>,
    posted_after: Vec<i64>,
    held_after: Vec<Option<i64>>,
    available_after: Vec<Option<i64>>,
    create_times: Vec<PgTime>,
}

impl<'a> EntryColumns<'a> {
    pub(super) fn new(operations: &'a [Arc<Operation>]) -> Self {
        let mut columns = Self::default();
        for operation in operations {
            for entry in operation.entries() {
                columns.push(
                    &operation.command.operation_id,
                    entry,
                    PgTime(operation.create_time),
                );
            }
        }
        columns
    }

    fn push(&mut self, operation_id: &'a OperationId, entry: &'a Entry, create_time: PgTime) {
        let (held_after, available_after) = row::after_columns(entry);
        self.account_ids.push(entry.balance.account_id.as_str());
        self.categories.push(entry.balance.category.as_str());
        self.versions.push(entry.version);
        self.operation_ids.push(operation_id.as_str());
        self.amounts.push(entry.amount);
        self.posted_after.push(entry.posted_after);
        self.held_after.push(held_after);
        self.available_after.push(available_after);
        self.create_times.push(create_time);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// Whether nothing is held or overdrawn, so that the columns which tell are empty.
    pub(super) fn are_plain(&self) -> bool {
        self.held_after.iter().all(Option::is_none)
            && self.available_after.iter().all(Option::is_none)
    }

    pub(super) fn plain_params(&self) -> Params<'_, 7> {
        [
            &self.account_ids,
            &self.categories,
            &self.versions,
            &self.operation_ids,
            &self.amounts,
            &self.posted_after,
            &self.create_times,
        ]
    }

    pub(super) fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        let rare: Params<'_, 2> = [&self.held_after, &self.available_after];
        self.plain_params().into_iter().chain(rare).collect()
    }
}
