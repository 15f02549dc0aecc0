//! The benchmark: the instrument that proves or refutes what the README claims.
//!
//! Client, server and PostgreSQL are separate processes that speak over TCP and a unix socket, as in real life. What is
//! compared runs alternately in one run, because machines are noisy: every variant gets its turn in every round, each
//! on a database of its own on the same PostgreSQL. After its last round each ledger is verified.

#[expect(
    clippy::disallowed_methods,
    reason = "what is compared is written the usual way"
)]
mod baseline;
mod build;
mod disk;
mod environment;
mod history;
mod html;
mod ledger;
mod load;
mod measured;
mod pgbench;
mod plot;
mod preload;
mod process;
mod ratios;
mod report;
mod scenario;
mod stalls;
mod table_size;
mod tables;
mod target;
mod turn;
mod way;

pub use baseline::{Baseline, BaselineConfig, serve as serve_baseline};
pub use build::Build;
pub use html::Page;
pub use load::Pace;
pub(crate) use process::{Served, rss_bytes};
pub use report::{Figures, Report};
pub use scenario::{LockedPayers, Merchant, OperationIds, Scenario};
pub use table_size::TableSize;
pub use way::{AskedWay, Way};

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::embedded::{Embedded, EmbeddedConfig, EmbeddedError};
use crate::stop::Stop;
use turn::{Cell, Running};

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the requests are about; each is measured on its own.
    pub scenarios: Vec<Scenario>,
    /// How fast the requests come; each is measured on its own. If there is none: a closed loop, with as many in flight as is
    /// usual for the scenario.
    pub paces: Vec<Pace>,
    /// By which RPC they come; each is measured on its own.
    pub ways: Vec<AskedWay>,
    /// What operation ids look like, but for those of pgbench.
    pub operation_ids: OperationIds,
    /// How often each variant gets its turn.
    pub rounds: u32,
    /// How long a turn is, without its warm-up.
    pub duration: Duration,
    /// How long a turn runs before it is measured.
    pub warmup: Duration,
    /// What the ledgers begin with; each is measured on its own.
    pub tables: Vec<TableSize>,
    /// How many entries the account of [`Scenario::History`] has.
    pub history_entry_count: u64,
    /// How many TCP connections the client opens.
    pub connection_count: usize,
    /// What is compared.
    pub variants: Vec<Variant>,
    /// How many processes serve each ballast that is measured, on one database.
    pub instance_count: usize,
    /// Where PostgreSQL is.
    pub database: Database,
    /// Whether every turn begins with a checkpoint.
    pub checkpoint: bool,
    /// Whether every ledger is verified after its last turn.
    pub verify: bool,
}

/// One of the servers that are compared.
#[derive(Debug, Clone)]
pub enum Variant {
    /// This ballast, with these extra arguments of `ballast serve`.
    Ballast(Vec<String>),
    /// Another build of ballast.
    Build(Build),
    /// Something else behind the same gRPC method.
    Baseline(BaselineConfig),
    /// What runs at [`Database::Elsewhere`].
    Target,
}

/// The PostgreSQL of a benchmark.
#[derive(Debug, Clone)]
pub enum Database {
    /// A private one, in this folder; in a temporary one if `None`.
    Embedded(Option<PathBuf>),
    /// This server; its role may create databases.
    Named(String),
    /// That of the server that runs at this HOST:PORT; nothing is known of it.
    Elsewhere(String),
}

/// Why a benchmark has no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No PostgreSQL.
    #[error(transparent)]
    Embedded(EmbeddedError),
    /// PostgreSQL did not do what the benchmark needs.
    #[error("benchmark database: {0}")]
    Database(String),
    /// A server that is measured did not start.
    #[error("cannot start {name}: {cause}")]
    Server {
        /// The variant.
        name: String,
        /// Why not.
        cause: String,
    },
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
    /// It was told to stop.
    #[error("interrupted before the end; there is no result")]
    Interrupted,
    /// A file or a folder.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl From<EmbeddedError> for BenchError {
    fn from(error: EmbeddedError) -> Self {
        match error {
            EmbeddedError::Stopped => Self::Interrupted,
            error => Self::Embedded(error),
        }
    }
}

impl From<tokio_postgres::Error> for BenchError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(crate::store::with_source(&error))
    }
}

impl Variant {
    /// How the report calls it.
    pub fn name(&self) -> String {
        match self {
            Self::Ballast(arguments) if arguments.is_empty() => "ballast".to_owned(),
            Self::Ballast(arguments) => format!("ballast {}", arguments.join(" ")),
            Self::Build(build) => build.name().to_owned(),
            Self::Baseline(config) => config.baseline.name().to_owned(),
            Self::Target => "target".to_owned(),
        }
    }
}

impl Plan {
    /// How the names of its databases begin.
    fn database_prefix(&self) -> String {
        match self.database {
            // Nobody else is on it: what a killed run left behind is found by its name, and dropped.
            Database::Embedded(_) => "ballast_bench".to_owned(),
            // Another benchmark may run on it.
            _ => format!("ballast_bench_{}", std::process::id()),
        }
    }
}

/// Runs the plan. Progress goes to stderr. When `stop` is asked the run ends without a result, and leaves nothing
/// running.
pub async fn run(plan: &Plan, stop: &Stop) -> Result<Report, BenchError> {
    let cells = Cell::all(plan);
    let skipped = skipped(plan, &cells);
    if skipped.iter().map(|skip| skip.count).sum::<usize>() == cells.len() * plan.variants.len() {
        let why: Vec<String> = skipped.iter().map(Skip::to_string).collect();
        return Err(BenchError::Nothing(why.join("; ")));
    }
    enough_accounts(plan)?;
    match &plan.database {
        Database::Elsewhere(_) => until_stopped(stop, run_on(plan, None)).await,
        Database::Named(url) => {
            let ran = until_stopped(stop, run_on(plan, None)).await;
            match &ran {
                // Somebody wants to see what is not in order.
                Ok(_) | Err(BenchError::NotInOrder { .. }) => {}
                Err(_) => {
                    let prefix = plan.database_prefix();
                    let dropping = ledger::drop_all(url, &prefix);
                    stop.unless_forced(dropping).await;
                }
            }
            ran
        }
        Database::Embedded(folder) => {
            with_embedded(folder.as_deref(), stop, async |embedded| {
                run_on(plan, Some(embedded)).await
            })
            .await
        }
    }
}

/// Whether the ledgers have the accounts that the scenarios need.
fn enough_accounts(plan: &Plan) -> Result<(), BenchError> {
    for &scenario in &plan.scenarios {
        let Scenario::LockedPayers(locked) = scenario else {
            continue;
        };
        let account_count_min = locked.account_count_min();
        let too_small = |table: &&TableSize| table.account_count < account_count_min;
        if let Some(&table) = plan.tables.iter().find(too_small) {
            return Err(BenchError::TooFewAccounts {
                table,
                scenario,
                account_count_min,
            });
        }
    }
    Ok(())
}

/// Does `work`, unless `stop` is asked before it is done. Processes that it started are killed then; if a Ctrl-C in the
/// terminal reached them too, what they say about it is not the reason.
pub(crate) async fn until_stopped<T, E: From<BenchError>>(
    stop: &Stop,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match stop.unless_asked(work).await {
        Some(Err(_)) | None if stop.is_asked() => Err(BenchError::Interrupted.into()),
        Some(worked) => worked,
        None => Err(BenchError::Interrupted.into()),
    }
}

/// Does `work` on a private PostgreSQL in this folder, or in a temporary one, unless `stop` is asked before.
pub(crate) async fn with_embedded<T, E: From<BenchError>>(
    folder: Option<&Path>,
    stop: &Stop,
    work: impl AsyncFnOnce(&Embedded) -> Result<T, E>,
) -> Result<T, E> {
    let temporary = tempfile::Builder::new()
        .prefix("ballast-bench-")
        .tempdir()
        .map_err(BenchError::from)?;
    open_to_all(temporary.path()).map_err(BenchError::from)?;
    let folder = folder.unwrap_or(temporary.path());
    let config = EmbeddedConfig {
        data_dir: Some(folder.to_owned()),
        ..EmbeddedConfig::default()
    };
    let embedded = Embedded::start(config, stop)
        .await
        .map_err(BenchError::from)?;
    let worked = until_stopped(stop, work(&embedded)).await;
    embedded.stop(stop.forced()).await;
    worked
}

/// PostgreSQL may run as another user, who has to pass through.
fn open_to_all(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
}

async fn run_on(plan: &Plan, embedded: Option<&Embedded>) -> Result<Report, BenchError> {
    let cells = Cell::all(plan);
    let skipped = skipped(plan, &cells);
    let prefix = plan.database_prefix();
    let mut running = Vec::new();
    for (index, table) in plan.tables.iter().enumerate() {
        for (number, variant) in plan.variants.iter().enumerate() {
            let database = format!("{prefix}_{index}_{number}");
            running.push(Running::start(plan, variant, *table, &database, embedded).await?);
        }
    }
    let url = running.first().and_then(Running::database_url);
    let mut notes = notes(plan, &cells, &skipped);
    notes.extend(versions(plan).await?);
    let mut report = Report::new(
        plan,
        environment::Environment::of(url, embedded).await?,
        notes,
    );
    if let Some(embedded) = embedded
        && is_wal_provided(plan)
    {
        let turn = plan.warmup + plan.duration;
        ledger::provide_wal(&embedded.database_url(), turn).await?;
    }
    let bar = progress_bar(seconds(plan, &cells));
    let indexes = 0..running.len();
    let mut turns: Vec<(&Cell, usize)> = cells
        .iter()
        .flat_map(|cell| indexes.clone().map(move |index| (cell, index)))
        .collect();
    for round in 1..=plan.rounds {
        for &(cell, index) in &turns {
            let variant = &mut running[index];
            if cell.skips(plan, variant.variant()).is_some() {
                continue;
            }
            bar.set_message(format!("{} {cell}, round {round}", variant.name()));
            let figures = turn::take(plan, cell, variant, embedded, &bar).await?;
            report.add(cell, variant, figures);
        }
        // The next round goes the other way, so that none always comes after the same neighbour.
        turns.reverse();
    }
    bar.finish_and_clear();
    report.compare();
    for variant in running {
        variant.finish(plan.verify).await?;
    }
    Ok(report)
}

/// Whether the WAL has its segments before the first turn. Without checkpoints between the turns, only the first one would
/// have the use of them.
fn is_wal_provided(plan: &Plan) -> bool {
    matches!(plan.database, Database::Embedded(_)) && plan.checkpoint
}

/// Loads that are not measured for some variants, and why.
struct Skip {
    why: &'static str,
    variants: Vec<String>,
    first: String,
    count: usize,
}

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            why,
            variants,
            first,
            count,
        } = self;
        write!(f, "{}: {why} ({first}", variants.join(", "))?;
        match count - 1 {
            0 => f.write_str(")"),
            more => write!(f, ", and {more} more)"),
        }
    }
}

fn skipped(plan: &Plan, cells: &[Cell]) -> Vec<Skip> {
    let mut skipped: Vec<Skip> = Vec::new();
    for cell in cells {
        for variant in &plan.variants {
            let Some(why) = cell.skips(plan, variant) else {
                continue;
            };
            let name = variant.name();
            let Some(known) = skipped.iter_mut().find(|skip| skip.why == why) else {
                skipped.push(Skip {
                    why,
                    variants: vec![name],
                    first: cell.to_string(),
                    count: 1,
                });
                continue;
            };
            known.count += 1;
            if !known.variants.contains(&name) {
                known.variants.push(name);
            }
        }
    }
    skipped
}

/// What has to be known to read the figures.
fn notes(plan: &Plan, cells: &[Cell], skipped: &[Skip]) -> Vec<String> {
    let widened = cells.iter().filter_map(|cell| match (cell.way, cell.pace) {
        (way @ Way::Batch(_), Pace::Closed(count)) => {
            let in_flight: usize = way.callers(count, 1).iter().sum();
            (in_flight != count)
                .then(|| format!("{cell}: whole batches, so {in_flight} operations are in flight"))
        }
        (Way::Batch(size), Pace::Open(rate)) => {
            let seconds = size as f64 / rate as f64;
            Some(format!("{cell}: a batch is due every {seconds:.3} s"))
        }
        _ => None,
    });
    let skipped = skipped.iter().map(|skip| format!("skipped: {skip}"));
    let compared = plan.variants.iter().filter_map(|variant| match variant {
        Variant::Baseline(config) => Some(config.note(plan.operation_ids)),
        _ => None,
    });
    let provided = is_wal_provided(plan).then(|| {
        "before the first turn the WAL got segments for one turn, at most min_wal_size, as after some time in use"
            .to_owned()
    });
    let locks = plan
        .scenarios
        .iter()
        .any(|scenario| matches!(scenario, Scenario::LockedPayers(_)));
    let locked = locks.then(|| {
        "locked payers: another session holds their rows, warm-up included; each has one unary call in flight that does not \
         count; all figures but those of the parts are of the others"
            .to_owned()
    });
    widened
        .chain(locked)
        .chain(compared.flatten())
        .chain(provided)
        .chain(skipped)
        .collect()
}

/// What the other builds say about themselves.
async fn versions(plan: &Plan) -> Result<Vec<String>, BenchError> {
    let mut versions = Vec::new();
    for variant in &plan.variants {
        if let Variant::Build(build) = variant {
            versions.push(format!("{}: {}", build.name(), build.version().await?));
        }
    }
    Ok(versions)
}

/// About how long the turns take.
fn seconds(plan: &Plan, cells: &[Cell]) -> u64 {
    let pairs = cells
        .iter()
        .flat_map(|cell| plan.variants.iter().map(move |variant| (cell, variant)));
    let turns = pairs
        .filter(|(cell, variant)| cell.skips(plan, variant).is_none())
        .count();
    let turn = (plan.warmup + plan.duration).as_secs().max(1);
    (turns * plan.tables.len()) as u64 * u64::from(plan.rounds) * turn
}

fn progress_bar(seconds: u64) -> ProgressBar {
    bar(seconds, "{bar:30} {elapsed} of about {duration}  {msg}")
}

/// A bar on stderr; none if that is no terminal.
fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
