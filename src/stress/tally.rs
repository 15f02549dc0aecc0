//! What became of the transfers of a stress run, and how a client process tells it.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::harness::histogram;

/// What a client process says, one JSON object a line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// So far.
    Progress { opened: u64, done: u64 },
    /// The last word.
    Finished(Box<Tally>),
    /// The last word, too.
    Failed(String),
}

/// What became of transfers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Those that moved money.
    pub(super) posted: u64,
    /// Those whose answer says that an earlier attempt of the same transfer had posted.
    pub(super) replayed: u64,
    /// Those that were refused, by reason.
    pub(super) refused: BTreeMap<String, u64>,
    /// Attempts that had to be repeated, by reason.
    pub(super) repeated: BTreeMap<String, u64>,
    /// Those with a wrong answer, or none after all attempts, by reason.
    pub(super) lost: BTreeMap<String, u64>,
    /// What the accounts must have gained by all this, by number.
    pub(super) gained: BTreeMap<u64, i64>,
    /// Latencies in microseconds and how often each was seen, from the first attempt to the final answer.
    pub(super) latencies: Vec<(u64, u64)>,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.posted += other.posted;
        self.replayed += other.replayed;
        for (mine, theirs) in [
            (&mut self.refused, other.refused),
            (&mut self.repeated, other.repeated),
            (&mut self.lost, other.lost),
        ] {
            for (reason, count) in theirs {
                *mine.entry(reason).or_default() += count;
            }
        }
        for (account, amount) in other.gained {
            *self.gained.entry(account).or_default() += amount;
        }
        self.latencies.extend(other.latencies);
    }

    /// All latencies.
    pub(super) fn histogram(&self) -> Histogram<u64> {
        let mut all = histogram();
        for (micros, count) in &self.latencies {
            all.saturating_record_n(*micros, *count);
        }
        all
    }
}
