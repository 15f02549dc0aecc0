//! Unreadable rows: they do not say what Ballast would have written, so somebody else's hand or a bug changed them. One of
//! them must neither be left out of a list nor take the list with it: it is listed by its id with what is wrong, and the log
//! says so once.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokio_postgres::Row;

use super::error::StoreError;
use super::operation_row;
use super::row;
use crate::domain::{AccountId, Operation, OperationId, OwnerId};

/// The most rows whose log lines are remembered. Who has more of them needs `ballast verify`, not a longer log.
const LOGGED_MAX: usize = 1000;

/// An operation that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableOperation {
    /// Its id.
    pub operation_id: OperationId,
    /// What is wrong, by the name of the column.
    pub cause: String,
}

/// An account that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableAccount {
    /// Its id.
    pub account_id: AccountId,
    /// Whose it is.
    pub owner_id: OwnerId,
    /// What is wrong, by the name of the column.
    pub cause: String,
}

impl From<UnreadableOperation> for StoreError {
    fn from(unreadable: UnreadableOperation) -> Self {
        let UnreadableOperation {
            operation_id,
            cause,
        } = unreadable;
        Self::Corrupt(format!("operation {operation_id}: {cause}"))
    }
}

impl From<UnreadableAccount> for StoreError {
    fn from(unreadable: UnreadableAccount) -> Self {
        let UnreadableAccount {
            account_id, cause, ..
        } = unreadable;
        Self::Corrupt(format!("account {account_id}: {cause}"))
    }
}

impl UnreadableOperation {
    /// Says so in the log, once.
    pub(super) fn log(&self) {
        log_once("operation", self.operation_id.as_str(), &self.cause);
    }
}

impl UnreadableAccount {
    /// Says so in the log, once.
    pub(super) fn log(&self) {
        log_once("account", self.account_id.as_str(), &self.cause);
    }
}

/// The operation of a row of `lookup_operations`.
pub(super) fn operation(row: &Row) -> Result<Operation, UnreadableOperation> {
    let operation_id: &str = row.get("operation_id");
    let read = match row::time(row, "create_time").is_in_calendar() {
        true => operation_row::operation(row),
        false => Err(StoreError::Corrupt("create_time".to_owned())),
    };
    read.map_err(|error| UnreadableOperation {
        operation_id: OperationId::from_stored(operation_id),
        cause: cause(error, &format!("operation {operation_id}: ")),
    })
}

/// What an error says about a row, without what the row is.
pub(super) fn cause(error: StoreError, name: &str) -> String {
    match error {
        StoreError::Corrupt(cause) => cause.strip_prefix(name).unwrap_or(&cause).to_owned(),
        error => error.to_string(),
    }
}

fn log_once(what: &'static str, id: &str, cause: &str) {
    static LOGGED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    if logged.len() < LOGGED_MAX && logged.insert(format!("{what} {id}")) {
        tracing::error!(
            id,
            cause,
            "a stored {what} cannot be read; lists show it as unreadable, run `ballast verify`"
        );
    }
}
