//! The command line: what the user typed, and the commands that it names.

mod args;
mod banner;
#[cfg(feature = "harness")]
mod bench;
mod configuration;
mod demo;
mod environment;
mod error;
mod health;
mod migrate;
mod open_files;
mod serve;
mod serve_args;
mod signals;
#[cfg(feature = "harness")]
mod stress;
mod verify;

pub use environment::EnvironmentError;
pub use error::CliError;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use args::DatabaseArgs;
use serve_args::ServeArgs;

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
    Verify(verify::VerifyArgs),
    /// Measure throughput and latency, compared with the usual way to do it
    #[cfg(feature = "harness")]
    Bench(bench::BenchArgs),
    /// Serve what the benchmark compares with
    #[cfg(feature = "harness")]
    #[command(hide = true)]
    BenchBaseline(bench::BaselineArgs),
    #[cfg(feature = "harness")]
    Stress(stress::StressArgs),
    /// A client process of stress
    #[cfg(feature = "harness")]
    #[command(hide = true)]
    StressClient(stress::ClientArgs),
    /// Ask a running server whether it can serve, and exit with 0 if so
    Health(health::HealthArgs),
    /// Print the page of the documentation that lists all options
    #[command(hide = true)]
    Configuration,
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
            #[cfg(feature = "harness")]
            Some(Command::Bench(args)) => bench::run(args).await,
            #[cfg(feature = "harness")]
            Some(Command::BenchBaseline(args)) => bench::run_baseline(args).await,
            #[cfg(feature = "harness")]
            Some(Command::Stress(args)) => stress::run(args).await,
            #[cfg(feature = "harness")]
            Some(Command::StressClient(args)) => stress::run_client(args).await,
            Some(Command::Health(args)) => health::run(&args).await,
            Some(Command::Configuration) => Ok(configuration::run(&Self::command())?),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_fit_together() {
        super::Cli::command().debug_assert();
    }
}
