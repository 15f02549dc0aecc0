//! Tables: the report as people read it, side by side.

use std::fmt::{self, Write};

use super::load::{LOCKED_PARTS, PAYER_PARTS};
use super::report::{Figures, LATENCIES, Part, Ratio, Report, Row};

impl Report {
    /// The table of all rows, head first.
    pub(super) fn table(&self) -> Vec<Vec<String>> {
        let head = [
            "scenario",
            "mode",
            "load",
            "ledger",
            "variant",
            "ok/s",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "max",
            "client ms",
            "server ms",
            "database ms",
            "idle %",
            "WAL B",
            "disk B",
            "RSS MB",
        ];
        let mut table = vec![head.map(str::to_owned).to_vec()];
        for row in &self.rows {
            let mut cells = vec![
                row.scenario.clone(),
                row.mode.clone(),
                row.pace.clone(),
                row.table.clone(),
                row.variant.clone(),
                row.shown(0, |figures| Some(figures.ok_per_second)),
            ];
            cells.extend(LATENCIES.map(|name| millis(row.median(|figures| figures.latency(name)))));
            cells.extend([
                // CPU seconds per thousand are CPU milliseconds for each.
                row.shown(3, |figures| figures.client_cpu_seconds_per_thousand),
                row.shown(3, |figures| figures.server_cpu_seconds_per_thousand),
                row.shown(3, |figures| figures.database_cpu_seconds_per_thousand),
                row.shown(0, |figures| Some(figures.idle_fraction? * 100.0)),
                row.shown(0, |figures| figures.wal_bytes_per_answer),
                row.shown(0, |figures| figures.disk_bytes_per_answer),
                row.shown(0, |figures| {
                    Some(*figures.server_rss_bytes.last()? as f64 / 1e6)
                }),
            ]);
            table.push(cells);
        }
        table
    }

    /// The table of all ratios, head first.
    pub(super) fn ratio_table(&self) -> Vec<Vec<String>> {
        let head = Ratio::HEAD.map(str::to_owned).to_vec();
        let ratios = self.ratios.iter().map(Ratio::cells);
        std::iter::once(head).chain(ratios).collect()
    }

    /// The table of parts, head first: of each its p50 and p99, and how they compare with the first part's.
    pub(super) fn part_table(&self) -> Vec<Vec<String>> {
        let head = [
            "scenario",
            "ledger",
            "variant",
            "requests",
            "ok",
            "p50",
            "p99",
            "p50 by first",
            "p99 by first",
        ];
        let mut table = vec![head.map(str::to_owned).to_vec()];
        for row in &self.rows {
            let Some(first) = row.rounds.first() else {
                continue;
            };
            for part in &first.parts {
                table.push(part_cells(row, part.name));
            }
        }
        table
    }

    /// What long rounds say about themselves: whether throughput and memory stay.
    pub(super) fn drifts(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for row in &self.rows {
            for (round, figures) in (1..).zip(&row.rounds) {
                let Some(drift) = drift(figures) else {
                    continue;
                };
                let Row {
                    scenario,
                    mode,
                    pace,
                    table,
                    variant,
                    ..
                } = row;
                lines.push(format!(
                    "{scenario}, {mode}, {pace}, {table}, {variant}, round {round}: {drift}"
                ));
            }
        }
        lines
    }

    /// Every refusal and error, counted.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for row in &self.rows {
            for (round, figures) in (1..).zip(&row.rounds) {
                let parts = figures.parts.iter().map(|part| (part.name, &part.not_ok));
                let apart =
                    parts.filter(|(name, _)| [LOCKED_PARTS[2], PAYER_PARTS[1]].contains(name));
                let all = [("refused", &figures.refusals), ("failed", &figures.errors)];
                for (what, counts) in all.into_iter().chain(apart) {
                    for (reason, count) in counts {
                        let Row {
                            scenario,
                            mode,
                            pace,
                            variant,
                            ..
                        } = row;
                        lines.push(format!(
                            "{what}: {scenario}, {mode}, {pace}, {variant}, round {round}: {count} {reason}"
                        ));
                    }
                }
            }
        }
        lines
    }
}

fn part_cells(row: &Row, name: &str) -> Vec<String> {
    let part = |figures: &Figures| figures.parts.iter().find(|part| part.name == name).cloned();
    let latency = |part: Option<&Part>, quantile: &str| {
        part.and_then(|part| part.latency_us.get(quantile))
            .map_or(f64::NAN, |us| *us as f64)
    };
    let own =
        |quantile: &'static str| row.median(|figures| latency(part(figures).as_ref(), quantile));
    let by_first = |quantile: &'static str| {
        let spread = row.spread(|figures| {
            latency(part(figures).as_ref(), quantile) / latency(figures.parts.first(), quantile)
        });
        spread.map_or_else(String::new, |spread| spread.to_string())
    };
    let ok_count = row.median(|figures| part(figures).map_or(0.0, |part| part.ok_count as f64));
    vec![
        row.scenario.clone(),
        row.table.clone(),
        row.variant.clone(),
        name.to_owned(),
        format!("{ok_count:.0}"),
        millis(own("p50")),
        millis(own("p99")),
        by_first("p50"),
        by_first("p99"),
    ]
}

/// Rounds that are shorter show no drift.
const DRIFT_SECONDS_MIN: usize = 20;
/// From here on, minutes are compared; below it, tenths.
const DRIFT_MINUTES_SECONDS_MIN: usize = 180;

fn drift(figures: &Figures) -> Option<String> {
    let seconds = figures.per_second.len();
    if seconds < DRIFT_SECONDS_MIN {
        return None;
    }
    let (window, name) = match seconds {
        DRIFT_MINUTES_SECONDS_MIN.. => (60, "minute"),
        _ => (seconds / 10, "tenth"),
    };
    let mean = |counts: &[u64]| counts.iter().sum::<u64>() as f64 / counts.len().max(1) as f64;
    let first = mean(&figures.per_second[..window]);
    let last = mean(&figures.per_second[seconds - window..]);
    let mut text = format!(
        "first {name} {first:.0}/s, last {name} {last:.0}/s, ratio {:.2}",
        last / first
    );
    let rss = &figures.server_rss_bytes;
    if let (Some(start), Some(end), Some(max)) = (rss.first(), rss.last(), rss.iter().max()) {
        let megabytes = |bytes: &u64| *bytes as f64 / 1e6;
        write!(
            text,
            "; RSS {:.1} MB at the start, {:.1} at the end, {:.1} at most",
            megabytes(start),
            megabytes(end),
            megabytes(max)
        )
        .ok()?;
    }
    Some(text)
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
        writeln!(
            f,
            "ballast {}: {}",
            self.environment.version, self.environment.command_line
        )?;
        writeln!(f, "{}", self.environment.machine())?;
        writeln!(f, "{}", self.environment.database())?;
        writeln!(f, "processors: {}", self.environment.stalls)?;
        if let Some(disk) = self.environment.disk() {
            writeln!(f, "disk: {disk}")?;
        }
        writeln!(f, "{}; latencies in ms", self.method())?;
        if !self.environment.optimized {
            writeln!(f, "THIS IS A DEBUG BUILD; figures of it mean nothing")?;
        }
        writeln!(f)?;
        write_table(f, &without_constants(self.table()))?;
        for table in [self.ratio_table(), self.part_table()] {
            if table.len() > 1 {
                writeln!(f)?;
                write_table(f, &table)?;
            }
        }
        for line in self
            .drifts()
            .into_iter()
            .chain(self.failures())
            .chain(self.notes.clone())
        {
            writeln!(f, "{line}")?;
        }
        write!(f, "{}", self.verdict())
    }
}

/// Without the columns `mode` and `ledger` where they always say the same as by default.
fn without_constants(mut table: Vec<Vec<String>>) -> Vec<Vec<String>> {
    for name in ["mode", "ledger"] {
        let Some(column) = table[0].iter().position(|head| head == name) else {
            continue;
        };
        let mut values = table[1..].iter().map(|row| &row[column]);
        let first = values.next().cloned();
        if values.all(|value| Some(value) == first.as_ref())
            && first.is_none_or(|first| first == "unary" || name == "ledger")
        {
            for row in &mut table {
                row.remove(column);
            }
        }
    }
    table
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
            match is_number(&table[table.len() - 1][column]) {
                true => write!(line, "{cell:>width$}  ")?,
                false => write!(line, "{cell:<width$}  ")?,
            }
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Whether a column whose last cell this is holds numbers.
pub(super) fn is_number(cell: &str) -> bool {
    cell.is_empty()
        || cell
            .chars()
            .all(|c| c.is_ascii_digit() || ".-() ".contains(c))
}
