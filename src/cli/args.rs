//! The arguments and their meaning. Each has an environment variable of its own.

use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::environment::{self, EnvironmentError};
use super::{CliError, bench, configuration, health, migrate, serve, stress, verify};
use crate::batcher::BatcherConfig;
use crate::embedded::EmbeddedConfig;
use crate::output;
use crate::server::{NetworkLimits, ServerConfig};
use crate::store::{Isolation, StoreConfig, database_url};

/// Keeps balances: debit, credit and transfer money over gRPC, exactly once, on PostgreSQL.
///
/// Without a command it serves. Without a database it starts a private PostgreSQL of its own, on the binaries of this
/// machine, and keeps its data in .ballast between runs.
///
/// An environment variable that is empty counts as absent, except BALLAST_DATABASE_URL, which must not be empty. An
/// unknown one that begins with BALLAST_ is an error.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve gRPC until SIGTERM or Ctrl-C (the default)
    Serve(ServeArgs),
    /// Bring the schema of a database to this version, and exit
    Migrate(DatabaseArgs),
    /// Recompute the whole ledger and report every inconsistency
    Verify(VerifyArgs),
    /// Measure throughput and latency, compared with the usual way to do it
    Bench(bench::BenchArgs),
    /// Serve what the benchmark compares with
    #[command(hide = true)]
    BenchBaseline(bench::BaselineArgs),
    Stress(stress::StressArgs),
    /// A client process of stress
    #[command(hide = true)]
    StressClient(stress::ClientArgs),
    /// Ask a running server whether it can serve, and exit with 0 if so
    Health(HealthArgs),
    /// Print the page of the documentation that lists all options
    #[command(hide = true)]
    Configuration,
}

#[derive(Debug, Args)]
pub(super) struct DatabaseArgs {
    /// The database, such as postgresql://user:password@host:5432/ballast
    #[arg(
        long,
        env = "BALLAST_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    database_url: Option<String>,
    #[command(flatten)]
    log: LogArgs,
}

/// Where a ledger is: in the database that is named, or in the private PostgreSQL of a folder.
#[derive(Debug, Args)]
pub(super) struct LedgerArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Refuse to use a private PostgreSQL: a database must be named
    #[arg(long, env = "BALLAST_REQUIRE_DATABASE", value_parser = flag)]
    require_database: bool,
    #[command(flatten)]
    private: PrivateArgs,
}

/// The heading of what only concerns a private PostgreSQL.
const PRIVATE: &str = "Private PostgreSQL, if no database is named";

#[derive(Debug, Args)]
struct PrivateArgs {
    /// Where it keeps its data: a folder of its own [default: .ballast]
    #[arg(long, env = "BALLAST_DATA_DIR", value_name = "DIR", help_heading = PRIVATE)]
    data_dir: Option<PathBuf>,
    /// Where its binaries are [default: the newest on PATH or in the usual places]
    #[arg(long, env = "BALLAST_POSTGRES_BIN", value_name = "DIR", help_heading = PRIVATE)]
    postgres_bin: Option<PathBuf>,
    /// The longest that its start may take, including the recovery after a crash
    #[arg(long, env = "BALLAST_POSTGRES_START_TIMEOUT_MS", default_value = "1800000", value_name = "MS", help_heading = PRIVATE, value_parser = count(1, 86_400_000))]
    postgres_start_timeout_ms: u64,
    /// The longest that its stop may take to write all data; then it is stopped at once and recovers at the next start
    #[arg(long, env = "BALLAST_POSTGRES_STOP_TIMEOUT_MS", default_value = "60000", value_name = "MS", help_heading = PRIVATE, value_parser = count(1, 86_400_000))]
    postgres_stop_timeout_ms: u64,
    /// How long to try to start it again after it ended by itself; then ballast exits with 1
    #[arg(long, env = "BALLAST_POSTGRES_RESTART_TIMEOUT_MS", default_value = "300000", value_name = "MS", help_heading = PRIVATE, value_parser = count(1, 86_400_000))]
    postgres_restart_timeout_ms: u64,
}

/// Where the ledger of a command is.
pub(super) enum Place {
    /// In a database that somebody named.
    Named(String),
    /// In a private PostgreSQL.
    Private(EmbeddedConfig),
}

impl LedgerArgs {
    /// Where the ledger is. A private one that must be there already is not made.
    pub(super) fn place(&self, has_ledger: bool) -> Result<Place, CliError> {
        match &self.database.database_url {
            Some(url) => {
                database_url::parse(url)?;
                Ok(Place::Named(url.clone()))
            }
            None if self.require_database => Err(CliError::DatabaseRequired),
            None => Ok(Place::Private(EmbeddedConfig {
                data_dir: self.private.data_dir.clone(),
                postgres_bin: self.private.postgres_bin.clone(),
                has_ledger,
                start_timeout: Duration::from_millis(self.private.postgres_start_timeout_ms),
                stop_timeout: Duration::from_millis(self.private.postgres_stop_timeout_ms),
                restart_timeout: Duration::from_millis(self.private.postgres_restart_timeout_ms),
            })),
        }
    }

    /// Starts logging as the arguments say.
    pub(super) fn start_logging(&self) {
        self.database.start_logging();
    }
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    pub(super) ledger: LedgerArgs,
}

#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// The server, as HOST:PORT [default: this machine, at the port of BALLAST_LISTEN or 50051]
    #[arg(long, env = "BALLAST_TARGET", value_name = "HOST:PORT", value_parser = host_and_port)]
    target: Option<String>,
    #[arg(long, env = "BALLAST_LISTEN", hide = true, default_value = "127.0.0.1:50051", value_parser = address)]
    listen: SocketAddr,
}

impl HealthArgs {
    /// The server to ask: where another one of the same environment listens, if none is named.
    pub(super) fn target(&self) -> String {
        let listens_everywhere = self.listen.ip().is_unspecified();
        let host = if listens_everywhere {
            Ipv4Addr::LOCALHOST.into()
        } else {
            self.listen.ip()
        };
        let here = SocketAddr::new(host, self.listen.port());
        self.target.clone().unwrap_or_else(|| here.to_string())
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "must be an IP address and a port, such as 127.0.0.1:50051 or 0.0.0.0:50051".to_owned()
    })
}

/// The address of a server as a client names it.
pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    let is_valid = match text.rsplit_once(':') {
        Some((host, port)) => {
            let is_ip_v6 = host.starts_with('[') && host.ends_with(']');
            let is_host = !host.is_empty()
                && (is_ip_v6 || !host.contains(|c: char| c.is_whitespace() || "/:@?#".contains(c)));
            is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
        }
        None => false,
    };
    match (is_valid, text.contains("://")) {
        (true, _) => Ok(text.to_owned()),
        (false, true) => Err(
            "must be a host and a port alone, without http://, such as 127.0.0.1:50051".to_owned(),
        ),
        (false, false) => Err("must be a host and a port, such as 127.0.0.1:50051".to_owned()),
    }
}

fn flag(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    let filter = EnvFilter::builder().parse(text);
    filter
        .map(|_| text.to_owned())
        .map_err(|error| format!("{error}; try info, or ballast=debug"))
}

/// What happens to Ballast, without what its libraries chat about.
const LOG_DEFAULT: &str = "info,refinery_core=warn,tokio_postgres=warn,deadpool.postgres=error";

#[derive(Debug, Args)]
struct LogArgs {
    /// What is logged: error, warn, info, debug, or a filter such as ballast=debug
    #[arg(long, env = "BALLAST_LOG", default_value = LOG_DEFAULT, value_name = "FILTER", value_parser = log_filter)]
    log: String,
    /// How it is logged, to stderr
    #[arg(
        long,
        env = "BALLAST_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object per line
    Json,
}

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

fn count(
    min: u64,
    max: u64,
) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let count = text
            .parse()
            .ok()
            .filter(|count| (min..=max).contains(count));
        count.ok_or_else(|| format!("must be a whole number from {min} to {max}"))
    }
}

impl Cli {
    /// What the command line and the environment say. Whoever asks for help, and whoever mistypes an argument, gets an
    /// answer from here, and the process ends.
    pub fn read() -> Result<Self, EnvironmentError> {
        let command = environment::without_empty(Self::command());
        let matches = command.clone().try_get_matches();
        let cli = matches.and_then(|matches| Self::from_arg_matches(&matches));
        match cli {
            Ok(cli) => {
                environment::check(&command, std::env::vars_os())?;
                Ok(cli)
            }
            Err(error) => match environment::invalid(&command, &error) {
                Some(invalid) => Err(invalid),
                None => error.exit(),
            },
        }
    }

    /// Does what the command line says.
    pub async fn run(self) -> Result<(), CliError> {
        match self.command {
            None => serve::run(self.serve).await,
            Some(Command::Serve(args)) => serve::run(args).await,
            Some(Command::Migrate(args)) => migrate::run(&args).await,
            Some(Command::Verify(args)) => verify::run(&args).await,
            Some(Command::Bench(args)) => bench::run(args).await,
            Some(Command::BenchBaseline(args)) => bench::run_baseline(args).await,
            Some(Command::Stress(args)) => stress::run(args).await,
            Some(Command::StressClient(args)) => stress::run_client(args).await,
            Some(Command::Health(args)) => health::run(&args).await,
            Some(Command::Configuration) => Ok(configuration::run(&Self::command())?),
        }
    }
}

impl DatabaseArgs {
    /// The database that was named, for a command that needs one.
    pub(super) fn required(&self) -> Result<&str, CliError> {
        let url = self.database_url.as_deref().ok_or(CliError::NoDatabase)?;
        database_url::parse(url)?;
        Ok(url)
    }

    /// Starts logging as the arguments say.
    pub(super) fn start_logging(&self) {
        let LogArgs { log, log_format } = &self.log;
        let filter = EnvFilter::builder().parse_lossy(log);
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::stderr().is_terminal())
            // Its own errors would go to stderr directly.
            .log_internal_errors(false)
            .with_writer(output::Log);
        match log_format {
            LogFormat::Text => subscriber.init(),
            LogFormat::Json => subscriber.json().init(),
        }
    }
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
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_arguments_fit_together() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn lock_wait_connections_have_a_former_name() {
        let lock_wait_connections = |arguments: &[&str]| {
            let cli = super::Cli::try_parse_from(["ballast"].iter().chain(arguments));
            let config = cli
                .expect("valid")
                .serve
                .config("postgresql://h/d".to_owned());
            config.batcher.lock_wait_connections
        };
        assert_eq!(lock_wait_connections(&[]), 4);
        assert_eq!(lock_wait_connections(&["--patient-lanes", "7"]), 7);
        let both = ["--patient-lanes", "7", "--lock-wait-connections", "5"];
        assert_eq!(lock_wait_connections(&both), 5);
    }

    #[test]
    fn what_libraries_chat_about_is_not_logged_by_default() {
        use tracing::{Level, enabled, subscriber};
        use tracing_subscriber::layer::SubscriberExt;
        let filter = super::EnvFilter::builder().parse_lossy(super::LOG_DEFAULT);
        let registry = tracing_subscriber::registry().with(filter);
        subscriber::with_default(registry, || {
            assert!(enabled!(target: "ballast::server", Level::INFO));
            // The targets as deadpool-postgres, tokio-postgres and refinery name them.
            assert!(!enabled!(target: "deadpool.postgres", Level::WARN));
            assert!(enabled!(target: "deadpool.postgres", Level::ERROR));
            assert!(!enabled!(target: "tokio_postgres::connection", Level::INFO));
            assert!(!enabled!(target: "refinery_core::traits", Level::INFO));
        });
    }
}
