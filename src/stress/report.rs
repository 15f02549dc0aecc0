//! The report of a stress run: counts, latencies, and whether the money is all there.

use std::fmt;
use std::time::Duration;

use super::plan::{OPENING_MINOR_UNITS, Plan};
use super::tally::Tally;
use crate::harness::{CURRENCY, posted};
use crate::rpc::proto::Account;

/// What a run found.
#[derive(Debug)]
pub struct Report {
    pub(super) plan: Plan,
    pub(super) run: String,
    pub(super) address_count: usize,
    pub(super) client_count: usize,
    /// The servers were started for this run.
    pub(super) is_own: bool,
    pub(super) opened_in: Duration,
    pub(super) took: Duration,
    /// Of all own servers together, in bytes.
    pub(super) memory: u64,
    pub(super) tally: Tally,
    /// The accounts after the run, by number.
    pub(super) accounts: Vec<Account>,
}

impl Report {
    /// What is wrong; empty: nothing is.
    pub fn findings(&self) -> Vec<String> {
        let Self { tally, plan, .. } = self;
        let mut findings = Vec::new();
        let lost: u64 = tally.lost.values().sum();
        if lost > 0 {
            findings.push(format!("{lost} transfers have no final answer"));
        }
        let (sum, expected) = (self.sum(), self.opening_sum());
        if sum != expected {
            findings.push(format!(
                "the sum was {expected} and is {sum} {CURRENCY} minor units"
            ));
        }
        if self.accounts.len() as u64 != plan.account_count {
            findings.push(format!("{} accounts are left", self.accounts.len()));
        }
        // With an unknown outcome, the answers do not tell what the balances must be.
        let differing = self.accounts.iter().zip(0..).find(|(account, index)| {
            let gained = tally.gained.get(index).copied().unwrap_or(0);
            lost == 0 && posted(account) != i128::from(OPENING_MINOR_UNITS + gained)
        });
        if let Some((account, index)) = differing {
            let gained = tally.gained.get(&index).copied().unwrap_or(0);
            findings.push(format!(
                "account {} has {}, the answers say {}",
                account.account_id,
                posted(account),
                OPENING_MINOR_UNITS + gained
            ));
        }
        findings
    }

    fn sum(&self) -> i128 {
        self.accounts.iter().map(posted).sum()
    }

    fn opening_sum(&self) -> i128 {
        i128::from(self.plan.account_count) * i128::from(OPENING_MINOR_UNITS)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            plan, tally, took, ..
        } = self;
        writeln!(
            f,
            "{} connections to {} server(s) from {} client process(es), all open after {:.1} s",
            plan.connection_count,
            self.address_count,
            self.client_count,
            self.opened_in.as_secs_f64()
        )?;
        let per_second = plan.transfer_count as f64 / took.as_secs_f64().max(0.001);
        writeln!(
            f,
            "{} transfers among {} accounts in {:.1} s, {per_second:.0}/s",
            plan.transfer_count,
            plan.account_count,
            took.as_secs_f64()
        )?;
        writeln!(f, "  {:>9}  POSTED", tally.posted)?;
        for (reason, count) in &tally.refused {
            writeln!(f, "  {count:>9}  REFUSED {reason}")?;
        }
        for (reason, count) in &tally.lost {
            writeln!(f, "  {count:>9}  without a final answer: {reason}")?;
        }
        for (reason, count) in &tally.repeated {
            writeln!(f, "  {count:>9}  attempts sent again: {reason}")?;
        }
        if tally.replayed > 0 {
            let count = tally.replayed;
            writeln!(
                f,
                "  {count:>9}  of the posted had been done by an earlier attempt"
            )?;
        }
        let latencies = tally.histogram();
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1_000.0;
        writeln!(
            f,
            "latency ms: p50 {:.0}, p90 {:.0}, p99 {:.0}, longest {:.0}",
            at(0.5),
            at(0.9),
            at(0.99),
            latencies.max() as f64 / 1_000.0
        )?;
        if self.is_own {
            let (mib, per_connection) = (
                self.memory / (1 << 20),
                self.memory / 1024 / plan.connection_count.max(1),
            );
            writeln!(
                f,
                "memory of the server(s): {mib} MiB resident, {per_connection} KiB for each connection"
            )?;
        } else {
            writeln!(f, "its accounts stay, as those of owner {}", self.run)?;
        }
        match self.findings().as_slice() {
            [] => write!(
                f,
                "every balance is what the answers say; the sum is still {} {CURRENCY} minor units",
                self.sum()
            ),
            findings => write!(f, "not in order: {}", findings.join("; ")),
        }
    }
}
