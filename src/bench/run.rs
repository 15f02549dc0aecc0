//! A benchmark from its start to its report.

use super::cell::Cell;
use super::environment::Environment;
use super::error::BenchError;
use super::ledger;
use super::notes::{Skip, notes, skipped, versions};
use super::plan::{Database, Plan};
use super::report::Report;
use super::round;
use super::running::Running;
use super::scenario::Scenario;
use super::table_size::TableSize;
use crate::embedded::Embedded;
use crate::harness::{progress_bar, until_stopped, with_embedded};
use crate::stop::Stop;

/// Runs the plan. Progress goes to stderr. When `stop` is asked the run ends without a result, and leaves nothing
/// running.
pub async fn run(plan: &Plan, stop: &Stop) -> Result<Report, BenchError> {
    let cells = Cell::all(plan);
    let skipped = skipped(plan, &cells);
    if skipped.iter().map(|skip| skip.count).sum::<usize>() == cells.len() * plan.variants.len() {
        let why: Vec<String> = skipped.iter().map(Skip::to_string).collect();
        return Err(BenchError::Nothing(why.join("; ")));
    }
    enough_accounts(plan)?;
    match &plan.database {
        Database::Elsewhere(_) => until_stopped(stop, run_on(plan, None)).await,
        Database::Named(url) => {
            let ran = until_stopped(stop, run_on(plan, None)).await;
            match &ran {
                // Somebody wants to see what is not in order.
                Ok(_) | Err(BenchError::NotInOrder { .. }) => {}
                Err(_) => {
                    let prefix = plan.database_prefix();
                    let dropping = ledger::drop_all(url, &prefix);
                    stop.unless_forced(dropping).await;
                }
            }
            ran
        }
        Database::Embedded(folder) => {
            with_embedded(folder.as_deref(), stop, async |embedded| {
                run_on(plan, Some(embedded)).await
            })
            .await
        }
    }
}

/// Whether the ledgers have the accounts that the scenarios need.
fn enough_accounts(plan: &Plan) -> Result<(), BenchError> {
    for &scenario in &plan.scenarios {
        let Scenario::LockedPayers(locked) = scenario else {
            continue;
        };
        let account_count_min = locked.account_count_min();
        let too_small = |table: &&TableSize| table.account_count < account_count_min;
        if let Some(&table) = plan.tables.iter().find(too_small) {
            return Err(BenchError::TooFewAccounts {
                table,
                scenario,
                account_count_min,
            });
        }
    }
    Ok(())
}

async fn run_on(plan: &Plan, embedded: Option<&Embedded>) -> Result<Report, BenchError> {
    let cells = Cell::all(plan);
    let skipped = skipped(plan, &cells);
    let prefix = plan.database_prefix();
    let mut running = Vec::new();
    for (index, table) in plan.tables.iter().enumerate() {
        for (number, variant) in plan.variants.iter().enumerate() {
            let database = format!("{prefix}_{index}_{number}");
            running.push(Running::start(plan, variant, *table, &database, embedded).await?);
        }
    }
    let url = running.first().and_then(Running::database_url);
    let mut notes = notes(plan, &cells, &skipped, is_wal_provided(plan));
    notes.extend(versions(plan).await?);
    let mut report = Report::new(plan, Environment::of(url, embedded).await?, notes);
    if let Some(embedded) = embedded
        && is_wal_provided(plan)
    {
        let round = plan.warmup + plan.duration;
        ledger::provide_wal(&embedded.database_url(), round).await?;
    }
    let template = "{bar:30} {elapsed} of about {duration}  {msg}";
    let bar = progress_bar(seconds(plan, &cells), template);
    let indexes = 0..running.len();
    let mut measured: Vec<(&Cell, usize)> = cells
        .iter()
        .flat_map(|cell| indexes.clone().map(move |index| (cell, index)))
        .collect();
    for round in 1..=plan.rounds {
        for &(cell, index) in &measured {
            let variant = &mut running[index];
            if cell.skips(plan, variant.variant()).is_some() {
                continue;
            }
            bar.set_message(format!("{} {cell}, round {round}", variant.name()));
            let figures = round::measure(plan, cell, variant, embedded, &bar).await?;
            report.add(cell, variant.table(), &variant.name(), figures);
        }
        // The next round goes the other way, so that none always comes after the same neighbour.
        measured.reverse();
    }
    bar.finish_and_clear();
    report.compare();
    for variant in running {
        variant.finish(plan.verify).await?;
    }
    Ok(report)
}

/// Whether the WAL has its segments before the first round. Without checkpoints between the rounds, only the first one would
/// have the use of them.
fn is_wal_provided(plan: &Plan) -> bool {
    matches!(plan.database, Database::Embedded(_)) && plan.checkpoint
}

/// About how long the rounds take.
fn seconds(plan: &Plan, cells: &[Cell]) -> u64 {
    let pairs = cells
        .iter()
        .flat_map(|cell| plan.variants.iter().map(move |variant| (cell, variant)));
    let measured_count = pairs
        .filter(|(cell, variant)| cell.skips(plan, variant).is_none())
        .count();
    let round = (plan.warmup + plan.duration).as_secs().max(1);
    (measured_count * plan.tables.len()) as u64 * u64::from(plan.rounds) * round
}
