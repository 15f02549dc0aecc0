//! Columns: the rows that the write path writes, each kind as one array per column. One statement writes a whole batch.
//!
//! A new column is one line here, and its name in the statements that write or read it.

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::row::{PgTime, RowId};
use super::statement::Columns;
use crate::domain::{
    AccountFlags, AccountId, BalanceChange, BalanceKey, Entry, Operation, OperationId,
};

/// A row of a statement, read by the names of its columns.
pub(super) trait ReadRow<'a>: Sized {
    /// Fails if a column is missing, or has a value that no such row has.
    fn read(row: &'a Row) -> Result<Self, tokio_postgres::Error>;
}

/// A kind of row, and many of them as columns. `$name` is what statements call them.
macro_rules! rows {
    ($(#[$doc:meta])* $row:ident, $columns:ident, $name:literal, { $($column:ident: $type:ty),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub(super) struct $row<'a> {
            $(pub(super) $column: $type,)+
        }

        /// Many of these rows, as columns.
        #[derive(Debug, Default)]
        pub(super) struct $columns<'a> {
            $($column: Vec<$type>,)+
            count: usize,
        }

        impl<'a> $columns<'a> {
            pub(super) fn push(&mut self, row: $row<'a>) {
                $(self.$column.push(row.$column);)+
                self.count += 1;
            }
        }

        impl Columns for $columns<'_> {
            const NAME: &'static str = $name;

            fn column(&self, name: &str) -> Option<&(dyn ToSql + Sync)> {
                match name {
                    $(stringify!($column) => Some(&self.$column),)+
                    _ => None,
                }
            }

            fn is_empty(&self) -> bool {
                self.count == 0
            }
        }

        impl<'a> ReadRow<'a> for $row<'a> {
            fn read(row: &'a Row) -> Result<Self, tokio_postgres::Error> {
                Ok(Self {
                    $($column: row.try_get(stringify!($column))?,)+
                })
            }
        }
    };
}

rows!(
    /// A balance. NULL in `row_id`: it has no row yet.
    BalanceRow, BalanceColumns, "balances", {
        row_id: Option<RowId>,
        account_id: &'a str,
        category: &'a str,
        currency_code: &'a str,
        posted: i64,
        held: i64,
        version: i64,
        update_time: PgTime,
        last_operation_id: Option<&'a str>,
        overdraft_limit: i64,
        balance_limit: Option<i64>,
        breach: Option<i64>,
    }
);

rows!(
    /// An operation with its first debit and its first credit. What the columns mean is said in `operation_row`.
    OperationRow, OperationColumns, "operations", {
        operation_id: &'a str,
        kind: &'a str,
        amount: Option<i64>,
        currency_code: &'a str,
        create_time: PgTime,
        source_account_id: Option<&'a str>,
        source_category: Option<&'a str>,
        source_categories: Option<String>,
        source_amount: Option<i64>,
        source_version: Option<i64>,
        source_posted_after: Option<i64>,
        source_held_after: Option<i64>,
        source_available_after: Option<i64>,
        source_previous_id: Option<&'a str>,
        destination_account_id: Option<&'a str>,
        destination_category: Option<&'a str>,
        destination_owner_id: Option<&'a str>,
        destination_amount: Option<i64>,
        destination_version: Option<i64>,
        destination_posted_after: Option<i64>,
        destination_held_after: Option<i64>,
        destination_available_after: Option<i64>,
        destination_previous_id: Option<&'a str>,
        leg_count: Option<i32>,
        hold_id: Option<&'a str>,
        reversed_operation_id: Option<&'a str>,
        intent: Option<String>,
        description: Option<&'a str>,
        metadata: Option<String>,
        refusal_reason: Option<&'a str>,
        refusal_facts: Option<String>,
    }
);

rows!(
    /// An operation that has nothing in the other columns of [`OperationRow`], as nearly all have. They are written with their
    /// balances, and each column costs time.
    PlainOperationRow, PlainOperationColumns, "operations", {
        operation_id: &'a str,
        kind: &'a str,
        amount: Option<i64>,
        currency_code: &'a str,
        create_time: PgTime,
        source_account_id: Option<&'a str>,
        source_category: Option<&'a str>,
        source_version: Option<i64>,
        source_posted_after: Option<i64>,
        source_previous_id: Option<&'a str>,
        destination_account_id: Option<&'a str>,
        destination_category: Option<&'a str>,
        destination_version: Option<i64>,
        destination_posted_after: Option<i64>,
        destination_previous_id: Option<&'a str>,
    }
);

impl<'a> From<OperationRow<'a>> for PlainOperationRow<'a> {
    fn from(row: OperationRow<'a>) -> Self {
        Self {
            operation_id: row.operation_id,
            kind: row.kind,
            amount: row.amount,
            currency_code: row.currency_code,
            create_time: row.create_time,
            source_account_id: row.source_account_id,
            source_category: row.source_category,
            source_version: row.source_version,
            source_posted_after: row.source_posted_after,
            source_previous_id: row.source_previous_id,
            destination_account_id: row.destination_account_id,
            destination_category: row.destination_category,
            destination_version: row.destination_version,
            destination_posted_after: row.destination_posted_after,
            destination_previous_id: row.destination_previous_id,
        }
    }
}

rows!(
    /// A leg of an operation beyond its first debit and its first credit, or one more account that a refused one is listed for.
    LegRow, LegColumns, "legs", {
        operation_id: &'a str,
        account_id: &'a str,
        category: &'a str,
        position: i32,
        amount: Option<i64>,
        version: Option<i64>,
        posted_after: Option<i64>,
        held_after: Option<i64>,
        available_after: Option<i64>,
        previous_id: Option<&'a str>,
        refuse_time: Option<PgTime>,
    }
);

rows!(
    /// An entry of the sparse entry index.
    IndexedEntryRow, IndexedEntryColumns, "entry_marks", {
        account_id: &'a str,
        category: &'a str,
        version: i64,
        operation_id: &'a str,
        create_time: PgTime,
    }
);

rows!(
    /// What an account refuses.
    AccountFlagsRow, AccountFlagsColumns, "account_flags", {
        account_id: &'a str,
        closed: bool,
        debits_frozen: bool,
        credits_frozen: bool,
    }
);

impl<'a> BalanceRow<'a> {
    pub(super) fn of(change: &'a BalanceChange, row_id: Option<RowId>) -> Self {
        let BalanceChange {
            key: BalanceKey {
                account_id,
                category,
            },
            currency,
            balance,
            breach,
        } = change;
        Self {
            row_id,
            account_id: account_id.as_str(),
            category: category.as_str(),
            currency_code: currency.as_str(),
            posted: balance.posted,
            held: balance.held,
            version: balance.version,
            update_time: PgTime(balance.update_time),
            last_operation_id: balance.last_operation_id.as_ref().map(OperationId::as_str),
            overdraft_limit: balance.overdraft_limit,
            balance_limit: balance.balance_limit,
            breach: *breach,
        }
    }
}

/// Every so many entries of a balance, one is in the sparse entry index. The statements that read entries know this number,
/// and `verify_chains` tells whether they agree.
const ENTRIES_PER_INDEXED: i64 = 16;

impl<'a> IndexedEntryRow<'a> {
    /// The row of an entry; `None`: it is not one of those that are indexed.
    pub(super) fn of(operation: &'a Operation, entry: &'a Entry) -> Option<Self> {
        (entry.version % ENTRIES_PER_INDEXED == 0).then(|| Self {
            account_id: entry.balance.account_id.as_str(),
            category: entry.balance.category.as_str(),
            version: entry.version,
            operation_id: operation.command.operation_id.as_str(),
            create_time: PgTime(operation.create_time),
        })
    }
}

impl<'a> AccountFlagsRow<'a> {
    pub(super) fn of((account_id, flags): &'a (AccountId, AccountFlags)) -> Self {
        let AccountFlags {
            closed,
            debits_frozen,
            credits_frozen,
        } = *flags;
        Self {
            account_id: account_id.as_str(),
            closed,
            debits_frozen,
            credits_frozen,
        }
    }
}
