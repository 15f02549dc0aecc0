//! What can go wrong between Ballast and PostgreSQL, told apart by SQLSTATE and never by message text.

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

use crate::domain::{Operation, OperationId, Timestamp};

/// Whether a transaction that failed left something behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was committed.
    None,
    /// The commit was under way. These operations may or may not have been recorded by it.
    Unknown(Vec<InDoubt>),
}

/// An operation whose commit was under way when its answer was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InDoubt {
    /// Its id.
    pub operation_id: OperationId,
    /// When that transaction decided it. Of all transactions that may record the id, only that one has this time: each
    /// reads the clock after it has the locks, and there only one at a time has them.
    pub create_time: Timestamp,
}

impl InDoubt {
    pub(super) fn of(operation: &Operation) -> Self {
        Self {
            operation_id: operation.command.operation_id.clone(),
            create_time: operation.create_time,
        }
    }
}

/// A failure of the store. A refusal is not one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// SQLSTATE 40001 or 40P01: the transaction lost against another; the same transaction may succeed now.
    #[error("the transaction conflicted with another one")]
    Serialization,
    /// SQLSTATE 55P03: a lock was not granted in time.
    #[error("a lock was not granted in time")]
    LockTimeout,
    /// A table of the ledger stayed locked, as by ALTER TABLE. Nothing was committed.
    #[error("a table of the ledger stayed locked")]
    TableLocked,
    /// SQLSTATE 23505: another transaction made this row first.
    #[error("unique constraint {constraint} is taken")]
    Duplicate {
        /// The constraint.
        constraint: String,
    },
    /// SQLSTATE 57014: the statement took longer than the statement timeout. Nothing was committed.
    #[error("a statement ran into the statement timeout")]
    StatementTimeout,
    /// The caller's deadline passed before the answer came.
    #[error("the deadline passed")]
    Deadline {
        /// What may have happened, or may still.
        outcome: Outcome,
    },
    /// As many wait for a connection as may wait. Nothing was sent.
    #[error("too many wait for a connection")]
    Exhausted,
    /// The database cannot be reached, shuts down, is read-only, or lets the role do too little.
    #[error("database unavailable: {cause}")]
    Unavailable {
        /// What may have happened.
        outcome: Outcome,
        /// For the log.
        cause: String,
    },
    /// PostgreSQL rejected a statement for another reason: a bug. Nothing was committed.
    #[error("statement rejected with SQLSTATE {sqlstate}: {message}")]
    Rejected {
        /// The SQLSTATE.
        sqlstate: String,
        /// For the log.
        message: String,
    },
    /// A stored row does not say what Ballast would have written: a bug, or somebody else's hand.
    #[error("stored row is not understood: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// The same error for a flight that carried the COMMIT of `in_doubt`: without an answer from PostgreSQL the
    /// outcome is unknown. Only 40001, 40P01 and class 23 on COMMIT itself say "not committed".
    pub(super) fn during_commit(error: &tokio_postgres::Error, in_doubt: Vec<InDoubt>) -> Self {
        let not_committed = error
            .code()
            .is_some_and(|code| is_serialization(code) || code.code().starts_with("23"));
        match Self::from(error) {
            error if not_committed => error,
            error => Self::Unavailable {
                outcome: Outcome::Unknown(in_doubt),
                cause: error.to_string(),
            },
        }
    }

    /// The same error for a statement that commits by itself. PostgreSQL answers it after the commit: with an error if
    /// there was none, and 08 or 57P are what a lost connection or a pooler in between says.
    pub(super) fn during_lone_write(error: &tokio_postgres::Error) -> Self {
        let is_lost = |code: &SqlState| ["08", "57P"].iter().any(|c| code.code().starts_with(c));
        match (error.code(), Self::from(error)) {
            (Some(code), error) if !is_lost(code) => error,
            (_, error) => Self::Unavailable {
                outcome: Outcome::Unknown(Vec::new()),
                cause: error.to_string(),
            },
        }
    }

    /// Whether it leaves open what happened.
    pub(super) fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Deadline { outcome } | Self::Unavailable { outcome, .. } => {
                *outcome != Outcome::None
            }
            Self::Serialization
            | Self::LockTimeout
            | Self::TableLocked
            | Self::Duplicate { .. }
            | Self::StatementTimeout
            | Self::Exhausted
            | Self::Rejected { .. }
            | Self::Corrupt(_) => false,
        }
    }

    /// PostgreSQL ended the transaction and the connection is as good as before: after a ROLLBACK it can go on.
    pub(super) fn leaves_the_connection_usable(&self) -> bool {
        match self {
            Self::Serialization | Self::LockTimeout | Self::Duplicate { .. } => true,
            Self::StatementTimeout
            | Self::TableLocked
            | Self::Deadline { .. }
            | Self::Exhausted
            | Self::Unavailable { .. }
            | Self::Rejected { .. }
            | Self::Corrupt(_) => false,
        }
    }

    /// The connection could not be used, and nothing was sent on it.
    pub fn unavailable(cause: impl ToString) -> Self {
        Self::Unavailable {
            outcome: Outcome::None,
            cause: cause.to_string(),
        }
    }
}

fn is_serialization(code: &SqlState) -> bool {
    *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED
}

impl From<&tokio_postgres::Error> for StoreError {
    fn from(error: &tokio_postgres::Error) -> Self {
        let Some(database_error) = error.as_db_error() else {
            return Self::unavailable(with_source(error));
        };
        let code = database_error.code();
        let message = database_error.message().to_owned();
        match code {
            code if is_serialization(code) => Self::Serialization,
            code if *code == SqlState::LOCK_NOT_AVAILABLE => Self::LockTimeout,
            code if *code == SqlState::QUERY_CANCELED => Self::StatementTimeout,
            code if *code == SqlState::UNIQUE_VIOLATION => Self::Duplicate {
                constraint: database_error.constraint().unwrap_or_default().to_owned(),
            },
            // 08 connection, 53 resources, 57P operator intervention, 25006 and 25P03 from a standby or an idle
            // session, 3D000 and 28 when the database or the role went away, 42501 when the role lost a privilege.
            code if ["08", "53", "57P", "25006", "25P03", "3D000", "28", "42501"]
                .iter()
                .any(|c| code.code().starts_with(c)) =>
            {
                Self::unavailable(message)
            }
            code => Self::Rejected {
                sqlstate: code.code().to_owned(),
                message,
            },
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::from(&error)
    }
}

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Timeout(kind) => {
                Self::unavailable(format!("connecting took too long ({kind:?})"))
            }
            PoolError::Backend(error) => match Self::from(&error) {
                Self::Rejected { sqlstate, message } => {
                    Self::unavailable(format!("{sqlstate}: {message}"))
                }
                other => other,
            },
            PoolError::Closed => Self::unavailable("the pool is closed"),
            PoolError::NoRuntimeSpecified => Self::unavailable("the pool has no runtime"),
            PoolError::PostCreateHook(error) => Self::unavailable(error),
        }
    }
}

/// An error with its causes; the top one of tokio-postgres alone says only "db error" or "error connecting to server".
pub(crate) fn with_source(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
