//! `ballast bench`: measures, and says what it measured.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::CliError;
use crate::bench::{
    Baseline, BaselineConfig, Database, Pace, Plan, Scenario, Variant, run as run_plan,
    serve_baseline,
};

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// What the requests are about: uniform, zipf[:EXPONENT], hot, mutual, debit, reads, mixed
    #[arg(long, value_delimiter = ',', default_value = "uniform,hot", value_name = "NAMES", value_parser = Scenario::parse)]
    scenario: Vec<Scenario>,
    /// Closed loop: how many requests are in flight; several are measured one after the other
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "256",
        value_name = "COUNTS"
    )]
    concurrency: Vec<usize>,
    /// Open loop instead: how many requests are sent per second, come what may
    #[arg(long, value_delimiter = ',', value_name = "PER_SECOND", conflicts_with = "concurrency", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Vec<u64>,
    /// Compare with these: transaction (one transaction per request, written the usual way), echo (gRPC alone)
    #[arg(long, value_delimiter = ',', value_name = "NAMES", value_parser = Baseline::parse)]
    baseline: Vec<Baseline>,
    /// Database connections of the baseline `transaction`
    #[arg(long, default_value = "16", value_name = "COUNT")]
    baseline_connections: usize,
    /// Compare with a ballast that has these arguments, such as "--lanes 4"; may be given several times
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    variant: Vec<String>,
    /// How often each variant gets its turn
    #[arg(long, default_value = "3", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long a turn is
    #[arg(long, default_value = "10", value_name = "SECONDS")]
    duration_s: u64,
    /// How long a turn runs before it is measured
    #[arg(long, default_value = "3", value_name = "SECONDS")]
    warmup_s: u64,
    /// How many accounts there are
    #[arg(long, default_value = "10000", value_name = "COUNT", value_parser = clap::value_parser!(u64).range(2..))]
    accounts: u64,
    /// How many TCP connections the client opens
    #[arg(long, default_value = "4", value_name = "COUNT")]
    connections: usize,
    /// A PostgreSQL whose role may create databases; without it, a private one is started
    #[arg(
        long,
        env = "BALLAST_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    database_url: Option<String>,
    /// Where the private PostgreSQL keeps its data [default: a temporary folder]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Write all figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Arguments of `ballast serve` for the first variant
    #[arg(last = true, value_name = "SERVE ARGUMENTS")]
    serve: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct BaselineArgs {
    #[arg(value_parser = Baseline::parse)]
    baseline: Baseline,
    #[arg(long)]
    connections: usize,
    #[arg(long, env = "BALLAST_DATABASE_URL")]
    database_url: String,
    #[arg(long, env = "BALLAST_LISTEN")]
    listen: std::net::SocketAddr,
}

pub(super) async fn run(args: BenchArgs) -> Result<(), CliError> {
    super::serve::raise_open_files();
    let words = |arguments: &String| arguments.split_whitespace().map(str::to_owned).collect();
    let baselines = args.baseline.iter().map(|baseline| {
        Variant::Baseline(BaselineConfig {
            baseline: *baseline,
            connection_count: args.baseline_connections,
        })
    });
    let variants = [Variant::Ballast(args.serve.clone())].into_iter();
    let variants = variants
        .chain(
            args.variant
                .iter()
                .map(|variant| Variant::Ballast(words(variant))),
        )
        .chain(baselines);
    let paces = match args.rate.is_empty() {
        true => args
            .concurrency
            .iter()
            .map(|count| Pace::Closed(*count))
            .collect(),
        false => args.rate.iter().map(|rate| Pace::Open(*rate)).collect(),
    };
    let plan = Plan {
        scenarios: args.scenario,
        paces,
        rounds: args.rounds,
        duration: Duration::from_secs(args.duration_s.max(1)),
        warmup: Duration::from_secs(args.warmup_s),
        account_count: args.accounts,
        connection_count: args.connections.max(1),
        variants: variants.collect(),
        database: args
            .database_url
            .map_or(Database::Embedded(args.data_dir), Database::Named),
    };
    let report = run_plan(&plan).await?;
    if let Some(path) = &args.json {
        let mut file = std::fs::File::create(path)?;
        serde_json::to_writer_pretty(&mut file, &report).map_err(std::io::Error::other)?;
        writeln!(file)?;
    }
    println!("{report}");
    println!("every ledger was verified and is in order");
    match report.has_errors() {
        true => Err(CliError::BenchFailures),
        false => Ok(()),
    }
}

pub(super) async fn run_baseline(args: BaselineArgs) -> Result<(), CliError> {
    let config = BaselineConfig {
        baseline: args.baseline,
        connection_count: args.connections,
    };
    Ok(serve_baseline(&config, &args.database_url, args.listen).await?)
}
