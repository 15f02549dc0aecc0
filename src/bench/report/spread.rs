//! The spread of a figure over the rounds.

use std::fmt;

use serde::Serialize;

/// The median of the rounds, and their range.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    /// The middle one; the lower of two in the middle.
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Spread {
    /// `None` if there is no round, or one without a figure.
    pub(in crate::bench) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        if !values.iter().all(|value| value.is_finite()) {
            return None;
        }
        Some(Self {
            median: *values.get(values.len().checked_sub(1)? / 2)?,
            low: *values.first()?,
            high: *values.last()?,
        })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, low, high } = self;
        match low < high {
            true => write!(f, "{median:.2} ({low:.2}-{high:.2})"),
            false => write!(f, "{median:.2}"),
        }
    }
}
