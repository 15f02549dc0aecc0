//! Why a benchmark has no result.

use super::scenario::Scenario;
use super::table_size::TableSize;
use crate::harness::HarnessError;

/// Why a benchmark has no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A server or a PostgreSQL did not start, or the run was told to stop.
    #[error(transparent)]
    Harness(#[from] HarnessError),
    /// PostgreSQL did not do what the benchmark needs.
    #[error("benchmark database: {0}")]
    Database(String),
    /// The zipf exponent is not one.
    #[error("zipf exponent {0} must be a positive number")]
    Exponent(f64),
    /// A ledger is too small for the scenario.
    #[error(
        "a ledger of {table} has too few accounts for {scenario}: it needs {account_count_min}"
    )]
    TooFewAccounts {
        /// What the ledger begins with.
        table: TableSize,
        /// What is to be measured.
        scenario: Scenario,
        /// The fewest accounts.
        account_count_min: u64,
    },
    /// Nothing that was asked for can be measured.
    #[error("nothing to measure: {0}")]
    Nothing(String),
    /// The ledger is not in order after the run.
    #[error("the ledger of {name} is not in order: {finding}")]
    NotInOrder {
        /// The variant.
        name: String,
        /// The first finding.
        finding: String,
    },
    /// A file or a folder.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl From<tokio_postgres::Error> for BenchError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(crate::store::with_source(&error))
    }
}

impl BenchError {
    /// What this name stands for cannot be started, or ended before its time.
    pub(super) fn server(name: impl Into<String>, cause: impl Into<String>) -> Self {
        let (name, cause) = (name.into(), cause.into());
        HarnessError::Server { name, cause }.into()
    }
}
