//! History: balances at a time, operations, entries. Reads only.
//!
//! Operations are listed by (create_time, operation_id), newest first. Neither ever changes, so no page repeats or misses what
//! was there when the first page was read, also when the clock of the database was set back meanwhile: then a new operation may
//! come after the position of a page, and is on a later page.

use std::collections::HashMap;

use deadpool_postgres::Client;
use tokio_postgres::Row;

use super::accounts::BalanceDetails;
use super::error::StoreError;
use super::operations;
use super::requests::Requests;
use super::row::{self, PgTime};
use super::unreadable::UnreadableOperation;
use crate::domain::{
    AccountId, BalanceKey, Category, Entry, Operation, OperationId, OwnerId, Timestamp,
};

/// An entry with what it is listed with.
#[derive(Debug, Clone)]
pub struct EntryRecord {
    /// The entry.
    pub entry: Entry,
    /// The operation that made it.
    pub operation_id: OperationId,
    /// When it was made.
    pub create_time: Timestamp,
}

/// An entry that cannot be read as a whole.
#[derive(Debug, Clone)]
pub struct UnreadableEntry {
    /// Which entry of its balance it is.
    pub version: i64,
    /// The operation that made it.
    pub operation_id: OperationId,
    /// What is wrong, by the name of the column.
    pub cause: &'static str,
}

/// An operation in a list.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Where it is in the list.
    pub position: HistoryPosition,
    /// The operation, if it can be read.
    pub operation: Result<Operation, UnreadableOperation>,
}

/// Which end of a statement comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageOrder {
    /// Versions fall.
    NewestFirst,
    /// Versions rise.
    OldestFirst,
}

/// A balance at a time.
#[derive(Debug, Clone)]
pub enum BalanceAt {
    /// That time is past.
    Entry {
        /// The balance as it is now.
        now: BalanceDetails,
        /// The last entry at or before that time; `None`: there was none yet.
        then: Option<EntryRecord>,
    },
    /// That time has not come; the database's clock shows this one.
    Future(Timestamp),
}

/// A place in a merged history; what comes after it is older.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPosition {
    /// When the operation was decided.
    pub create_time: Timestamp,
    /// Tells operations of the same time apart.
    pub operation_id: String,
}

impl HistoryPosition {
    /// Whether an operation can have this time, be it by somebody else's hand.
    pub fn can_be_at(create_time: Timestamp) -> bool {
        create_time.is_in_calendar() || PgTime::is_infinite(create_time)
    }

    /// Before the newest operation, whatever its time: no id has this character, and it comes after all that an id has.
    pub fn newest() -> Self {
        Self {
            create_time: Timestamp::INFINITY,
            operation_id: "~".to_owned(),
        }
    }
}

/// A statement that reads entries, with the part that all of them have in common.
macro_rules! chain_scan {
    ($($file:literal),+) => {
        concat!(include_str!("sql/chain_scan.sql"), $(include_str!($file)),+)
    };
}

const GET_BALANCE: &str = include_str!("sql/get_balance.sql");
pub(super) const GET_BALANCE_AT: &str = chain_scan!("sql/get_balance_at.sql");
pub(super) const LIST_OPERATION_IDS_OF_ACCOUNT: &str = chain_scan!(
    "sql/operations_of_account.sql",
    "sql/list_operation_ids.sql"
);
pub(super) const LIST_OPERATION_IDS_OF_OWNER: &str =
    chain_scan!("sql/operations_of_owner.sql", "sql/list_operation_ids.sql");
pub(super) const LIST_ENTRIES: &str = chain_scan!("sql/list_entries.sql");

impl Requests {
    /// A balance now; zero if the account has no such category. `None`: no such account.
    pub async fn get_balance(&self, key: BalanceKey) -> Result<Option<BalanceDetails>, StoreError> {
        self.request(move |client| async move { get_balance(&client, &key).await })
            .await
    }

    /// A balance now, and its last entry at or before a time. `None`: no such account.
    pub async fn get_balance_at(
        &self,
        key: BalanceKey,
        at: Timestamp,
    ) -> Result<Option<BalanceAt>, StoreError> {
        self.request(move |client| async move {
            let statement = client.prepare_cached(GET_BALANCE_AT).await?;
            let params = [
                &key.account_id.as_str() as _,
                &key.category.as_str() as _,
                &PgTime(at) as _,
            ];
            let row = client.query_one(&statement, &params).await?;
            let clock = row::time(&row, "now");
            if at > clock {
                return Ok(Some(BalanceAt::Future(clock)));
            }
            let Some(now) = get_balance(&client, &key).await? else {
                return Ok(None);
            };
            let entry = match row.get::<_, Option<&str>>("operation_id") {
                Some(_) => Some(entry_record(&row, &key).map_err(|unreadable| {
                    let UnreadableEntry { version, cause, .. } = unreadable;
                    StoreError::Corrupt(format!("entry {version} of {key:?}: {cause}"))
                })?),
                None if row.get("is_cut_off") => return Err(broken_chain(&key)),
                None => None,
            };
            Ok(Some(BalanceAt::Entry { now, then: entry }))
        })
        .await
    }

    /// At most `limit` operations of an account after a position, newest first.
    pub async fn account_history(
        &self,
        account_id: AccountId,
        after: HistoryPosition,
        limit: i64,
    ) -> Result<Vec<Listed>, StoreError> {
        self.request(move |client| async move {
            let statement = LIST_OPERATION_IDS_OF_ACCOUNT;
            history(&client, statement, account_id.as_str(), &after, limit).await
        })
        .await
    }

    /// At most `limit` operations of all accounts of an owner after a position, newest first.
    pub async fn owner_history(
        &self,
        owner_id: OwnerId,
        after: HistoryPosition,
        limit: i64,
    ) -> Result<Vec<Listed>, StoreError> {
        self.request(move |client| async move {
            let statement = LIST_OPERATION_IDS_OF_OWNER;
            history(&client, statement, owner_id.as_str(), &after, limit).await
        })
        .await
    }

    /// At most `limit` entries of a balance beyond a version, in the given order.
    pub async fn list_entries(
        &self,
        key: BalanceKey,
        order: PageOrder,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Vec<Result<EntryRecord, UnreadableEntry>>, StoreError> {
        self.request(move |client| async move {
            let statement = client.prepare_cached(LIST_ENTRIES).await?;
            let oldest_first = order == PageOrder::OldestFirst;
            let params = [
                &key.account_id.as_str() as _,
                &key.category.as_str() as _,
                &after as _,
                &limit as _,
                &oldest_first as _,
            ];
            let rows = client.query(&statement, &params).await?;
            let is_found = |row: &Row| row.get::<_, Option<&str>>("operation_id").is_some();
            match rows.iter().all(is_found) {
                true => Ok(rows.iter().map(|row| entry_record(row, &key)).collect()),
                false => Err(broken_chain(&key)),
            }
        })
        .await
    }
}

async fn get_balance(
    client: &Client,
    key: &BalanceKey,
) -> Result<Option<BalanceDetails>, StoreError> {
    let statement = client.prepare_cached(GET_BALANCE).await?;
    let rows = client
        .query(
            &statement,
            &[&key.account_id.as_str(), &key.category.as_str()],
        )
        .await?;
    let details = |row: &Row| -> Result<BalanceDetails, StoreError> {
        let category = Category::from_stored(row.get("category"));
        Ok(BalanceDetails {
            category,
            currency: row::currency(row)?,
            balance: row::balance(row),
        })
    };
    let of_category = |row: &&Row| row.get::<_, &str>("category") == key.category.as_str();
    match (rows.iter().find(of_category), rows.first()) {
        (Some(row), _) => details(row).map(Some),
        (None, Some(main)) => {
            let main = details(main)?;
            Ok(Some(BalanceDetails {
                category: key.category.clone(),
                balance: Default::default(),
                ..main
            }))
        }
        (None, None) => Ok(None),
    }
}

/// The operations of whose id `statement` lists.
async fn history(
    client: &Client,
    statement: &str,
    id: &str,
    after: &HistoryPosition,
    limit: i64,
) -> Result<Vec<Listed>, StoreError> {
    let statement = client.prepare_cached(statement).await?;
    let params = [
        &id as _,
        &PgTime(after.create_time) as _,
        &after.operation_id as _,
        &limit as _,
    ];
    let rows = client.query(&statement, &params).await?;
    let position = |row: &Row| {
        let operation_id: &str = row.get::<_, Option<_>>("operation_id")?;
        Some(HistoryPosition {
            create_time: row::time(row, "create_time"),
            operation_id: operation_id.to_owned(),
        })
    };
    let positions: Option<Vec<HistoryPosition>> = rows.iter().map(position).collect();
    let positions = positions.ok_or_else(|| {
        StoreError::Corrupt(format!(
            "the chain of the entries of one balance of {id} is broken"
        ))
    })?;
    let ids: Vec<&str> = positions
        .iter()
        .map(|at| at.operation_id.as_str())
        .collect();
    let mut read: HashMap<String, _> = HashMap::with_capacity(ids.len());
    for operation in operations::readable_operations(client, &ids).await? {
        let operation_id = match &operation {
            Ok(operation) => &operation.command.operation_id,
            Err(unreadable) => &unreadable.operation_id,
        };
        read.insert(operation_id.to_string(), operation);
    }
    let listed = positions.into_iter().map(|position| {
        let operation = read.get(&position.operation_id).cloned();
        let lost = || StoreError::Corrupt(format!("operation {} is lost", position.operation_id));
        let operation = operation.ok_or_else(lost)?;
        if let Err(unreadable) = &operation {
            unreadable.log();
        }
        Ok(Listed {
            position,
            operation,
        })
    });
    listed.collect()
}

fn broken_chain(key: &BalanceKey) -> StoreError {
    StoreError::Corrupt(format!("the chain of the entries of {key:?} is broken"))
}

fn entry_record(row: &Row, key: &BalanceKey) -> Result<EntryRecord, UnreadableEntry> {
    let create_time = row::time(row, "create_time");
    let operation_id = OperationId::from_stored(row.get("operation_id"));
    let entry = entry(row, key).and_then(|entry| match create_time.is_in_calendar() {
        true => Ok(entry),
        false => Err("create_time"),
    });
    match entry {
        Ok(entry) => Ok(EntryRecord {
            entry,
            operation_id,
            create_time,
        }),
        Err(cause) => Err(UnreadableEntry {
            version: row.get("version"),
            operation_id,
            cause,
        }),
    }
}

fn entry(row: &Row, key: &BalanceKey) -> Result<Entry, &'static str> {
    let amount: Option<i64> = row.get("amount");
    let posted_after: Option<i64> = row.get("posted_after");
    let posted_after = posted_after.ok_or("posted_after")?;
    let (held_after, available_after) = row::after(
        posted_after,
        row.get("held_after"),
        row.get("available_after"),
    );
    Ok(Entry {
        balance: key.clone(),
        version: row.get("version"),
        amount: amount.ok_or("amount")?,
        posted_after,
        held_after,
        available_after,
        previous_operation_id: row::operation_id(row.get("previous_id")),
    })
}
