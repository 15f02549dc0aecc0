//! Ratios: what the figures say side by side. Of each round on its own, because a noisy machine is noisy for all that is
//! measured in it; shown are the median of the rounds, and their range.

use serde::Serialize;

use super::figures::Figures;
use super::row::Row;
use super::spread::Spread;
use crate::bench::scenario::LockedPayers;

/// One row divided by another.
#[derive(Debug, Clone, Serialize)]
pub struct Ratio {
    /// What they share.
    pub load: String,
    /// What is divided.
    pub of: String,
    /// What it is divided by.
    pub by: String,
    /// Of the throughputs.
    pub throughput: Option<Spread>,
    /// Of the medians of the latency.
    pub p50: Option<Spread>,
    /// Of the 99th percentiles; in an open loop, by the other's median.
    pub p99: Option<Spread>,
    /// Of the 99.9th percentiles; in an open loop, by the other's median.
    pub p99_9: Option<Spread>,
    /// Of the server's processor time for an answer.
    pub server_cpu: Option<Spread>,
    /// Of PostgreSQL's processor time for an answer.
    pub database_cpu: Option<Spread>,
    /// Of the WAL for an answer.
    pub wal: Option<Spread>,
}

/// The latency of this name; none if nothing was answered.
fn latency(figures: &Figures, name: &str) -> f64 {
    match figures.latency(name) {
        0.0 => f64::NAN,
        us => us,
    }
}

impl Ratio {
    fn new(load: String, of: (&Row, String), by: (&Row, String)) -> Self {
        let known = |figure: Option<f64>| figure.unwrap_or(f64::NAN);
        let spread = |figure: &dyn Fn(&Figures) -> f64| {
            let rounds = of.0.rounds.iter().zip(&by.0.rounds);
            Spread::of(rounds.map(|(of, by)| figure(of) / figure(by)))
        };
        Self {
            load,
            throughput: spread(&|figures| figures.ok_per_second),
            p50: spread(&|figures| latency(figures, "p50")),
            p99: spread(&|figures| latency(figures, "p99")),
            p99_9: spread(&|figures| latency(figures, "p99.9")),
            server_cpu: spread(&|figures| known(figures.server_cpu_seconds_per_thousand)),
            database_cpu: spread(&|figures| known(figures.database_cpu_seconds_per_thousand)),
            wal: spread(&|figures| known(figures.wal_bytes_per_answer)),
            of: of.1,
            by: by.1,
        }
    }

    /// The latencies of an open loop in multiples of a median.
    fn in_medians(load: String, of: (&Row, String), by: (&Row, String)) -> Self {
        let spread = |name: &str| {
            let rounds = of.0.rounds.iter().zip(&by.0.rounds);
            Spread::of(rounds.map(|(of, by)| latency(of, name) / latency(by, "p50")))
        };
        Self {
            load,
            throughput: None,
            p50: spread("p50"),
            p99: spread("p99"),
            p99_9: spread("p99.9"),
            server_cpu: None,
            database_cpu: None,
            wal: None,
            of: of.1,
            by: by.1,
        }
    }

    /// All that can be said of these rows.
    pub(in crate::bench) fn all(rows: &[Row]) -> Vec<Self> {
        let mut ratios = Vec::new();
        for row in rows {
            let earlier = || rows.iter().take_while(|other| !std::ptr::eq(*other, row));
            let Row {
                scenario,
                mode,
                pace,
                table,
                variant,
                ..
            } = row;
            let same_load = |other: &&Row| other.scenario == *scenario && other.pace == *pace;
            // The first variant by this one; this mode and this size by the first ones.
            let first = earlier()
                .find(|other| same_load(other) && other.mode == *mode && other.table == *table);
            if let Some(first) = first {
                let load = format!("{scenario}, {mode}, {pace}, {table}");
                let (of, by) = (first.variant.clone(), variant.clone());
                ratios.push(Self::new(load, (first, of), (row, by)));
            }
            let first = earlier().find(|other| {
                same_load(other) && other.variant == *variant && other.table == *table
            });
            if let Some(first) = first.filter(|first| first.mode != *mode) {
                let load = format!("{scenario}, {pace}, {table}, {variant}");
                ratios.push(Self::new(
                    load,
                    (row, mode.clone()),
                    (first, first.mode.clone()),
                ));
            }
            let first = earlier()
                .find(|other| same_load(other) && other.variant == *variant && other.mode == *mode);
            if let Some(first) = first.filter(|first| first.table != *table) {
                let load = format!("{scenario}, {mode}, {pace}, {variant}");
                ratios.push(Self::new(
                    load,
                    (row, table.clone()),
                    (first, first.table.clone()),
                ));
            }
            if let Some(locked) = row.locked_payers.filter(|locked| locked.count > 0) {
                // This number of locked payers by none, the rest alike.
                let none_locked = LockedPayers { count: 0, ..locked };
                let none = rows.iter().find(|other| {
                    other.locked_payers == Some(none_locked)
                        && (&other.mode, &other.pace) == (mode, pace)
                        && (&other.table, &other.variant) == (table, variant)
                });
                if let Some(none) = none {
                    let LockedPayers { count, merchant } = locked;
                    let load = format!("{merchant}, {mode}, {pace}, {table}, {variant}");
                    let (of, by) = (format!("{count} locked payers"), "none locked".to_owned());
                    ratios.push(Self::new(load, (row, of), (none, by)));
                }
            }
            if row.is_open {
                let alone: Vec<&Row> = rows
                    .iter()
                    .filter(|other| {
                        other.is_alone && other.scenario == *scenario && other.table == *table
                    })
                    .collect();
                // By this mode; by another one only for a variant that does not know this one.
                let knows_mode = |variant: &str| {
                    let mut rows = alone.iter();
                    rows.any(|other| other.variant == variant && other.mode == *mode)
                };
                for &alone in &alone {
                    if alone.mode != *mode && knows_mode(&alone.variant) {
                        continue;
                    }
                    let load = format!("{scenario}, {mode}, {table}");
                    let by = format!("p50 of {}, {}, {}", alone.variant, alone.mode, alone.pace);
                    ratios.push(Self::in_medians(
                        load,
                        (row, format!("{variant}, {pace}")),
                        (alone, by),
                    ));
                }
            }
        }
        ratios
    }

    /// The head of a table of ratios.
    pub(in crate::bench) const HEAD: [&str; 10] = [
        "load",
        "ratio of",
        "by",
        "throughput",
        "p50",
        "p99",
        "p99.9",
        "server CPU",
        "database CPU",
        "WAL",
    ];

    /// Its line in such a table.
    pub(in crate::bench) fn cells(&self) -> Vec<String> {
        let shown =
            |spread: Option<Spread>| spread.map_or_else(String::new, |spread| spread.to_string());
        vec![
            self.load.clone(),
            self.of.clone(),
            self.by.clone(),
            shown(self.throughput),
            shown(self.p50),
            shown(self.p99),
            shown(self.p99_9),
            shown(self.server_cpu),
            shown(self.database_cpu),
            shown(self.wal),
        ]
    }
}
