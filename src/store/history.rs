//! History: balances at a time, operations, entries. Reads only.

use deadpool_postgres::Client;
use tokio_postgres::Row;

use super::accounts::{BalanceDetails, list_account_ids};
use super::error::StoreError;
use super::merges;
use super::requests::Requests;
use super::row::{self, PgTime};
use crate::domain::{
    AccountId, BalanceKey, Category, Entry, Operation, OperationId, OwnerId, Timestamp,
};

/// The most accounts of one owner that a history merges.
pub const OWNER_ACCOUNTS_MAX: i64 = 1000;

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
    /// Before the newest operation.
    pub fn newest() -> Self {
        Self {
            create_time: Timestamp::from_micros(i64::MAX),
            operation_id: String::new(),
        }
    }
}

/// A statement that reads entries, with the part that all of them have in common.
macro_rules! walking {
    ($file:literal) => {
        concat!(include_str!("sql/walk.sql"), include_str!($file))
    };
}

const GET_BALANCE: &str = include_str!("sql/get_balance.sql");
pub(super) const GET_BALANCE_AT: &str = walking!("sql/get_balance_at.sql");
pub(super) const LIST_OPERATION_IDS: &str = walking!("sql/list_operation_ids.sql");
pub(super) const LIST_ENTRIES: &str = walking!("sql/list_entries.sql");

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
                Some(_) => Some(entry_record(&row, &key)),
                None if row.get("is_cut_off") => return Err(broken_chain(&key)),
                None => None,
            };
            Ok(Some(BalanceAt::Entry { now, then: entry }))
        })
        .await
    }

    /// The operation of this id.
    pub async fn get_operation(
        &self,
        operation_id: OperationId,
    ) -> Result<Option<Operation>, StoreError> {
        self.request(move |client| async move {
            Ok(merges::operations(&client, &[operation_id.as_str()])
                .await?
                .pop())
        })
        .await
    }

    /// At most `limit` operations of an account after a position, newest first.
    pub async fn account_history(
        &self,
        account_id: AccountId,
        after: HistoryPosition,
        limit: i64,
    ) -> Result<Vec<Operation>, StoreError> {
        self.request(move |client| async move {
            history(&client, &[account_id.as_str()], &after, limit).await
        })
        .await
    }

    /// At most `limit` operations of all accounts of an owner after a position, newest first, and those accounts.
    pub async fn owner_history(
        &self,
        owner_id: OwnerId,
        after: HistoryPosition,
        limit: i64,
    ) -> Result<(Vec<Operation>, Vec<AccountId>), StoreError> {
        self.request(move |client| async move {
            let account_ids =
                list_account_ids(&client, &owner_id, None, OWNER_ACCOUNTS_MAX).await?;
            let account_texts: Vec<&str> = account_ids.iter().map(String::as_str).collect();
            let operations = history(&client, &account_texts, &after, limit).await?;
            Ok((
                operations,
                account_ids
                    .iter()
                    .map(|id| AccountId::from_stored(id))
                    .collect(),
            ))
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
    ) -> Result<Vec<EntryRecord>, StoreError> {
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

async fn history(
    client: &Client,
    account_ids: &[&str],
    after: &HistoryPosition,
    limit: i64,
) -> Result<Vec<Operation>, StoreError> {
    let statement = client.prepare_cached(LIST_OPERATION_IDS).await?;
    let params = [
        &account_ids as _,
        &PgTime(after.create_time) as _,
        &after.operation_id as _,
        &limit as _,
    ];
    let rows = client.query(&statement, &params).await?;
    let operation_ids: Option<Vec<&str>> = rows.iter().map(|row| row.get("operation_id")).collect();
    let operation_ids = operation_ids.ok_or_else(|| {
        StoreError::Corrupt(format!(
            "the chain of the entries of one of {account_ids:?} is broken"
        ))
    })?;
    let mut operations = merges::operations(client, &operation_ids).await?;
    let key = |operation: &Operation| {
        (
            operation.create_time,
            operation.command.operation_id.clone(),
        )
    };
    operations.sort_unstable_by_key(|operation| std::cmp::Reverse(key(operation)));
    Ok(operations)
}

fn broken_chain(key: &BalanceKey) -> StoreError {
    StoreError::Corrupt(format!("the chain of the entries of {key:?} is broken"))
}

fn entry_record(row: &Row, key: &BalanceKey) -> EntryRecord {
    EntryRecord {
        entry: entry(row, key),
        operation_id: OperationId::from_stored(row.get("operation_id")),
        create_time: row::time(row, "create_time"),
    }
}

fn entry(row: &Row, key: &BalanceKey) -> Entry {
    let posted_after: i64 = row.get("posted_after");
    let (held_after, available_after) = row::after(
        posted_after,
        row.get("held_after"),
        row.get("available_after"),
    );
    Entry {
        balance: key.clone(),
        version: row.get("version"),
        amount: row.get("amount"),
        posted_after,
        held_after,
        available_after,
        previous_operation_id: row::operation_id(row.get("previous_id")),
    }
}
