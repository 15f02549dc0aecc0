//! Arguments that several commands have: the ledger and the log. Each has an environment variable of its own.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::error::CliError;
use crate::embedded::EmbeddedConfig;
use crate::output;
use crate::store::database_url;

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

/// An address to listen on.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
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

/// A switch, as an environment variable has it.
pub(super) fn flag(text: &str) -> Result<bool, String> {
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

/// A whole number in this range.
pub(super) fn count(
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

#[cfg(test)]
mod tests {
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
