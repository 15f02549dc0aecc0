//! A round of one variant under one load: the load for a while, and what it costs.

use indicatif::ProgressBar;

use super::cell::Cell;
use super::error::BenchError;
use super::ledger::{HeldLocks, Ledger, Size};
use super::load::{LOCKED_ACCOUNT, Load, Measured, Watch};
use super::pgbench::{self, Pgbench};
use super::plan::Plan;
use super::report::{Costs, Figures};
use super::running::Running;
use super::scenario::Scenario;
use super::usage::{Usage, rss_bytes};
use crate::embedded::Embedded;

/// Measures a variant under a load once.
pub(super) async fn measure(
    plan: &Plan,
    cell: &Cell,
    running: &mut Running,
    embedded: Option<&Embedded>,
    bar: &ProgressBar,
) -> Result<Figures, BenchError> {
    if let Some(ledger) = running.ledger().filter(|_| plan.checkpoint) {
        // What the round before left behind, a checkpoint or dirty pages, is not this round's.
        ledger.settle().await?;
    }
    let long_account = match cell.scenario {
        Scenario::History => Some(running.long_account(plan.history_entry_count).await?),
        _ => None,
    };
    let mut watcher = Watcher {
        running,
        postmaster: embedded.and_then(Embedded::pid),
        locks_in_half: cell.scenario == Scenario::Locked,
        bar,
        before: None,
        after: None,
        rss_bytes: Vec::new(),
        held: match cell.scenario {
            // From the first call on, warm-up included.
            Scenario::LockedPayers(locked) => {
                let ids = locked.locked_ids(running.accounts());
                running.lock_balances(&ids).await?
            }
            _ => None,
        },
    };
    let measured = match running.pgbench() {
        Some(pgbench) => measure_pgbench(plan, cell, pgbench, &mut watcher).await?,
        None => {
            let load = Load {
                endpoints: running.endpoints()?,
                connection_count: plan.connection_count,
                scenario: cell.scenario,
                mode: cell.mode,
                accounts: running.accounts().clone(),
                operation_ids: plan.operation_ids,
                long_account,
                pace: cell.pace,
                warmup: plan.warmup,
                duration: plan.duration,
            };
            load.run(&mut watcher).await?
        }
    };
    let costs = watcher.costs();
    running.book(&measured);
    Ok(Figures::new(measured, costs))
}

async fn measure_pgbench(
    plan: &Plan,
    cell: &Cell,
    (ledger, pgbench): (&Ledger, &Pgbench),
    watcher: &mut Watcher<'_>,
) -> Result<Measured, BenchError> {
    let round = |duration| pgbench::Round {
        scenario: cell.scenario,
        pace: cell.pace,
        duration,
    };
    if !plan.warmup.is_zero() {
        pgbench.run(ledger, round(plan.warmup), watcher.bar).await?;
    }
    watcher.start().await?;
    let measured = pgbench
        .run(ledger, round(plan.duration), watcher.bar)
        .await?;
    watcher.end().await?;
    Ok(measured)
}

/// Takes down what a round costs.
struct Watcher<'a> {
    running: &'a Running,
    postmaster: Option<i32>,
    /// A balance is to be locked in the second half.
    locks_in_half: bool,
    bar: &'a ProgressBar,
    before: Option<(Usage, Option<Size>)>,
    after: Option<(Usage, Option<Size>)>,
    /// Of the server, at the start and after each second of the measured time.
    rss_bytes: Vec<u64>,
    held: Option<HeldLocks>,
}

impl Watcher<'_> {
    async fn used(&self) -> Result<(Usage, Option<Size>), BenchError> {
        let mut usage = Usage::of(&self.running.server_pids(), self.postmaster);
        if self.running.pgbench().is_some() {
            // It is a client of its own.
            usage.client_cpu_seconds = None;
        }
        let size = match self.running.ledger() {
            Some(ledger) => Some(ledger.size().await?),
            None => None,
        };
        Ok((usage, size))
    }

    fn sample(&mut self) {
        let pids = self.running.server_pids();
        if !pids.is_empty() {
            self.rss_bytes.push(rss_bytes(&pids));
        }
    }

    fn costs(self) -> Costs {
        let (before, after) = (
            self.before.unwrap_or_default(),
            self.after.unwrap_or_default(),
        );
        Costs {
            usage: after.0.since(before.0),
            size: after
                .1
                .zip(before.1)
                .map(|(after, before)| after.since(before)),
            rss_bytes: self.rss_bytes,
        }
    }
}

impl Watch for Watcher<'_> {
    async fn start(&mut self) -> Result<(), BenchError> {
        self.before = Some(self.used().await?);
        self.sample();
        Ok(())
    }

    fn second(&mut self) {
        self.bar.inc(1);
        if self.before.is_some() {
            self.sample();
        }
    }

    async fn half(&mut self) -> Result<bool, BenchError> {
        if self.locks_in_half {
            let id = self.running.accounts().id(LOCKED_ACCOUNT);
            self.held = self.running.lock_balances(&[id]).await?;
        }
        Ok(self.held.is_some())
    }

    async fn end(&mut self) -> Result<(), BenchError> {
        self.after = Some(self.used().await?);
        match self.held.take() {
            Some(held) => held.release().await,
            None => Ok(()),
        }
    }
}
