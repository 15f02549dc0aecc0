//! `ballast stress`: very many connections, random transfers, and a check of all money.

use clap::Args;

use super::args::host_and_port;
use super::error::CliError;
use super::open_files::raise_open_files;
use super::signals::{PLAIN_WORDS, stop_on_signals};
use crate::output;
use crate::stress::{Plan, run as run_plan, work};

/// Open very many connections at once, send random transfers, and check that no money came or went
///
/// Ends with "the sum is still ..." and 0, or says what is wrong and ends with 1. The accounts are new ones of a random
/// owner; what else is in the database does not count.
///
/// Each connection is an open file on either side. The soft limit of open files is raised to the hard one (ulimit -Hn);
/// where that is not enough, the connections are spread over several client processes, and over several servers if they
/// are started here. From 10,000 connections to this machine itself on, more source addresses (127.0.0.2 and so on) are
/// used, because one address has only some 28,000 ports.
#[derive(Debug, Args)]
pub(super) struct StressArgs {
    /// The servers, all on one database; without it, a private PostgreSQL and as many servers as needed are started
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,...", value_parser = host_and_port)]
    target: Vec<String>,
    /// How many connections are open at once
    #[arg(long, default_value = "1000", value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    connections: u64,
    /// How many transfers are sent
    #[arg(long, default_value = "100000", value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    transfers: u64,
    /// Among how many accounts
    #[arg(long, default_value = "10", value_name = "COUNT", value_parser = clap::value_parser!(u64).range(2..=100_000))]
    accounts: u64,
    /// Arguments of `ballast serve` for the servers that are started
    #[arg(last = true, value_name = "SERVE ARGUMENTS", conflicts_with = "target")]
    serve: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ClientArgs {
    /// The part of a run, as JSON
    part: String,
}

pub(super) async fn run(args: StressArgs) -> Result<(), CliError> {
    let stop = stop_on_signals(PLAIN_WORDS)?;
    raise_open_files();
    let plan = Plan {
        targets: args.target,
        connection_count: args.connections,
        transfer_count: args.transfers,
        account_count: args.accounts,
        serve: args.serve,
    };
    let ran = run_plan(&plan, &stop).await;
    if stop.is_forced() {
        return Err(CliError::StoppedAtOnce);
    }
    let report = ran?;
    output::print(&report)?;
    match report.findings().is_empty() {
        true => Ok(()),
        false => Err(CliError::StressFindings),
    }
}

pub(super) async fn run_client(args: ClientArgs) -> Result<(), CliError> {
    raise_open_files();
    Ok(work(&args.part).await?)
}
