//! Turns: one variant under one load, for a while.

use std::fmt;
use std::sync::Arc;

use indicatif::ProgressBar;
use tonic::transport::Endpoint;

use super::baseline::{Baseline, BaselineConfig};
use super::history::LongAccount;
use super::ledger::{HeldLocks, Ledger, Size, Tables};
use super::load::{Load, Pace, Watch};
use super::measured::Measured;
use super::pgbench::{self, Pgbench};
use super::preload::Preload;
use super::process::{Served, Usage, rss_bytes};
use super::report::Costs;
use super::scenario::{Accounts, LOCKED_ACCOUNT};
use super::target::Target;
use super::way::AskedWay;
use super::{BenchError, Database, Figures, Plan, Scenario, TableSize, Variant, Way};
use crate::embedded::Embedded;
use crate::rpc::proto::balance_service_client::BalanceServiceClient;

/// One load that is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cell {
    pub(super) scenario: Scenario,
    pub(super) pace: Pace,
    pub(super) way: Way,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.scenario, self.way, self.pace)
    }
}

impl Cell {
    /// All that the plan asks for, in order.
    pub(super) fn all(plan: &Plan) -> Vec<Self> {
        let mut cells = Vec::new();
        for &scenario in &plan.scenarios {
            if scenario == Scenario::History {
                // One in flight by its nature.
                let (pace, way) = (Pace::Closed(1), Way::Unary);
                cells.push(Self {
                    scenario,
                    pace,
                    way,
                });
                continue;
            }
            let loads = plan.ways.iter().flat_map(|asked| {
                let paces = Self::paces(plan, scenario, *asked);
                paces.map(|(order, pace)| (order, asked.way, pace))
            });
            let mut loads: Vec<(usize, Way, Pace)> = loads.collect();
            // All ways at one pace follow each other.
            loads.sort_by_key(|(order, ..)| *order);
            cells.extend(loads.into_iter().map(|(_, way, pace)| Self {
                scenario,
                pace,
                way,
            }));
        }
        cells
    }

    /// The paces of a way, numbered in the order in which they are measured. One with a concurrency of its own has one
    /// closed loop.
    fn paces(
        plan: &Plan,
        scenario: Scenario,
        asked: AskedWay,
    ) -> impl Iterator<Item = (usize, Pace)> {
        let own = asked.concurrency.map(Pace::Closed);
        let usual = Pace::Closed(scenario.concurrency_default());
        let usual = plan.paces.is_empty().then_some(usual);
        let planned = plan.paces.iter().enumerate();
        let planned = planned.filter(move |(_, pace)| own.is_none() || !pace.is_closed());
        let first = own.or(usual).map(|pace| (0, pace));
        first
            .into_iter()
            .chain(planned.map(|(order, pace)| (order, *pace)))
    }

    /// Why a variant is not measured under this load.
    pub(super) fn skips(&self, plan: &Plan, variant: &Variant) -> Option<&'static str> {
        let Self {
            scenario,
            pace,
            way,
        } = *self;
        let is_open = !pace.is_closed();
        if way != Way::Unary && scenario.reads() {
            return Some("batches and streams carry operations, and this reads");
        }
        match variant {
            Variant::Ballast(_) | Variant::Build(_) => None,
            Variant::Target => (scenario.locks() || scenario == Scenario::History)
                .then_some("it needs the database, which --target does not show"),
            Variant::Baseline(config) => {
                let has_closed = plan.paces.iter().any(Pace::is_closed)
                    || plan.ways.iter().any(|asked| asked.concurrency.is_some());
                if way != Way::Unary {
                    return Some("a baseline knows no batches and no streams");
                }
                if !scenario.only_transfers() {
                    return Some("a baseline only transfers");
                }
                if is_open && has_closed {
                    return Some(
                        "with --concurrency too, a baseline is measured in its closed loop",
                    );
                }
                match config.baseline {
                    Baseline::Transaction => None,
                    Baseline::Echo => scenario.locks().then_some("it has no balance to lock"),
                    Baseline::Pgbench => Pgbench::skips(scenario),
                }
            }
        }
    }
}

/// A variant that runs on a ledger of its own.
pub(super) struct Running {
    variant: Variant,
    table: TableSize,
    kind: Kind,
    long_account: Option<Arc<LongAccount>>,
}

enum Kind {
    /// One process, or several on one database.
    Server {
        ledger: Ledger,
        served: Vec<Served>,
    },
    Pgbench {
        ledger: Ledger,
        pgbench: Pgbench,
    },
    Target(Box<Target>),
}

impl Running {
    /// Makes the ledger and starts the server.
    pub(super) async fn start(
        plan: &Plan,
        variant: &Variant,
        table: TableSize,
        database: &str,
        embedded: Option<&Embedded>,
    ) -> Result<Self, BenchError> {
        let build = match variant {
            Variant::Build(build) => Some(build),
            _ => None,
        };
        let is_ballast = build.is_some() || matches!(variant, Variant::Ballast(_));
        let has_history = plan.scenarios.contains(&Scenario::History) && is_ballast;
        let preload = Preload {
            table,
            history_entry_count: if has_history {
                plan.history_entry_count
            } else {
                0
            },
        };
        let template = "{bar:30} {elapsed} {human_pos} of {human_len}  {msg}";
        let bar = super::bar(preload.step_count(), template);
        bar.set_message(format!("loading the ledger of {}, {table}", variant.name()));
        let admin_url = match (&plan.database, embedded) {
            (Database::Elsewhere(address), _) => {
                bar.set_length(table.account_count);
                let target = Target::prepare(address, table.account_count, &bar).await?;
                bar.finish_and_clear();
                return Ok(Self {
                    variant: variant.clone(),
                    table,
                    kind: Kind::Target(Box::new(target)),
                    long_account: None,
                });
            }
            (Database::Named(url), _) => url.clone(),
            (Database::Embedded(_), Some(embedded)) => embedded.database_url(),
            (Database::Embedded(_), None) => {
                return Err(BenchError::Database("it was not started".to_owned()));
            }
        };
        let tables = match variant {
            Variant::Baseline(_) => Tables::Usual,
            Variant::Ballast(_) | Variant::Build(_) | Variant::Target => Tables::Ballast,
        };
        let schema = (tables, build);
        let ledger = Ledger::create(&admin_url, database, schema, &preload, &bar).await?;
        bar.finish_and_clear();
        let kind = match variant {
            Variant::Baseline(BaselineConfig {
                baseline: Baseline::Pgbench,
                connection_count,
            }) => {
                let program = embedded.map(|embedded| embedded.program("pgbench"));
                let pgbench = Pgbench::install(program, *connection_count, &ledger).await?;
                Kind::Pgbench { ledger, pgbench }
            }
            _ => {
                let count = if is_ballast { plan.instance_count } else { 1 };
                let mut served = Vec::new();
                for _ in 0..count {
                    served.push(Served::start(variant, ledger.url()).await?);
                }
                Kind::Server { ledger, served }
            }
        };
        Ok(Self {
            variant: variant.clone(),
            table,
            kind,
            long_account: None,
        })
    }

    pub(super) fn variant(&self) -> &Variant {
        &self.variant
    }

    pub(super) fn name(&self) -> String {
        self.variant.name()
    }

    pub(super) fn table(&self) -> TableSize {
        self.table
    }

    pub(super) fn database_url(&self) -> Option<&str> {
        self.ledger().map(Ledger::url)
    }

    fn ledger(&self) -> Option<&Ledger> {
        match &self.kind {
            Kind::Server { ledger, .. } | Kind::Pgbench { ledger, .. } => Some(ledger),
            Kind::Target(_) => None,
        }
    }

    fn server_pids(&self) -> Vec<i32> {
        match &self.kind {
            Kind::Server { served, .. } => served.iter().filter_map(Served::pid).collect(),
            Kind::Pgbench { .. } | Kind::Target(_) => Vec::new(),
        }
    }

    /// Of each of its processes that serve.
    fn endpoints(&self) -> Result<Vec<Endpoint>, BenchError> {
        let endpoint = |served: &Served| {
            let uri = format!("http://{}", served.address());
            Endpoint::from_shared(uri).map_err(|error| BenchError::Database(error.to_string()))
        };
        match &self.kind {
            Kind::Server { served, .. } => served.iter().map(endpoint).collect(),
            Kind::Target(target) => Ok(vec![target.endpoint().clone()]),
            Kind::Pgbench { .. } => Ok(Vec::new()),
        }
    }

    /// Locks these balances, if it has a ledger.
    async fn lock_balances(&self, ids: &[String]) -> Result<Option<HeldLocks>, BenchError> {
        match self.ledger() {
            Some(ledger) => Ok(Some(ledger.lock_balances(ids).await?)),
            None => Ok(None),
        }
    }

    fn accounts(&self) -> &Accounts {
        match &self.kind {
            Kind::Target(target) => target.accounts(),
            Kind::Server { ledger, .. } | Kind::Pgbench { ledger, .. } => ledger.accounts(),
        }
    }

    /// Stops the server, verifies the ledger if asked to, and drops it.
    pub(super) async fn finish(self, verify: bool) -> Result<(), BenchError> {
        let name = self.name();
        let ledger = match self.kind {
            Kind::Server { ledger, served } => {
                for served in served {
                    served.stop().await;
                }
                ledger
            }
            Kind::Pgbench { ledger, .. } => ledger,
            Kind::Target(target) => {
                return match verify {
                    true => target.verify(&name).await,
                    false => Ok(()),
                };
            }
        };
        if verify {
            let bar = super::bar(1, "{spinner} {elapsed}  {msg}");
            bar.enable_steady_tick(std::time::Duration::from_millis(200));
            bar.set_message(format!("verifying the ledger of {name}, {}", self.table));
            let verified = match &self.variant {
                Variant::Build(build) => build.verify(ledger.url()).await,
                _ => ledger.verify(&name).await,
            };
            bar.finish_and_clear();
            verified?;
        }
        ledger.drop().await
    }

    /// The tokens of the long account's last pages, which stay the same: nothing is added to it.
    async fn long_account(&mut self, entry_count: u64) -> Result<Arc<LongAccount>, BenchError> {
        if let Some(known) = &self.long_account {
            return Ok(known.clone());
        }
        let failed = |why: &str| BenchError::Server {
            name: self.name(),
            cause: format!("its history cannot be read: {why}"),
        };
        let endpoint = self.endpoints()?.into_iter().next();
        let channel = endpoint
            .ok_or_else(|| failed("it serves nothing"))?
            .connect_lazy();
        let walked = LongAccount::walk(BalanceServiceClient::new(channel), entry_count).await;
        let walked = walked.map_err(|status| failed(status.message()))?;
        Ok(self.long_account.insert(Arc::new(walked)).clone())
    }
}

/// Takes one turn.
pub(super) async fn take(
    plan: &Plan,
    cell: &Cell,
    running: &mut Running,
    embedded: Option<&Embedded>,
    bar: &ProgressBar,
) -> Result<Figures, BenchError> {
    if let Some(ledger) = running.ledger().filter(|_| plan.checkpoint) {
        // What the turn before left behind, a checkpoint or dirty pages, is not this turn's.
        ledger.settle().await?;
    }
    let long_account = match cell.scenario {
        Scenario::History => Some(running.long_account(plan.history_entry_count).await?),
        _ => None,
    };
    let mut watcher = Watcher {
        running,
        postmaster: embedded.and_then(Embedded::pid),
        locks_in_half: cell.scenario == Scenario::Locked,
        bar,
        before: None,
        after: None,
        rss_bytes: Vec::new(),
        held: match cell.scenario {
            // From the first call on, warm-up included.
            Scenario::LockedPayers(locked) => {
                let ids = locked.locked_ids(running.accounts());
                running.lock_balances(&ids).await?
            }
            _ => None,
        },
    };
    let measured = match &running.kind {
        Kind::Pgbench { ledger, pgbench } => {
            pgbench_turn(plan, cell, (ledger, pgbench), &mut watcher).await?
        }
        Kind::Server { .. } | Kind::Target(_) => {
            let load = Load {
                endpoints: running.endpoints()?,
                connection_count: plan.connection_count,
                scenario: cell.scenario,
                way: cell.way,
                accounts: running.accounts().clone(),
                operation_ids: plan.operation_ids,
                long_account,
                pace: cell.pace,
                warmup: plan.warmup,
                duration: plan.duration,
            };
            load.run(&mut watcher).await?
        }
    };
    let costs = watcher.costs();
    if let Kind::Target(target) = &mut running.kind {
        target.book(&measured);
    }
    Ok(Figures::new(measured, costs))
}

async fn pgbench_turn(
    plan: &Plan,
    cell: &Cell,
    (ledger, pgbench): (&Ledger, &Pgbench),
    watcher: &mut Watcher<'_>,
) -> Result<Measured, BenchError> {
    let turn = |duration| pgbench::Turn {
        scenario: cell.scenario,
        pace: cell.pace,
        duration,
    };
    if !plan.warmup.is_zero() {
        pgbench.run(ledger, turn(plan.warmup), watcher.bar).await?;
    }
    watcher.start().await?;
    let measured = pgbench
        .run(ledger, turn(plan.duration), watcher.bar)
        .await?;
    watcher.end().await?;
    Ok(measured)
}

/// Takes down what a turn costs.
struct Watcher<'a> {
    running: &'a Running,
    postmaster: Option<i32>,
    /// A balance is to be locked in the second half.
    locks_in_half: bool,
    bar: &'a ProgressBar,
    before: Option<(Usage, Option<Size>)>,
    after: Option<(Usage, Option<Size>)>,
    /// Of the server, at the start and after each second of the measured time.
    rss_bytes: Vec<u64>,
    held: Option<HeldLocks>,
}

impl Watcher<'_> {
    async fn used(&self) -> Result<(Usage, Option<Size>), BenchError> {
        let mut usage = Usage::of(&self.running.server_pids(), self.postmaster);
        if matches!(self.running.kind, Kind::Pgbench { .. }) {
            // It is a client of its own.
            usage.client_cpu_seconds = None;
        }
        let size = match self.running.ledger() {
            Some(ledger) => Some(ledger.size().await?),
            None => None,
        };
        Ok((usage, size))
    }

    fn sample(&mut self) {
        let pids = self.running.server_pids();
        if !pids.is_empty() {
            self.rss_bytes.push(pids.into_iter().map(rss_bytes).sum());
        }
    }

    fn costs(self) -> Costs {
        let (before, after) = (
            self.before.unwrap_or_default(),
            self.after.unwrap_or_default(),
        );
        let written = |after: Size, before: Size| after.since(before);
        Costs {
            usage: after.0.since(before.0),
            size: after
                .1
                .zip(before.1)
                .map(|(after, before)| written(after, before)),
            rss_bytes: self.rss_bytes,
        }
    }
}

impl Watch for Watcher<'_> {
    async fn start(&mut self) -> Result<(), BenchError> {
        self.before = Some(self.used().await?);
        self.sample();
        Ok(())
    }

    fn second(&mut self) {
        self.bar.inc(1);
        if self.before.is_some() {
            self.sample();
        }
    }

    async fn half(&mut self) -> Result<bool, BenchError> {
        if self.locks_in_half {
            let id = self.running.accounts().id(LOCKED_ACCOUNT);
            self.held = self.running.lock_balances(&[id]).await?;
        }
        Ok(self.held.is_some())
    }

    async fn end(&mut self) -> Result<(), BenchError> {
        self.after = Some(self.used().await?);
        match self.held.take() {
            Some(held) => held.release().await,
            None => Ok(()),
        }
    }
}
