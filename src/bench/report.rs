//! The report: figures per turn, as JSON for programs. As tables for people, see [`super::tables`].

use std::collections::BTreeMap;

use serde::Serialize;

use super::environment::Environment;
use super::history;
use super::ledger::Size;
use super::load::{LOCKED_PARTS, PAYER_PARTS, Pace};
use super::measured::{Measured, Tally};
use super::process::{MachineTime, Usage};
use super::ratios::{Ratio, Spread};
use super::scenario::{LockedPayers, Scenario};
use super::turn::{Cell, Running};
use super::{Plan, TableSize};

/// What one turn of one variant showed. What a variant does not show is absent.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Answers with OK per second.
    pub ok_per_second: f64,
    /// Latencies by name, in microseconds.
    pub latency_us: BTreeMap<&'static str, u64>,
    /// Latencies by quantile, in microseconds.
    pub latency_curve_us: Vec<(f64, u64)>,
    /// Refusals by reason.
    pub refusals: BTreeMap<String, u64>,
    /// Errors by code and reason.
    pub errors: BTreeMap<String, u64>,
    /// CPU seconds of the client per thousand answers.
    pub client_cpu_seconds_per_thousand: Option<f64>,
    /// CPU seconds of the server per thousand answers.
    pub server_cpu_seconds_per_thousand: Option<f64>,
    /// CPU seconds of PostgreSQL per thousand answers.
    pub database_cpu_seconds_per_thousand: Option<f64>,
    /// The part of this machine's processors that nobody used.
    pub idle_fraction: Option<f64>,
    /// The part that the host gave to other machines, as far as it says so.
    pub stolen_fraction: Option<f64>,
    /// Resident memory of the server in bytes: at the start, then after each second.
    pub server_rss_bytes: Vec<u64>,
    /// WAL per answer, in bytes.
    pub wal_bytes_per_answer: Option<f64>,
    /// Growth of the database per answer, in bytes.
    pub disk_bytes_per_answer: Option<f64>,
    /// Answers with OK in each second.
    pub per_second: Vec<u64>,
    /// Some of the requests on their own, in the order in which they are compared with the first.
    pub parts: Vec<Part>,
}

/// Some of the requests of a turn.
#[derive(Debug, Clone, Serialize)]
pub struct Part {
    /// Which ones.
    pub name: &'static str,
    /// How many were answered with OK.
    pub ok_count: u64,
    /// Latencies by name, in microseconds.
    pub latency_us: BTreeMap<&'static str, u64>,
    /// Refusals and errors by reason.
    pub not_ok: BTreeMap<String, u64>,
}

/// What a turn used.
pub(super) struct Costs {
    pub(super) usage: Usage,
    pub(super) size: Option<Size>,
    pub(super) rss_bytes: Vec<u64>,
}

const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
/// The latencies by name, in the order in which they are shown.
pub(super) const LATENCIES: [&str; 5] = ["p50", "p90", "p99", "p99.9", "max"];
/// The points of the latency curve: many where it bends.
const CURVE: [f64; 18] = [
    0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995,
    0.9999, 0.99999,
];

/// By the names in [`LATENCIES`].
fn latencies(tally: &Tally) -> BTreeMap<&'static str, u64> {
    let histogram = &tally.latency;
    let named = QUANTILES.map(|(name, quantile)| (name, histogram.value_at_quantile(quantile)));
    let mut named = BTreeMap::from(named);
    named.insert("max", histogram.max());
    named
}

impl Figures {
    pub(super) fn new(mut measured: Measured, costs: Costs) -> Self {
        let all = &measured.all;
        let count = all.ok_count.max(1) as f64;
        // Beyond that, a quantile is just the maximum again.
        let quantile_max = 1.0 - 1.0 / all.latency.len().max(1) as f64;
        let curve = CURVE
            .into_iter()
            .filter(|quantile| *quantile <= quantile_max)
            .map(|quantile| (quantile, all.latency.value_at_quantile(quantile)));
        let Costs {
            usage,
            size,
            rss_bytes,
        } = costs;
        let per_thousand = |cpu: Option<f64>| cpu.map(|cpu| cpu / count * 1e3);
        let of_all = |part: fn(MachineTime) -> f64| {
            let machine = usage.machine?;
            Some(part(machine) / machine.all_seconds.max(f64::EPSILON))
        };
        let names = LOCKED_PARTS
            .into_iter()
            .chain(PAYER_PARTS)
            .chain(history::PARTS);
        let parts = names.filter_map(|name| Some((name, measured.parts.remove(name)?)));
        Self {
            parts: parts.map(|(name, tally)| Part::new(name, &tally)).collect(),
            ok_per_second: all.ok_count as f64 / measured.elapsed.as_secs_f64(),
            latency_us: latencies(all),
            latency_curve_us: curve.collect(),
            refusals: all.refusals.clone(),
            errors: all.errors.clone(),
            client_cpu_seconds_per_thousand: per_thousand(usage.client_cpu_seconds),
            server_cpu_seconds_per_thousand: per_thousand(usage.server_cpu_seconds),
            database_cpu_seconds_per_thousand: per_thousand(usage.database_cpu_seconds),
            idle_fraction: of_all(|machine| machine.idle_seconds),
            stolen_fraction: of_all(|machine| machine.stolen_seconds),
            server_rss_bytes: rss_bytes,
            wal_bytes_per_answer: size.map(|size| size.wal_bytes as f64 / count),
            disk_bytes_per_answer: size.map(|size| size.disk_bytes as f64 / count),
            per_second: measured.per_second,
        }
    }

    pub(super) fn latency(&self, name: &str) -> f64 {
        self.latency_us.get(name).map_or(0.0, |us| *us as f64)
    }
}

impl Part {
    fn new(name: &'static str, tally: &Tally) -> Self {
        let mut not_ok = tally.refusals.clone();
        not_ok.extend(tally.errors.clone());
        Self {
            name,
            ok_count: tally.ok_count,
            latency_us: latencies(tally),
            not_ok,
        }
    }
}

/// All turns of one variant under one load on one size of ledger.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The scenario.
    pub scenario: String,
    /// The way in.
    pub way: String,
    /// The pace.
    pub pace: String,
    /// What the ledger held before.
    pub table: String,
    /// The variant.
    pub variant: String,
    /// Whose rows another session holds, in the scenario that is about that.
    pub locked_payers: Option<LockedPayers>,
    /// One per round.
    pub rounds: Vec<Figures>,
    /// How many are in flight, in a closed loop.
    pub concurrency: Option<usize>,
    /// Whether the operations come at a rate.
    #[serde(skip)]
    pub is_open: bool,
    /// Whether there is one request in flight, always.
    #[serde(skip)]
    pub is_alone: bool,
    /// Rows of the ledger before.
    #[serde(skip)]
    pub size: TableSize,
}

impl Row {
    pub(super) fn spread(&self, figure: impl Fn(&Figures) -> f64) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(figure))
    }

    pub(super) fn median(&self, figure: impl Fn(&Figures) -> f64) -> f64 {
        self.spread(figure).map_or(0.0, |spread| spread.median)
    }

    /// A cell of the table; empty if the variant does not show it.
    pub(super) fn shown(&self, digits: usize, figure: impl Fn(&Figures) -> Option<f64>) -> String {
        let spread = self.spread(|figures| figure(figures).unwrap_or(f64::NAN));
        spread.map_or_else(String::new, |spread| format!("{:.digits$}", spread.median))
    }
}

/// What a ledger held before the load came.
#[derive(Debug, Clone, Serialize)]
pub struct LedgerSize {
    /// As the rows call it.
    pub name: String,
    /// Accounts.
    pub account_count: u64,
    /// Operations, those that opened the accounts included.
    pub operation_count: u64,
    /// Entries.
    pub entry_count: u64,
}

impl LedgerSize {
    fn of(table: TableSize) -> Self {
        Self {
            name: table.to_string(),
            account_count: table.account_count,
            operation_count: table.account_count + table.operation_count,
            entry_count: table.entry_count(),
        }
    }
}

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where and how.
    pub environment: Environment,
    /// What the ledgers held before.
    pub ledgers: Vec<LedgerSize>,
    /// What the operation ids look like.
    pub operation_ids: &'static str,
    /// TCP connections of the client.
    pub connection_count: usize,
    /// Server processes of each ballast that is measured.
    pub instance_count: usize,
    /// Seconds of each turn.
    pub duration_seconds: f64,
    /// How often each had its turn.
    pub round_count: u32,
    /// Whether every ledger was verified, and is in order.
    pub verified: bool,
    /// What was measured, in order.
    pub rows: Vec<Row>,
    /// Some of it divided by other, round by round.
    pub ratios: Vec<Ratio>,
    /// What has to be known to read it: what was asked for and not measured, for instance.
    pub notes: Vec<String>,
}

impl Report {
    pub(super) fn new(plan: &Plan, environment: Environment, notes: Vec<String>) -> Self {
        Self {
            environment,
            ledgers: plan.tables.iter().copied().map(LedgerSize::of).collect(),
            operation_ids: plan.operation_ids.name(),
            connection_count: plan.connection_count,
            instance_count: plan.instance_count,
            duration_seconds: plan.duration.as_secs_f64(),
            round_count: plan.rounds,
            verified: plan.verify,
            rows: Vec::new(),
            ratios: Vec::new(),
            notes,
        }
    }

    /// All turns are in it: divides them.
    pub(super) fn compare(&mut self) {
        self.ratios = Ratio::all(&self.rows);
    }

    pub(super) fn add(&mut self, cell: &Cell, running: &Running, figures: Figures) {
        let (scenario, way, pace) = (
            cell.scenario.to_string(),
            cell.way.to_string(),
            cell.pace.to_string(),
        );
        let (table, variant) = (running.table().to_string(), running.name());
        let same = |row: &&mut Row| {
            (&row.scenario, &row.way, &row.pace) == (&scenario, &way, &pace)
                && (&row.table, &row.variant) == (&table, &variant)
        };
        match self.rows.iter_mut().find(same) {
            Some(row) => row.rounds.push(figures),
            None => self.rows.push(Row {
                scenario,
                way,
                pace,
                table,
                variant,
                locked_payers: match cell.scenario {
                    Scenario::LockedPayers(locked) => Some(locked),
                    _ => None,
                },
                rounds: vec![figures],
                concurrency: match cell.pace {
                    Pace::Closed(count) => Some(count),
                    Pace::Open(_) => None,
                },
                is_open: matches!(cell.pace, Pace::Open(_)),
                is_alone: cell.pace == Pace::Closed(1),
                size: running.table(),
            }),
        }
    }

    /// Whether anything but business answers went wrong.
    pub fn has_errors(&self) -> bool {
        self.rows
            .iter()
            .flat_map(|row| &row.rounds)
            .any(|figures| !figures.errors.is_empty())
    }

    /// One line about how it was measured.
    pub(super) fn method(&self) -> String {
        let Self {
            operation_ids,
            connection_count,
            duration_seconds,
            round_count,
            ..
        } = self;
        let instances = match self.instance_count {
            1 => String::new(),
            count => format!(" to {count} instances of each ballast"),
        };
        let ledgers: Vec<String> = self
            .ledgers
            .iter()
            .map(|ledger| {
                let LedgerSize {
                    name,
                    account_count,
                    entry_count,
                    ..
                } = ledger;
                format!("ledger {name}: {account_count} accounts, {entry_count} entries")
            })
            .collect();
        format!(
            "{}; {operation_ids} operation ids; {connection_count} connections{instances}; {round_count} x {duration_seconds} s, in alternation; \
             medians of the rounds",
            ledgers.join("; ")
        )
    }

    /// One line about the money.
    pub(super) fn verdict(&self) -> &'static str {
        match self.verified {
            true => "every ledger was verified and is in order",
            false => "the ledgers were not verified (--no-verify)",
        }
    }
}
