//! Latencies, in microseconds.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest latency that is told apart from longer ones.
const LATENCY_MAX_US: u64 = 600_000_000;

/// A histogram of latencies in microseconds, to three digits. All of them have the same bounds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_MAX_US, 3).expect("the bounds of a histogram are constant")
}

/// A latency in microseconds.
pub(crate) fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(LATENCY_MAX_US)
}
