//! A transaction of the write path: how it locks, and what its two halves need.

use std::time::Duration;

use deadpool_postgres::Client;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::Store;
use super::error::StoreError;
use super::pool::{Isolation, LOCK_TIMEOUT};
use super::replays::Replays;
use super::row_id_cache::RowIdCache;

/// How a transaction finds and locks the accounts of its batch. What is locked elsewhere is skipped; to wait for locks is
/// [`Ledger::await_accounts`](super::ledger::Ledger::await_accounts).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LockBy {
    /// By their row ids as far as they are known, else by their keys. Operation ids are not looked up.
    RowId,
    /// By their keys. Operation ids are looked up.
    Key,
    /// By their keys, in a transaction that has begun and has some of the locks already. Operation ids are looked up.
    KeyInHold,
}

impl LockBy {
    /// The quickest way that is right for a batch that holds nothing yet.
    pub(super) fn for_skipping(store: &Store) -> Self {
        // A look-up in a serializable transaction is what makes a replay visible to it.
        let is_quick = store.isolation == Isolation::ReadCommitted && !store.replays.are_expected();
        if is_quick { Self::RowId } else { Self::Key }
    }
}

/// One transaction on one connection.
pub(super) struct Transaction<'a> {
    pub(super) client: &'a Client,
    pub(super) isolation: Isolation,
    pub(super) statement_timeout: Duration,
    pub(super) categories_per_account_max: usize,
    pub(super) lock_by: LockBy,
    pub(super) row_ids: &'a RowIdCache,
    pub(super) replays: &'a Replays,
}

impl Transaction<'_> {
    pub(super) async fn prepare(&self, sql: &str) -> Result<Statement, StoreError> {
        Ok(self.client.prepare_cached(sql).await?)
    }

    pub(super) fn begin(&self) -> String {
        match self.lock_by {
            LockBy::RowId | LockBy::Key => self.isolation.begin().to_owned(),
            // What the wait for a lock was set to is no longer right.
            LockBy::KeyInHold => format!(
                "SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}",
                millis(LOCK_TIMEOUT),
                millis(self.statement_timeout)
            ),
        }
    }

    pub(super) async fn query_unless(
        &self,
        skip: bool,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        match skip {
            true => Ok(Vec::new()),
            false => self.client.query(statement, params).await,
        }
    }
}

pub(super) fn millis(duration: Duration) -> u128 {
    // 0 would mean "wait for ever".
    duration.as_millis().max(1)
}
