//! Cells: one scenario in one mode at one pace, measured for each variant.

use std::fmt;

use super::baseline::Baseline;
use super::mode::{AskedMode, Mode};
use super::pace::Pace;
use super::plan::{Plan, Variant};
use super::scenario::Scenario;

/// One load that is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cell {
    pub(super) scenario: Scenario,
    pub(super) pace: Pace,
    pub(super) mode: Mode,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.scenario, self.mode, self.pace)
    }
}

impl Cell {
    /// All that the plan asks for, in order.
    pub(super) fn all(plan: &Plan) -> Vec<Self> {
        let mut cells = Vec::new();
        for &scenario in &plan.scenarios {
            if scenario == Scenario::History {
                // One in flight by its nature.
                let (pace, mode) = (Pace::Closed(1), Mode::Unary);
                cells.push(Self {
                    scenario,
                    pace,
                    mode,
                });
                continue;
            }
            let loads = plan.modes.iter().flat_map(|asked| {
                let paces = Self::paces(plan, scenario, *asked);
                paces.map(|(order, pace)| (order, asked.mode, pace))
            });
            let mut loads: Vec<(usize, Mode, Pace)> = loads.collect();
            // All modes at one pace follow each other.
            loads.sort_by_key(|(order, ..)| *order);
            cells.extend(loads.into_iter().map(|(_, mode, pace)| Self {
                scenario,
                pace,
                mode,
            }));
        }
        cells
    }

    /// The paces of a mode, numbered in the order in which they are measured. One with a concurrency of its own has one
    /// closed loop.
    fn paces(
        plan: &Plan,
        scenario: Scenario,
        asked: AskedMode,
    ) -> impl Iterator<Item = (usize, Pace)> {
        let own = asked.concurrency.map(Pace::Closed);
        let usual = Pace::Closed(scenario.concurrency_default());
        let usual = plan.paces.is_empty().then_some(usual);
        let planned = plan.paces.iter().enumerate();
        let planned = planned.filter(move |(_, pace)| own.is_none() || !pace.is_closed());
        let first = own.or(usual).map(|pace| (0, pace));
        first
            .into_iter()
            .chain(planned.map(|(order, pace)| (order, *pace)))
    }

    /// Why a variant is not measured under this load.
    pub(super) fn skips(&self, plan: &Plan, variant: &Variant) -> Option<&'static str> {
        let Self {
            scenario,
            pace,
            mode,
        } = *self;
        let is_open = !pace.is_closed();
        if mode != Mode::Unary && scenario.reads() {
            return Some("batches and streams carry operations, and this reads");
        }
        match variant {
            Variant::Ballast(_) | Variant::Build(_) => None,
            Variant::Target => (scenario.locks() || scenario == Scenario::History)
                .then_some("it needs the database, which --target does not show"),
            Variant::Baseline(config) => {
                let has_closed = plan.paces.iter().any(Pace::is_closed)
                    || plan.modes.iter().any(|asked| asked.concurrency.is_some());
                if mode != Mode::Unary {
                    return Some("a baseline knows no batches and no streams");
                }
                if !scenario.only_transfers() {
                    return Some("a baseline only transfers");
                }
                if is_open && has_closed {
                    return Some(
                        "with --concurrency too, a baseline is measured in its closed loop",
                    );
                }
                match config.baseline {
                    Baseline::Transaction => None,
                    Baseline::Echo => scenario.locks().then_some("it has no balance to lock"),
                    Baseline::Pgbench => skipped_by_pgbench(scenario),
                }
            }
        }
    }
}

/// Why pgbench is not measured in this scenario.
fn skipped_by_pgbench(scenario: Scenario) -> Option<&'static str> {
    match scenario {
        Scenario::Uniform | Scenario::Hot | Scenario::Mutual => None,
        _ => Some("pgbench does uniform, hot and mutual only"),
    }
}
