//! The report: figures per turn, and what they say side by side. As a table for people, as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use serde::Serialize;

use super::ledger::Size;
use super::load::{Measured, Pace};
use super::process::Usage;
use super::{Plan, Scenario};

/// What one turn of one variant showed.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Answers with OK per second.
    pub ok_per_second: f64,
    /// Latencies by name, in microseconds.
    pub latency_us: BTreeMap<&'static str, u64>,
    /// Refusals by reason.
    pub refusals: BTreeMap<String, u64>,
    /// Errors by code and reason.
    pub errors: BTreeMap<String, u64>,
    /// CPU seconds of the server per thousand answers.
    pub server_cpu_seconds_per_thousand: f64,
    /// CPU seconds of PostgreSQL per thousand answers; 0 if it is not ours.
    pub database_cpu_seconds_per_thousand: f64,
    /// Resident memory of the server at the end, in bytes.
    pub server_rss_bytes: u64,
    /// WAL per answer, in bytes.
    pub wal_bytes_per_answer: f64,
    /// Growth of the database per answer, in bytes.
    pub disk_bytes_per_answer: f64,
    /// Answers with OK in each second.
    pub per_second: Vec<u64>,
}

const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

impl Figures {
    pub(super) fn new(measured: &Measured, usage: Usage, size: Size) -> Self {
        let count = measured.ok_count.max(1) as f64;
        let mut latency_us: BTreeMap<_, _> = QUANTILES
            .map(|(name, quantile)| (name, measured.latency.value_at_quantile(quantile)))
            .into();
        latency_us.insert("max", measured.latency.max());
        Self {
            ok_per_second: measured.ok_count as f64 / measured.elapsed.as_secs_f64(),
            latency_us,
            refusals: measured.refusals.clone(),
            errors: measured.errors.clone(),
            server_cpu_seconds_per_thousand: usage.server_cpu_seconds / count * 1000.0,
            database_cpu_seconds_per_thousand: usage.database_cpu_seconds / count * 1000.0,
            server_rss_bytes: usage.server_rss_bytes,
            wal_bytes_per_answer: size.wal_bytes as f64 / count,
            disk_bytes_per_answer: size.disk_bytes as f64 / count,
            per_second: measured.per_second.clone(),
        }
    }

    fn latency(&self, name: &str) -> f64 {
        self.latency_us.get(name).map_or(0.0, |us| *us as f64)
    }
}

/// All turns of one variant under one load.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The scenario.
    pub scenario: String,
    /// The pace.
    pub pace: String,
    /// The variant.
    pub variant: String,
    /// One per round.
    pub rounds: Vec<Figures>,
}

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version of this ballast.
    pub version: &'static str,
    /// Processors of this machine.
    pub cpu_count: usize,
    /// Accounts in each ledger.
    pub account_count: u64,
    /// TCP connections of the client.
    pub connection_count: usize,
    /// Seconds of each turn.
    pub duration_seconds: f64,
    /// What was measured, in order.
    pub rows: Vec<Row>,
    #[serde(skip)]
    variants: Vec<String>,
}

impl Report {
    pub(super) fn new(plan: &Plan, variants: Vec<String>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            cpu_count: std::thread::available_parallelism().map_or(0, usize::from),
            account_count: plan.account_count,
            connection_count: plan.connection_count,
            duration_seconds: plan.duration.as_secs_f64(),
            rows: Vec::new(),
            variants,
        }
    }

    pub(super) fn add(&mut self, scenario: &Scenario, pace: Pace, variant: &str, figures: Figures) {
        let (scenario, pace) = (scenario.to_string(), pace.to_string());
        let same =
            |row: &&mut Row| row.scenario == scenario && row.pace == pace && row.variant == variant;
        match self.rows.iter_mut().find(same) {
            Some(row) => row.rounds.push(figures),
            None => self.rows.push(Row {
                scenario,
                pace,
                variant: variant.to_owned(),
                rounds: vec![figures],
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

    fn first_of(&self, row: &Row) -> Option<&Row> {
        let first = self.variants.first()?;
        self.rows.iter().find(|other| {
            other.scenario == row.scenario && other.pace == row.pace && other.variant == *first
        })
    }
}

/// The middle one of some values; the lower of two in the middle.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values
        .get(values.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(0.0)
}

impl Row {
    fn median(&self, figure: impl Fn(&Figures) -> f64) -> f64 {
        median(self.rounds.iter().map(figure))
    }
}

/// Milliseconds with as many digits as say something.
fn millis(micros: f64) -> String {
    let millis = micros / 1000.0;
    match millis {
        ..10.0 => format!("{millis:.2}"),
        ..100.0 => format!("{millis:.1}"),
        _ => format!("{millis:.0}"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpu_count,
            account_count,
            connection_count,
            duration_seconds,
            ..
        } = self;
        let round_count = self
            .rows
            .iter()
            .map(|row| row.rounds.len())
            .max()
            .unwrap_or(0);
        writeln!(
            f,
            "{cpu_count} CPUs for client, server and PostgreSQL; {account_count} accounts; {connection_count} \
             connections; {round_count} rounds of {duration_seconds} s each, medians; latencies in ms\n"
        )?;
        let head = [
            "scenario", "load", "variant", "ok/s", "p50", "p90", "p99", "p99.9", "max",
        ];
        let costs = [
            "server ms",
            "database ms",
            "WAL B",
            "disk B",
            "RSS MB",
            "first/this",
        ];
        let mut table = vec![
            head.iter()
                .chain(&costs)
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>(),
        ];
        for row in &self.rows {
            let mut cells = vec![row.scenario.clone(), row.pace.clone(), row.variant.clone()];
            cells.push(format!(
                "{:.0}",
                row.median(|figures| figures.ok_per_second)
            ));
            let latencies = ["p50", "p90", "p99", "p99.9", "max"];
            cells.extend(latencies.map(|name| millis(row.median(|figures| figures.latency(name)))));
            // CPU seconds per thousand are CPU milliseconds for each.
            cells.push(format!(
                "{:.3}",
                row.median(|figures| figures.server_cpu_seconds_per_thousand)
            ));
            cells.push(format!(
                "{:.3}",
                row.median(|figures| figures.database_cpu_seconds_per_thousand)
            ));
            cells.push(format!(
                "{:.0}",
                row.median(|figures| figures.wal_bytes_per_answer)
            ));
            cells.push(format!(
                "{:.0}",
                row.median(|figures| figures.disk_bytes_per_answer)
            ));
            cells.push(format!(
                "{:.0}",
                row.median(|figures| figures.server_rss_bytes as f64 / 1e6)
            ));
            cells.push(self.ratio(row));
            table.push(cells);
        }
        write_table(f, &table)?;
        for row in &self.rows {
            for (round, figures) in (1..).zip(&row.rounds) {
                for (what, counts) in [("refused", &figures.refusals), ("failed", &figures.errors)]
                {
                    for (reason, count) in counts {
                        let Row {
                            scenario,
                            pace,
                            variant,
                            ..
                        } = row;
                        writeln!(
                            f,
                            "{what}: {scenario}, {pace}, {variant}, round {round}: {count} {reason}"
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Report {
    /// The throughput of the first variant divided by this one's: the median of the rounds' ratios, and their range.
    fn ratio(&self, row: &Row) -> String {
        let Some(first) = self
            .first_of(row)
            .filter(|first| first.variant != row.variant)
        else {
            return String::new();
        };
        let pairs = first.rounds.iter().zip(&row.rounds);
        let ratios: Vec<f64> = pairs
            .map(|(first, this)| first.ok_per_second / this.ok_per_second)
            .collect();
        let low = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let high = ratios.iter().copied().fold(0.0, f64::max);
        format!("{:.2} ({low:.2}-{high:.2})", median(ratios.iter().copied()))
    }
}

/// Columns as wide as their widest cell; text to the left, numbers to the right.
fn write_table(f: &mut fmt::Formatter<'_>, table: &[Vec<String>]) -> fmt::Result {
    let column_count = table.first().map_or(0, Vec::len);
    let width = |column: usize| {
        table
            .iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..column_count).map(width).collect();
    for row in table {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            match column {
                0..3 => write!(line, "{cell:<width$}  ")?,
                _ => write!(line, "{cell:>width$}  ")?,
            }
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}
