//! Figures: what one round showed.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::bench::ledger::Size;
use crate::bench::load::{LOCKED_PARTS, LONG_ACCOUNT_PARTS, Measured, PAYER_PARTS, Tally};
use crate::bench::usage::Usage;
use crate::harness::MachineTime;

/// What one round of one variant under one load showed. What a variant does not show is absent.
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

/// Some of the requests of a round.
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

/// What a round used.
pub(in crate::bench) struct Costs {
    pub(in crate::bench) usage: Usage,
    pub(in crate::bench) size: Option<Size>,
    pub(in crate::bench) rss_bytes: Vec<u64>,
}

const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
/// The latencies by name, in the order in which they are shown.
pub(in crate::bench) const LATENCIES: [&str; 5] = ["p50", "p90", "p99", "p99.9", "max"];
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
    pub(in crate::bench) fn new(mut measured: Measured, costs: Costs) -> Self {
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
            .chain(LONG_ACCOUNT_PARTS);
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

    pub(in crate::bench) fn latency(&self, name: &str) -> f64 {
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
