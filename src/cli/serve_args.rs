//! The arguments of `ballast serve`, and the configuration that they mean.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::args::{LedgerArgs, address, count, flag};
use crate::batcher::BatcherConfig;
use crate::server::{NetworkLimits, ServerConfig};
use crate::store::{Isolation, StoreConfig};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    pub(super) ledger: LedgerArgs,
    /// The address to listen on; port 0 takes a free one
    #[arg(long, env = "BALLAST_LISTEN", default_value = "127.0.0.1:50051", value_name = "ADDRESS", value_parser = address)]
    listen: SocketAddr,
    /// The address of the JSON endpoint for card payments, such as 127.0.0.1:8080 [default: off]
    #[arg(long, env = "BALLAST_JSON_LISTEN", value_name = "ADDRESS", value_parser = address)]
    json_listen: Option<SocketAddr>,
    /// Serve only a database whose schema is up to date, do not migrate it
    #[arg(long, env = "BALLAST_NO_MIGRATE", value_parser = flag)]
    pub(super) no_migrate: bool,
    /// Serve a database that may lose committed money in a crash (fsync, full_page_writes or synchronous_commit off)
    #[arg(long, env = "BALLAST_ALLOW_DATA_LOSS", value_parser = flag)]
    pub(super) allow_data_loss: bool,
    /// The isolation of all transactions that write
    #[arg(
        long,
        env = "BALLAST_ISOLATION",
        default_value = "read-committed",
        value_name = "LEVEL"
    )]
    isolation: IsolationArg,
    #[command(flatten)]
    tuning: TuningArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum IsolationArg {
    /// Row locks order everything
    ReadCommitted,
    /// PostgreSQL checks the order too; what it aborts is repeated
    Serializable,
}

impl From<IsolationArg> for Isolation {
    fn from(isolation: IsolationArg) -> Self {
        match isolation {
            IsolationArg::ReadCommitted => Self::ReadCommitted,
            IsolationArg::Serializable => Self::Serializable,
        }
    }
}

/// What the help of `--lock-wait-connections` says.
const LOCK_WAIT_CONNECTIONS_DEFAULT: u64 = 4;

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
struct TuningArgs {
    /// Batches that run at the same time, each on a connection of its own
    #[arg(long, env = "BALLAST_LANES", default_value = "2", value_name = "COUNT", value_parser = count(1, 64))]
    lanes: u64,
    /// Connections that wait for accounts that another session or instance holds locked [default: 4]
    #[arg(long, env = "BALLAST_LOCK_WAIT_CONNECTIONS", value_name = "COUNT", value_parser = count(1, 64))]
    lock_wait_connections: Option<u64>,
    /// The former name of --lock-wait-connections
    #[arg(long, env = "BALLAST_PATIENT_LANES", value_name = "COUNT", value_parser = count(1, 64), hide = true)]
    patient_lanes: Option<u64>,
    /// Connections for reads and for opening accounts
    #[arg(long, env = "BALLAST_REQUEST_CONNECTIONS", default_value = "8", value_name = "COUNT", value_parser = count(1, 1000))]
    request_connections: u64,
    /// The most operations in one transaction
    #[arg(long, env = "BALLAST_BATCH_SIZE_MAX", default_value = "500", value_name = "COUNT", value_parser = count(1, 10_000))]
    batch_size_max: u64,
    /// The most operations that may wait, and the most reads; more get OVERLOADED
    #[arg(long, env = "BALLAST_QUEUE_DEPTH_MAX", default_value = "50000", value_name = "COUNT", value_parser = count(1, 1_000_000))]
    queue_depth_max: u64,
    /// The most categories of one account, main included; an account that has more keeps them and gets no new one
    #[arg(long, env = "BALLAST_CATEGORIES_PER_ACCOUNT_MAX", default_value = "256", value_name = "COUNT", value_parser = count(1, 10_000))]
    categories_per_account_max: u64,
    /// The most TCP connections
    #[arg(long, env = "BALLAST_CONNECTION_COUNT_MAX", default_value = "30000", value_name = "COUNT", value_parser = count(1, 1_000_000))]
    connection_count_max: u64,
    /// The longest that a request may take; a shorter deadline of the caller counts
    #[arg(long, env = "BALLAST_REQUEST_TIMEOUT_MS", default_value = "10000", value_name = "MS", value_parser = count(1, 600_000))]
    request_timeout_ms: u64,
    /// The longest that the authorization of a card payment may take; then its code is 07
    #[arg(long, env = "BALLAST_CARD_TIMEOUT_MS", default_value = "100", value_name = "MS", value_parser = count(1, 60_000))]
    card_timeout_ms: u64,
    /// The longest that one SQL statement may take
    #[arg(long, env = "BALLAST_STATEMENT_TIMEOUT_MS", default_value = "5000", value_name = "MS", value_parser = count(1, 600_000))]
    statement_timeout_ms: u64,
    /// The longest that an operation waits for an account that another session or instance holds locked; then CONTENTION
    #[arg(long, env = "BALLAST_LOCK_WAIT_MS", default_value = "2000", value_name = "MS", value_parser = count(1, 600_000))]
    lock_wait_ms: u64,
    /// The longest that a new database connection may take
    #[arg(long, env = "BALLAST_CONNECT_TIMEOUT_MS", default_value = "3000", value_name = "MS", value_parser = count(1, 600_000))]
    connect_timeout_ms: u64,
    /// The longest that a shutdown may take
    #[arg(long, env = "BALLAST_DRAIN_TIMEOUT_MS", default_value = "20000", value_name = "MS", value_parser = count(1, 600_000))]
    drain_timeout_ms: u64,
}

impl TuningArgs {
    fn lock_wait_connections(&self) -> u64 {
        let given = self.lock_wait_connections.or(self.patient_lanes);
        given.unwrap_or(LOCK_WAIT_CONNECTIONS_DEFAULT)
    }
}

impl ServeArgs {
    pub(super) fn config(&self, database_url: String) -> ServerConfig {
        let tuning = &self.tuning;
        let size = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        ServerConfig {
            listen: self.listen,
            json_listen: self.json_listen,
            store: StoreConfig {
                database_url,
                batch_connections: size(tuning.lanes + tuning.lock_wait_connections()),
                request_connections: size(tuning.request_connections),
                isolation: self.isolation.into(),
                allow_data_loss: self.allow_data_loss,
                categories_per_account_max: size(tuning.categories_per_account_max),
                statement_timeout_ms: tuning.statement_timeout_ms,
                connect_timeout_ms: tuning.connect_timeout_ms,
                request_queue_depth_max: size(tuning.queue_depth_max),
            },
            batcher: BatcherConfig {
                lanes: size(tuning.lanes),
                lock_wait_connections: size(tuning.lock_wait_connections()),
                batch_size_max: size(tuning.batch_size_max),
                queue_depth_max: size(tuning.queue_depth_max),
                lock_wait_max: Duration::from_millis(tuning.lock_wait_ms),
            },
            request_timeout_max: Duration::from_millis(tuning.request_timeout_ms),
            card_timeout: Duration::from_millis(tuning.card_timeout_ms),
            drain_timeout: Duration::from_millis(tuning.drain_timeout_ms),
            connection_count_max: size(tuning.connection_count_max),
            network: NetworkLimits::default(),
        }
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.tuning.connect_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Serve {
        #[command(flatten)]
        args: ServeArgs,
    }

    #[test]
    fn lock_wait_connections_have_a_former_name() {
        let lock_wait_connections = |arguments: &[&str]| {
            let serve = Serve::try_parse_from(["ballast"].iter().chain(arguments));
            let config = serve.expect("valid").args.config("url".to_owned());
            config.batcher.lock_wait_connections
        };
        assert_eq!(lock_wait_connections(&[]), 4);
        assert_eq!(lock_wait_connections(&["--patient-lanes", "7"]), 7);
        let both = ["--patient-lanes", "7", "--lock-wait-connections", "5"];
        assert_eq!(lock_wait_connections(&both), 5);
    }
}
