//! The report: figures per round, as JSON for programs. As tables for people, see [`super::tables`].

mod figures;
mod ratios;
mod row;
mod spread;

pub(super) use figures::{Costs, Figures, LATENCIES, Part};
pub(super) use ratios::Ratio;
pub(super) use row::Row;

use serde::Serialize;

use super::cell::Cell;
use super::environment::Environment;
use super::pace::Pace;
use super::plan::Plan;
use super::scenario::Scenario;
use super::table_size::TableSize;

/// What a ledger held before the load came.
#[derive(Debug, Clone, Serialize)]
pub struct LedgerSize {
    /// As the rows call it.
    pub name: String,
    /// Accounts.
    pub account_count: u64,
    /// Operations, those that opened the accounts included.
    pub operation_count: u64,
    /// Entries.
    pub entry_count: u64,
}

impl LedgerSize {
    fn of(table: TableSize) -> Self {
        Self {
            name: table.to_string(),
            account_count: table.account_count,
            operation_count: table.account_count + table.operation_count,
            entry_count: table.entry_count(),
        }
    }
}

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where and how.
    pub environment: Environment,
    /// What the ledgers held before.
    pub ledgers: Vec<LedgerSize>,
    /// What the operation ids look like.
    pub operation_ids: &'static str,
    /// TCP connections of the client.
    pub connection_count: usize,
    /// Server processes of each ballast that is measured.
    pub instance_count: usize,
    /// Seconds of each round.
    pub duration_seconds: f64,
    /// How often each was measured.
    pub round_count: u32,
    /// Whether every ledger was verified, and is in order.
    pub verified: bool,
    /// What was measured, in order.
    pub rows: Vec<Row>,
    /// Some of it divided by other, round by round.
    pub ratios: Vec<Ratio>,
    /// What has to be known to read it: what was asked for and not measured, for instance.
    pub notes: Vec<String>,
}

impl Report {
    pub(super) fn new(plan: &Plan, environment: Environment, notes: Vec<String>) -> Self {
        Self {
            environment,
            ledgers: plan.tables.iter().copied().map(LedgerSize::of).collect(),
            operation_ids: plan.operation_ids.name(),
            connection_count: plan.connection_count,
            instance_count: plan.instance_count,
            duration_seconds: plan.duration.as_secs_f64(),
            round_count: plan.rounds,
            verified: plan.verify,
            rows: Vec::new(),
            ratios: Vec::new(),
            notes,
        }
    }

    /// All rounds are in it: divides them.
    pub(super) fn compare(&mut self) {
        self.ratios = Ratio::all(&self.rows);
    }

    pub(super) fn add(&mut self, cell: &Cell, size: TableSize, variant: &str, figures: Figures) {
        let (scenario, mode, pace) = (
            cell.scenario.to_string(),
            cell.mode.to_string(),
            cell.pace.to_string(),
        );
        let table = size.to_string();
        let same = |row: &&mut Row| {
            (&row.scenario, &row.mode, &row.pace) == (&scenario, &mode, &pace)
                && (row.table.as_str(), row.variant.as_str()) == (&table, variant)
        };
        match self.rows.iter_mut().find(same) {
            Some(row) => row.rounds.push(figures),
            None => self.rows.push(Row {
                scenario,
                mode,
                pace,
                table,
                variant: variant.to_owned(),
                locked_payers: match cell.scenario {
                    Scenario::LockedPayers(locked) => Some(locked),
                    _ => None,
                },
                rounds: vec![figures],
                concurrency: match cell.pace {
                    Pace::Closed(count) => Some(count),
                    Pace::Open(_) => None,
                },
                is_open: matches!(cell.pace, Pace::Open(_)),
                is_alone: cell.pace == Pace::Closed(1),
                size,
            }),
        }
    }

    /// Whether anything but business answers went wrong.
    pub fn has_errors(&self) -> bool {
        self.rows
            .iter()
            .flat_map(|row| &row.rounds)
            .any(|figures| !figures.errors.is_empty())
    }

    /// One line about how it was measured.
    pub(super) fn method(&self) -> String {
        let Self {
            operation_ids,
            connection_count,
            duration_seconds,
            round_count,
            ..
        } = self;
        let instances = match self.instance_count {
            1 => String::new(),
            count => format!(" to {count} instances of each ballast"),
        };
        let ledgers: Vec<String> = self
            .ledgers
            .iter()
            .map(|ledger| {
                let LedgerSize {
                    name,
                    account_count,
                    entry_count,
                    ..
                } = ledger;
                format!("ledger {name}: {account_count} accounts, {entry_count} entries")
            })
            .collect();
        format!(
            "{}; {operation_ids} operation ids; {connection_count} connections{instances}; {round_count} x {duration_seconds} s, in alternation; \
             medians of the rounds",
            ledgers.join("; ")
        )
    }

    /// One line about the money.
    pub(super) fn verdict(&self) -> &'static str {
        match self.verified {
            true => "every ledger was verified and is in order",
            false => "the ledgers were not verified (--no-verify)",
        }
    }
}
