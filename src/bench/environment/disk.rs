//! The disk: how long it takes to make a write durable, which every commit waits for.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use hdrhistogram::Histogram;

/// How often it is tried: enough for a p99.
const SYNC_COUNT: u64 = 500;
/// As much as the smallest commit writes, a page of the WAL.
const PAGE: [u8; 8192] = [0x55; 8192];
/// So many pages of the file are written in turn.
const PAGE_COUNT: u64 = 64;
/// What is shown of it, in this order.
pub(super) const SYNC_QUANTILES: [(&str, f64); 4] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)];

/// Latencies by name, in microseconds, of writing a page in this folder and syncing it, one after the other, as PostgreSQL
/// does on Linux: over what is there, with `fdatasync`.
pub(super) fn sync_latencies(folder: &Path) -> io::Result<BTreeMap<&'static str, u64>> {
    let file = tempfile::tempfile_in(folder)?;
    for page in 0..PAGE_COUNT {
        file.write_all_at(&PAGE, page * PAGE.len() as u64)?;
    }
    file.sync_all()?;
    let mut latencies = Histogram::<u64>::new(3).map_err(io::Error::other)?;
    for number in 0..SYNC_COUNT {
        let started = Instant::now();
        file.write_all_at(&PAGE, number % PAGE_COUNT * PAGE.len() as u64)?;
        file.sync_data()?;
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        latencies.saturating_record(micros);
    }
    let named =
        SYNC_QUANTILES.map(|(name, quantile)| (name, latencies.value_at_quantile(quantile)));
    Ok(BTreeMap::from(named))
}
