//! `ballast bench`: measures, and says what it measured.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::args::host_and_port;
use super::error::CliError;
use super::open_files::raise_open_files;
use super::signals::{PLAIN_WORDS, stop_on_signals};
use crate::bench::{
    AskedMode, Baseline, BaselineConfig, BenchError, Build, Database, LockedPayers, Merchant, Mode,
    OperationIds, Pace, Page, Plan, Scenario, TableSize, Variant, run as run_plan, serve_baseline,
};
use crate::output;
use crate::store::database_url;

/// What the ledgers begin with if nothing else is asked for.
const ACCOUNT_COUNT_DEFAULT: u64 = 10_000;
/// The most payers that are locked, each with a call in flight.
const LOCKED_PAYERS_MAX: u64 = 10_000;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ballast bench --baseline transaction,echo,pgbench --html report.html
  ballast bench --scenario uniform --mode unary,batch,stream --concurrency 1000
  ballast bench --concurrency 1 --rate 4000 --mode unary,stream --baseline transaction
  ballast bench --scenario uniform --table-size 10k,10m+5m
  ballast bench --scenario history,locked
  ballast bench --scenario locked --locked-payers 1,4,20,100 --instances 2
  ballast bench --scenario uniform,hot --mode unary:256,stream:2000 --against ../before/ballast
  ballast bench --target 10.0.0.5:50051

All that is compared is measured in every round, one after the other on one machine; look at the ratios. \
Each variant has a database of its own, which is dropped at the end.")]
pub(super) struct BenchArgs {
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    compared: ComparedArgs,
    #[command(flatten)]
    ledger: LedgerArgs,
    /// Write all figures to this file, as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    json: Option<PathBuf>,
    /// Write tables and plots to this file, as one HTML page that needs nothing else
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    html: Option<PathBuf>,
    /// Arguments of `ballast serve` for the first variant
    #[arg(last = true, value_name = "SERVE ARGUMENTS")]
    serve: Vec<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
struct LoadArgs {
    /// What the requests are about; each is measured on its own
    ///
    /// uniform: transfers between any accounts; zipf[:EXPONENT]: few of them are busy; hot: all pay one account; mutual:
    /// two accounts pay each other; debit, reads (GetBalance), mixed (half reads); locked: as uniform, and in the second
    /// half of each round somebody holds one balance locked, or see --locked-payers; history: reads of one account with a long history.
    #[arg(long, value_delimiter = ',', default_value = "uniform,hot", value_name = "NAMES", value_parser = Scenario::parse)]
    scenario: Vec<Scenario>,
    /// In the scenario `locked`: how many payers are locked, while all pay one merchant; each number is measured on its own
    ///
    /// Another session holds their balances for the whole round, and each of them keeps paying, with one unary call in
    /// flight that does not count. Measured are the other payers, as many as --concurrency says, and compared with a round in
    /// which nobody is locked. All of it with a merchant whose id sorts before those of all payers, and with one that sorts
    /// after them.
    #[arg(long, value_delimiter = ',', value_name = "COUNTS", value_parser = clap::value_parser!(u64).range(..=LOCKED_PAYERS_MAX))]
    locked_payers: Vec<u64>,
    /// Closed loop: how many operations are in flight; each number is measured on its own [default: 256, and 24 with
    /// --locked-payers]
    #[arg(long, value_delimiter = ',', value_name = "COUNTS", value_parser = at_least_one)]
    concurrency: Vec<usize>,
    /// Open loop: how many operations are sent per second, whatever the server does; each rate is measured on its own
    ///
    /// A latency counts from the moment at which the operation was due. Those of a batch are due together: at 1000 per
    /// second and 500 members, twice in a second. Together with --concurrency both are measured, the baselines then in the
    /// closed loop only.
    #[arg(long, value_delimiter = ',', value_name = "PER_SECOND", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: Vec<u64>,
    /// By which RPC operations come, each measured on its own: unary (Debit, Credit, Transfer), batch (ExecuteBatch),
    /// stream (SubmitOperations, one stream on each connection)
    ///
    /// stream:2000 has 2000 operations in flight, whatever --concurrency says of the others.
    #[arg(long, alias = "way", value_delimiter = ',', default_value = "unary", value_name = "NAMES", value_parser = AskedModeName::parse)]
    mode: Vec<AskedModeName>,
    /// How many members each batch has. As many batches are in flight as --concurrency fills, but two if it is more than 1
    #[arg(long, default_value = "500", value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    batch_size: u64,
    /// What operation ids look like: random (as a UUID of version 4), or beginning with the time (version 7), which an index
    /// of millions of them takes better
    #[arg(long, default_value = "random", value_name = "KIND")]
    operation_ids: OperationIdsName,
    /// How many TCP connections the client opens
    #[arg(long, default_value = "4", value_name = "COUNT", value_parser = at_least_one)]
    connections: usize,
    /// How often each variant is measured under each load
    #[arg(long, default_value = "3", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each variant is measured in a round
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    duration_s: u64,
    /// How long the load runs before it is measured; unless it is 0, up to 10 s more until the server has answered once
    #[arg(long, default_value = "3", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=86_400))]
    warmup_s: u64,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "What is compared")]
struct ComparedArgs {
    /// Compare with these: transaction (one transaction per request, written the usual way), echo (gRPC alone, no
    /// database), pgbench (one transaction per call of a stored function, no gRPC)
    #[arg(long, value_delimiter = ',', value_name = "NAMES", value_parser = Baseline::parse)]
    baseline: Vec<Baseline>,
    /// Database connections of the baselines `transaction` and `pgbench`
    #[arg(long, default_value = "16", value_name = "COUNT", value_parser = at_least_one)]
    baseline_connections: usize,
    /// Compare with a ballast that has these arguments, such as "--lanes 4"; may be given several times
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    variant: Vec<String>,
    /// Compare with another build: the binary of another ballast, such as that of an earlier version; may be given several times
    ///
    /// It is measured in turn with this one on the same PostgreSQL, each on a fresh database of its own, which it migrates and verifies
    /// itself. It gets no arguments but what every build understands. The ratios are of this build by that one.
    #[arg(long, value_name = "PATH", value_parser = Build::parse)]
    against: Vec<Build>,
    /// How many processes serve each ballast, all on its one database; the client's connections are spread over them
    #[arg(long, default_value = "1", value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=16))]
    instances: u8,
    /// Measure the server that runs at this address instead of starting any
    ///
    /// Accounts are made through gRPC, with ids that begin with bench- and a random number, and stay there. Afterwards
    /// their money is counted. The report has nothing about the server's processors and database, and compares with
    /// nothing.
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port, conflicts_with_all = ["baseline", "variant", "against", "instances", "serve", "table_size", "preload_operations", "data_dir"])]
    target: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Ledger")]
struct LedgerArgs {
    /// How many accounts there are, up to a billion; 10m is ten million [default: 10k]
    #[arg(long, value_name = "COUNT", value_parser = accounts)]
    accounts: Option<u64>,
    /// How many transfers there are between them before the load comes, of two entries each; each account's opening is
    /// one entry more
    #[arg(long, value_name = "COUNT", value_parser = TableSize::parse_count)]
    preload_operations: Option<u64>,
    /// Sizes of ledgers, as ACCOUNTS or ACCOUNTS+OPERATIONS, measured in alternation, such as 10k,10m+5m
    ///
    /// 10m+5m has 10 million accounts and 20 million entries: 10 from openings, 10 from 5 million transfers. It takes
    /// minutes to load, some 12 GB on disk for each variant, and minutes to verify.
    #[arg(long, value_delimiter = ',', value_name = "SIZES", value_parser = TableSize::parse, conflicts_with_all = ["accounts", "preload_operations"])]
    table_size: Vec<TableSize>,
    /// How many entries the account of the scenario `history` has
    #[arg(long, default_value = "1m", value_name = "COUNT", value_parser = entries)]
    history_entries: u64,
    /// A PostgreSQL whose role may create databases; without it, a private one is started
    ///
    /// The databases are called ballast_bench_ and the process id, and are dropped at the end; those of a run that was killed,
    /// or whose ledger is not in order, stay.
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
    /// Do not begin every round with a checkpoint
    ///
    /// With a checkpoint before each round, none pays for what another one wrote. But after a checkpoint the first change of
    /// a page writes the whole page to the WAL, which in short rounds on large ledgers happens for each operation.
    #[arg(long)]
    no_checkpoint: bool,
    /// Do not recompute the ledgers after the run; for some ten million entries that takes minutes
    #[arg(long)]
    no_verify: bool,
}

/// The name of a mode, and how many operations are in flight in it if that is its own affair.
#[derive(Debug, Clone, Copy)]
struct AskedModeName {
    mode: ModeName,
    concurrency: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum ModeName {
    Unary,
    Batch,
    Stream,
}

impl AskedModeName {
    fn parse(text: &str) -> Result<Self, String> {
        let (name, concurrency) = match text.split_once(':') {
            Some((name, count)) => (name, Some(at_least_one(count)?)),
            None => (text, None),
        };
        let mode = match name {
            "unary" => ModeName::Unary,
            "batch" => ModeName::Batch,
            "stream" => ModeName::Stream,
            _ => {
                return Err(
                    "must be one of unary, batch, stream, or such as stream:2000".to_owned(),
                );
            }
        };
        Ok(Self { mode, concurrency })
    }
}

/// The name of a kind of operation ids.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum OperationIdsName {
    Random,
    TimeOrdered,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| *count >= 1);
    count.ok_or_else(|| "must be a whole number of at least 1".to_owned())
}

fn accounts(text: &str) -> Result<u64, String> {
    Ok(TableSize::parse(text)?.account_count)
}

fn entries(text: &str) -> Result<u64, String> {
    match TableSize::parse_count(text)? {
        0 => Err("a history needs an entry".to_owned()),
        count => Ok(count),
    }
}

impl LoadArgs {
    /// The scenarios, with `locked` for each number of locked payers that is asked for, and for none.
    fn scenarios(&self) -> Result<Vec<Scenario>, BenchError> {
        if self.locked_payers.is_empty() {
            return Ok(self.scenario.clone());
        }
        if !self.scenario.contains(&Scenario::Locked) {
            let why = "--locked-payers is about the scenario locked: add --scenario locked";
            return Err(BenchError::Nothing(why.to_owned()));
        }
        let mut counts = vec![0];
        for &count in &self.locked_payers {
            if !counts.contains(&count) {
                counts.push(count);
            }
        }
        let locked = [Merchant::First, Merchant::Last]
            .into_iter()
            .flat_map(|merchant| {
                counts
                    .iter()
                    .map(move |&count| LockedPayers { count, merchant })
            })
            .map(Scenario::LockedPayers);
        let locked: Vec<Scenario> = locked.collect();
        let scenarios = self.scenario.iter().flat_map(|scenario| match scenario {
            Scenario::Locked => locked.clone(),
            scenario => vec![*scenario],
        });
        Ok(scenarios.collect())
    }

    fn paces(&self) -> Vec<Pace> {
        let closed = self.concurrency.iter().map(|count| Pace::Closed(*count));
        closed
            .chain(self.rate.iter().map(|rate| Pace::Open(*rate)))
            .collect()
    }

    fn modes(&self) -> Vec<AskedMode> {
        let size = usize::try_from(self.batch_size).unwrap_or(usize::MAX);
        let mode = |name: ModeName| match name {
            ModeName::Unary => Mode::Unary,
            ModeName::Batch => Mode::Batch(size),
            ModeName::Stream => Mode::Stream,
        };
        let modes = self.mode.iter().map(|asked| AskedMode {
            mode: mode(asked.mode),
            concurrency: asked.concurrency,
        });
        modes.collect()
    }
}

impl OperationIdsName {
    fn kind(self) -> OperationIds {
        match self {
            Self::Random => OperationIds::Random,
            Self::TimeOrdered => OperationIds::TimeOrdered,
        }
    }
}

impl ComparedArgs {
    fn variants(&self, serve: &[String]) -> Vec<Variant> {
        if self.target.is_some() {
            return vec![Variant::Target];
        }
        let words = |arguments: &String| arguments.split_whitespace().map(str::to_owned).collect();
        let others = self
            .variant
            .iter()
            .map(|variant| Variant::Ballast(words(variant)));
        let builds = self.against.iter().cloned().map(Variant::Build);
        let baselines = self.baseline.iter().map(|baseline| {
            Variant::Baseline(BaselineConfig {
                baseline: *baseline,
                connection_count: self.baseline_connections,
            })
        });
        let first = Variant::Ballast(serve.to_vec());
        std::iter::once(first)
            .chain(others)
            .chain(builds)
            .chain(baselines)
            .collect()
    }
}

impl LedgerArgs {
    fn tables(&self) -> Vec<TableSize> {
        if !self.table_size.is_empty() {
            return self.table_size.clone();
        }
        vec![TableSize {
            account_count: self.accounts.unwrap_or(ACCOUNT_COUNT_DEFAULT),
            operation_count: self.preload_operations.unwrap_or(0),
        }]
    }
}

impl BenchArgs {
    fn plan(self) -> Result<Plan, BenchError> {
        let Self {
            load,
            compared,
            ledger,
            serve,
            ..
        } = self;
        let instance_count = usize::from(compared.instances);
        Ok(Plan {
            paces: load.paces(),
            modes: load.modes(),
            operation_ids: load.operation_ids.kind(),
            scenarios: load.scenarios()?,
            rounds: load.rounds,
            duration: Duration::from_secs(load.duration_s),
            warmup: Duration::from_secs(load.warmup_s),
            // Every process has at least one.
            connection_count: load.connections.max(instance_count),
            instance_count,
            variants: compared.variants(&serve),
            tables: ledger.tables(),
            history_entry_count: ledger.history_entries,
            checkpoint: !ledger.no_checkpoint,
            verify: !ledger.no_verify,
            database: match (compared.target, ledger.database_url) {
                (Some(address), _) => Database::Elsewhere(address),
                (None, Some(url)) => Database::Named(url),
                (None, None) => Database::Embedded(ledger.data_dir),
            },
        })
    }
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
    let stop = stop_on_signals(PLAIN_WORDS)?;
    raise_open_files();
    // The files first: a run of an hour must not end with a path that cannot be written.
    let (json, html) = (create(&args.json)?, create(&args.html)?);
    if let Some(url) = &args.ledger.database_url {
        database_url::parse(url)?;
    }
    let ran = run_plan(&args.plan()?, &stop).await;
    if stop.is_forced() {
        return Err(CliError::StoppedAtOnce);
    }
    let report = ran?;
    if let Some(mut file) = json.map(emptied).transpose()? {
        serde_json::to_writer_pretty(&mut file, &report).map_err(std::io::Error::other)?;
        writeln!(file)?;
    }
    if let Some(mut file) = html.map(emptied).transpose()? {
        write!(file, "{}", Page(&report))?;
    }
    output::print(&report)?;
    match report.has_errors() {
        true => Err(CliError::BenchFailures),
        false => Ok(()),
    }
}

/// Opens a file to write to. What is in it stays until there is something better.
fn create(path: &Option<PathBuf>) -> Result<Option<File>, CliError> {
    let Some(path) = path else { return Ok(None) };
    let mut options = File::options();
    let opened = options.write(true).create(true).truncate(false).open(path);
    opened.map(Some).map_err(|error| {
        let cause = format!("cannot write {}: {error}", path.display());
        std::io::Error::new(error.kind(), cause).into()
    })
}

fn emptied(file: File) -> std::io::Result<File> {
    file.set_len(0)?;
    Ok(file)
}

pub(super) async fn run_baseline(args: BaselineArgs) -> Result<(), CliError> {
    let config = BaselineConfig {
        baseline: args.baseline,
        connection_count: args.connections,
    };
    Ok(serve_baseline(&config, &args.database_url, args.listen).await?)
}
