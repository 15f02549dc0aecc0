//! Notes: what has to be known to read the figures, such as what was asked for and is not measured.

use super::cell::Cell;
use super::error::BenchError;
use super::mode::Mode;
use super::pace::Pace;
use super::plan::{Plan, Variant};
use super::scenario::Scenario;

/// Loads that are not measured for some variants, and why.
pub(super) struct Skip {
    why: &'static str,
    variants: Vec<String>,
    first: String,
    /// Of how many loads of a variant this is said.
    pub(super) count: usize,
}

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            why,
            variants,
            first,
            count,
        } = self;
        write!(f, "{}: {why} ({first}", variants.join(", "))?;
        match count - 1 {
            0 => f.write_str(")"),
            more => write!(f, ", and {more} more)"),
        }
    }
}

pub(super) fn skipped(plan: &Plan, cells: &[Cell]) -> Vec<Skip> {
    let mut skipped: Vec<Skip> = Vec::new();
    for cell in cells {
        for variant in &plan.variants {
            let Some(why) = cell.skips(plan, variant) else {
                continue;
            };
            let name = variant.name();
            let Some(known) = skipped.iter_mut().find(|skip| skip.why == why) else {
                skipped.push(Skip {
                    why,
                    variants: vec![name],
                    first: cell.to_string(),
                    count: 1,
                });
                continue;
            };
            known.count += 1;
            if !known.variants.contains(&name) {
                known.variants.push(name);
            }
        }
    }
    skipped
}

/// What has to be known to read the figures.
pub(super) fn notes(
    plan: &Plan,
    cells: &[Cell],
    skipped: &[Skip],
    is_wal_provided: bool,
) -> Vec<String> {
    let widened = cells
        .iter()
        .filter_map(|cell| match (cell.mode, cell.pace) {
            (mode @ Mode::Batch(_), Pace::Closed(count)) => {
                let in_flight: usize = mode.callers(count, 1).iter().sum();
                (in_flight != count).then(|| {
                    format!("{cell}: whole batches, so {in_flight} operations are in flight")
                })
            }
            (Mode::Batch(size), Pace::Open(rate)) => {
                let seconds = size as f64 / rate as f64;
                Some(format!("{cell}: a batch is due every {seconds:.3} s"))
            }
            _ => None,
        });
    let skipped = skipped.iter().map(|skip| format!("skipped: {skip}"));
    let compared = plan.variants.iter().filter_map(|variant| match variant {
        Variant::Baseline(config) => Some(config.note(plan.operation_ids)),
        _ => None,
    });
    let provided = is_wal_provided.then(|| {
        "before the first round the WAL got segments for one of them, at most min_wal_size, as after some time in use"
            .to_owned()
    });
    let locks = plan
        .scenarios
        .iter()
        .any(|scenario| matches!(scenario, Scenario::LockedPayers(_)));
    let locked = locks.then(|| {
        "locked payers: another session holds their rows, warm-up included; each has one unary call in flight that does not \
         count; all figures but those of the parts are of the others"
            .to_owned()
    });
    widened
        .chain(locked)
        .chain(compared.flatten())
        .chain(provided)
        .chain(skipped)
        .collect()
}

/// What the other builds say about themselves.
pub(super) async fn versions(plan: &Plan) -> Result<Vec<String>, BenchError> {
    let mut versions = Vec::new();
    for variant in &plan.variants {
        if let Variant::Build(build) = variant {
            versions.push(format!("{}: {}", build.name(), build.version().await?));
        }
    }
    Ok(versions)
}
