//! Why a command failed: one line that names the cure, and the exit code.

use super::signals;
use crate::embedded::EmbeddedError;
use crate::server::StartError;
use crate::store::StoreError;
use crate::store::database_url::DatabaseUrlError;
use crate::store::schema::SchemaError;

/// Why a command failed: one line that names the cure.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// No embedded database.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The database cannot be served.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The server cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The command needs a database.
    #[error("no database is named; give --database-url or set BALLAST_DATABASE_URL")]
    NoDatabase,
    /// The command must not make do with a private one.
    #[error(
        "no database is named, and --require-database (BALLAST_REQUIRE_DATABASE) forbids a private one; give \
         --database-url or set BALLAST_DATABASE_URL"
    )]
    DatabaseRequired,
    /// The connection string is not one that can be used.
    #[error(transparent)]
    DatabaseUrl(#[from] DatabaseUrlError),
    /// Somebody did not want to wait.
    #[error("stopped at once; what was in flight is not answered")]
    StoppedAtOnce,
    /// The ledger is not in order.
    #[error("the ledger is not in order: {0} findings, see above")]
    Findings(u64),
    /// A benchmark has no result.
    #[cfg(feature = "harness")]
    #[error(transparent)]
    Bench(#[from] crate::bench::BenchError),
    /// Requests of a benchmark failed.
    #[cfg(feature = "harness")]
    #[error("some requests failed, see above; their throughput and latency mean little")]
    BenchFailures,
    /// A stress run has no result.
    #[cfg(feature = "harness")]
    #[error(transparent)]
    Stress(#[from] crate::stress::StressError),
    /// A stress run found something wrong.
    #[cfg(feature = "harness")]
    #[error("not everything is in order, see above")]
    StressFindings,
    /// The drain timeout passed before everything was answered.
    #[error(
        "stopped by --drain-timeout-ms before every request was answered; callers have to send those again"
    )]
    CutShort,
    /// A bug.
    #[error(
        "the write path ended by itself, which is a bug; see the log, and start it again, which is safe"
    )]
    WritePathDied,
    /// A running server cannot serve.
    #[error("{target} is not healthy: {cause}")]
    Unhealthy {
        /// The server.
        target: String,
        /// Why not.
        cause: String,
    },
    /// Signals cannot be listened to, or the banner cannot be written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl CliError {
    /// What the process ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::StoppedAtOnce => signals::EXIT_CODE_INTERRUPTED,
            _ => 1,
        }
    }
}
