//! What came back while it was measured: counts, latencies, and what became of the money.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::calls::Facts;
use crate::harness::{histogram, micros};
use crate::rpc::proto::{OperationError, OperationResult, operation_result};

/// How one request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::bench) enum Answer {
    Ok,
    /// A business answer that says no, with its code and reason.
    Refusal(String),
    /// Everything else, with its code and reason.
    Error(String),
}

impl Answer {
    pub(in crate::bench) fn of<T>(result: &Result<T, Status>) -> Self {
        match result {
            Ok(_) => Self::Ok,
            Err(status) => Self::of_status(status),
        }
    }

    pub(in crate::bench) fn of_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let reason = details
            .error_info()
            .map_or("no reason", |info| info.reason.as_str());
        let text = format!("{:?} {reason}", status.code());
        match details.precondition_failure() {
            Some(_) => Self::Refusal(text),
            None => Self::Error(text),
        }
    }

    /// Of a member of a batch or a stream.
    pub(in crate::bench) fn of_result(result: &OperationResult) -> Self {
        match &result.outcome {
            Some(operation_result::Outcome::Posted(_)) => Self::Ok,
            Some(operation_result::Outcome::Error(error)) => Self::of_error(error),
            None => Self::Error("a result without an outcome".to_owned()),
        }
    }

    fn of_error(error: &OperationError) -> Self {
        let code = Code::from_i32(error.code);
        let text = format!("{code:?} {}", error.reason);
        // The one failed precondition that is no refusal.
        let is_refusal = code == Code::FailedPrecondition && error.reason != "CURRENCY_MISMATCH";
        match is_refusal {
            true => Self::Refusal(text),
            false => Self::Error(text),
        }
    }
}

/// Counts and latencies of some of the requests.
#[derive(Debug, Clone)]
pub(in crate::bench) struct Tally {
    /// Answers with OK.
    pub(in crate::bench) ok_count: u64,
    pub(in crate::bench) refusals: BTreeMap<String, u64>,
    pub(in crate::bench) errors: BTreeMap<String, u64>,
    /// Of everything that was answered, in microseconds.
    pub(in crate::bench) latency: Histogram<u64>,
}

impl Tally {
    fn new() -> Self {
        Self {
            ok_count: 0,
            refusals: BTreeMap::new(),
            errors: BTreeMap::new(),
            latency: histogram(),
        }
    }

    /// An answer that came after the end: its time counts, but it was not done in the time that is measured.
    pub(in crate::bench) fn note_late(&mut self, answer: &Answer, latency: Duration) {
        let ok_count = self.ok_count;
        self.note(answer, latency);
        self.ok_count = ok_count;
    }

    pub(in crate::bench) fn note(&mut self, answer: &Answer, latency: Duration) {
        self.latency.saturating_record(micros(latency).max(1));
        let (counts, reason) = match answer {
            Answer::Ok => {
                self.ok_count += 1;
                return;
            }
            Answer::Refusal(reason) => (&mut self.refusals, reason),
            Answer::Error(reason) => (&mut self.errors, reason),
        };
        *counts.entry(reason.clone()).or_default() += 1;
    }

    fn add(&mut self, other: &Self) {
        self.ok_count += other.ok_count;
        for (mine, theirs) in [
            (&mut self.refusals, &other.refusals),
            (&mut self.errors, &other.errors),
        ] {
            for (reason, count) in theirs {
                *mine.entry(reason.clone()).or_default() += count;
            }
        }
        self.latency
            .add(&other.latency)
            .expect("all histograms have the same bounds");
    }
}

/// What came back while it was measured.
#[derive(Debug)]
pub(in crate::bench) struct Measured {
    pub(in crate::bench) elapsed: Duration,
    /// Everything but what is kept apart.
    pub(in crate::bench) all: Tally,
    /// Some of it again, or what is kept apart, under a name; in the order of the names' numbers.
    pub(in crate::bench) parts: BTreeMap<&'static str, Tally>,
    /// Answers with OK in each second.
    pub(in crate::bench) per_second: Vec<u64>,
    /// The money that came into the ledger, warm-up included.
    pub(in crate::bench) net_minor_units: i64,
    /// How many requests would have moved money across the edge of the ledger and have an unknown end.
    pub(in crate::bench) uncertain_count: u64,
}

impl Measured {
    pub(in crate::bench) fn new() -> Self {
        Self {
            elapsed: Duration::ZERO,
            all: Tally::new(),
            parts: BTreeMap::new(),
            per_second: Vec::new(),
            net_minor_units: 0,
            uncertain_count: 0,
        }
    }

    pub(in crate::bench) fn part(&mut self, name: &'static str) -> &mut Tally {
        self.parts.entry(name).or_insert_with(Tally::new)
    }

    /// Keeps the books, whether it is measured or not.
    pub(in crate::bench) fn book(&mut self, facts: Facts, answer: &Answer) {
        match answer {
            Answer::Ok => self.net_minor_units += facts.net_minor_units,
            Answer::Refusal(_) => {}
            Answer::Error(_) => self.uncertain_count += facts.net_minor_units.unsigned_abs(),
        }
    }

    pub(in crate::bench) fn note(
        &mut self,
        answer: &Answer,
        latency: Duration,
        since_start: Duration,
    ) {
        self.all.note(answer, latency);
        if *answer == Answer::Ok {
            self.count_second(since_start.as_secs() as usize);
        }
    }

    fn count_second(&mut self, second: usize) {
        if self.per_second.len() <= second {
            self.per_second.resize(second + 1, 0);
        }
        self.per_second[second] += 1;
    }

    pub(in crate::bench) fn add(&mut self, other: &Self) {
        self.all.add(&other.all);
        for (name, tally) in &other.parts {
            self.part(name).add(tally);
        }
        if self.per_second.len() < other.per_second.len() {
            self.per_second.resize(other.per_second.len(), 0);
        }
        for (mine, theirs) in self.per_second.iter_mut().zip(&other.per_second) {
            *mine += theirs;
        }
        self.net_minor_units += other.net_minor_units;
        self.uncertain_count += other.uncertain_count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_refused_or_fails_as_its_own_call_would() {
        let result = |code: Code, reason: &str| OperationResult {
            operation_id: "a".to_owned(),
            outcome: Some(operation_result::Outcome::Error(OperationError {
                code: code as i32,
                reason: reason.to_owned(),
                ..OperationError::default()
            })),
        };
        let refused = result(Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
        let text = "FailedPrecondition INSUFFICIENT_FUNDS".to_owned();
        assert_eq!(Answer::of_result(&refused), Answer::Refusal(text));
        for (code, reason) in [
            (Code::FailedPrecondition, "CURRENCY_MISMATCH"),
            (Code::Aborted, "CONTENTION"),
        ] {
            let failed = Answer::of_result(&result(code, reason));
            assert_eq!(failed, Answer::Error(format!("{code:?} {reason}")));
        }
    }
}
