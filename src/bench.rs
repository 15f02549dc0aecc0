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
mod ledger;
mod load;
mod process;
mod report;
mod scenario;

pub use baseline::{Baseline, BaselineConfig, serve as serve_baseline};
pub use load::Pace;
pub(crate) use process::{Served, Usage};
pub use report::{Figures, Report};
pub use scenario::Scenario;

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::embedded::{Embedded, EmbeddedError};
use ledger::Ledger;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the requests are about; each is measured on its own.
    pub scenarios: Vec<Scenario>,
    /// How fast the requests come; each is measured on its own.
    pub paces: Vec<Pace>,
    /// How often each variant gets its turn.
    pub rounds: u32,
    /// How long a turn is, without its warm-up.
    pub duration: Duration,
    /// How long a turn runs before it is measured.
    pub warmup: Duration,
    /// How many accounts there are.
    pub account_count: u64,
    /// How many TCP connections the client opens.
    pub connection_count: usize,
    /// What is compared.
    pub variants: Vec<Variant>,
    /// Where PostgreSQL is.
    pub database: Database,
}

/// One of the servers that are compared.
#[derive(Debug, Clone)]
pub enum Variant {
    /// This ballast, with these extra arguments of `ballast serve`.
    Ballast(Vec<String>),
    /// Something else behind the same gRPC method.
    Baseline(BaselineConfig),
}

/// The PostgreSQL of a benchmark.
#[derive(Debug, Clone)]
pub enum Database {
    /// A private one, in this folder; in a temporary one if `None`.
    Embedded(Option<PathBuf>),
    /// This server; its role may create databases.
    Named(String),
}

/// Why a benchmark has no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No PostgreSQL.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
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

impl Variant {
    /// How the report calls it.
    pub fn name(&self) -> String {
        match self {
            Self::Ballast(arguments) if arguments.is_empty() => "ballast".to_owned(),
            Self::Ballast(arguments) => format!("ballast {}", arguments.join(" ")),
            Self::Baseline(config) => config.baseline.name().to_owned(),
        }
    }
}

/// Runs the plan. Progress goes to stderr.
pub async fn run(plan: &Plan) -> Result<Report, BenchError> {
    match &plan.database {
        Database::Named(url) => run_on(plan, url, None).await,
        Database::Embedded(folder) => {
            with_embedded(folder.as_deref(), async |embedded| {
                run_on(plan, &embedded.database_url(), Some(embedded)).await
            })
            .await
        }
    }
}

/// Does `work` on a private PostgreSQL in this folder, or in a temporary one.
pub(crate) async fn with_embedded<T, E: From<BenchError>>(
    folder: Option<&Path>,
    work: impl AsyncFnOnce(&Embedded) -> Result<T, E>,
) -> Result<T, E> {
    let temporary = tempfile::Builder::new()
        .prefix("ballast-bench-")
        .tempdir()
        .map_err(BenchError::from)?;
    open_to_all(temporary.path()).map_err(BenchError::from)?;
    let folder = folder.unwrap_or(temporary.path());
    let embedded = Embedded::start(Some(folder), None)
        .await
        .map_err(BenchError::from)?;
    let worked = work(&embedded).await;
    embedded.stop().await;
    worked
}

/// PostgreSQL may run as another user, who has to pass through.
fn open_to_all(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
}

/// A variant that runs, and its ledger.
struct Running {
    name: String,
    ledger: Ledger,
    served: Served,
}

async fn run_on(
    plan: &Plan,
    admin_url: &str,
    embedded: Option<&Embedded>,
) -> Result<Report, BenchError> {
    let mut running = Vec::new();
    for (index, variant) in plan.variants.iter().enumerate() {
        let name = variant.name();
        let ledger = Ledger::create(
            admin_url,
            &format!("ballast_bench_{index}"),
            plan.account_count,
        )
        .await?;
        let served = Served::start(variant, ledger.url()).await?;
        running.push(Running {
            name,
            ledger,
            served,
        });
    }
    let turn_count = plan.scenarios.len() * plan.paces.len() * plan.rounds as usize * running.len();
    let turn = plan.warmup + plan.duration;
    let bar = progress_bar(turn_count as u64 * turn.as_secs().max(1));
    let mut report = Report::new(
        plan,
        running.iter().map(|variant| variant.name.clone()).collect(),
    );
    for scenario in &plan.scenarios {
        for pace in &plan.paces {
            for round in 1..=plan.rounds {
                for variant in &running {
                    let shown = format!("{} {scenario} {pace}, round {round}", variant.name);
                    bar.set_message(shown);
                    let figures = take_turn(plan, scenario, *pace, variant, embedded, &bar).await?;
                    report.add(scenario, *pace, &variant.name, figures);
                }
            }
        }
    }
    bar.finish_and_clear();
    for variant in running {
        variant.served.stop().await;
        variant.ledger.verify(&variant.name).await?;
        variant.ledger.drop().await?;
    }
    Ok(report)
}

async fn take_turn(
    plan: &Plan,
    scenario: &Scenario,
    pace: Pace,
    variant: &Running,
    embedded: Option<&Embedded>,
    bar: &ProgressBar,
) -> Result<Figures, BenchError> {
    // What the turn before left behind, a checkpoint or dirty pages, is not this turn's.
    variant.ledger.settle().await?;
    let load = load::Load {
        address: variant.served.address(),
        connection_count: plan.connection_count,
        scenario: *scenario,
        account_count: plan.account_count,
        pace,
        warmup: plan.warmup,
        duration: plan.duration,
    };
    let before = async || -> Result<_, BenchError> {
        let usage = Usage::of(variant.served.pid(), embedded.and_then(Embedded::pid));
        Ok((usage, variant.ledger.size().await?))
    };
    let mut start = None;
    let measured = load
        .run(
            async || {
                start = before().await.ok();
            },
            |seconds| bar.inc(seconds),
        )
        .await;
    let (usage_after, size_after) = before().await?;
    let (usage_before, size_before) = start.unwrap_or((usage_after, size_after));
    Ok(Figures::new(
        &measured?,
        usage_after.since(usage_before),
        size_after.since(size_before),
    ))
}

fn progress_bar(seconds: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {elapsed} of about {duration}  {msg}");
    let bar = ProgressBar::new(seconds);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
