//! Rows: what the rounds of one variant under one load showed.

use serde::Serialize;

use super::figures::Figures;
use super::spread::Spread;
use crate::bench::scenario::LockedPayers;
use crate::bench::table_size::TableSize;

/// All rounds of one variant under one load on one size of ledger.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The scenario.
    pub scenario: String,
    /// The mode: by which RPC the operations come.
    #[serde(rename = "way")]
    pub mode: String,
    /// The pace.
    pub pace: String,
    /// What the ledger held before.
    pub table: String,
    /// The variant.
    pub variant: String,
    /// Whose rows another session holds, in the scenario that is about that.
    pub locked_payers: Option<LockedPayers>,
    /// One per round.
    pub rounds: Vec<Figures>,
    /// How many are in flight, in a closed loop.
    pub concurrency: Option<usize>,
    /// Whether the operations come at a rate.
    #[serde(skip)]
    pub is_open: bool,
    /// Whether there is one request in flight, always.
    #[serde(skip)]
    pub is_alone: bool,
    /// Rows of the ledger before.
    #[serde(skip)]
    pub size: TableSize,
}

impl Row {
    pub(in crate::bench) fn spread(&self, figure: impl Fn(&Figures) -> f64) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(figure))
    }

    pub(in crate::bench) fn median(&self, figure: impl Fn(&Figures) -> f64) -> f64 {
        self.spread(figure).map_or(0.0, |spread| spread.median)
    }

    /// A cell of the table; empty if the variant does not show it.
    pub(in crate::bench) fn shown(
        &self,
        digits: usize,
        figure: impl Fn(&Figures) -> Option<f64>,
    ) -> String {
        let spread = self.spread(|figures| figure(figures).unwrap_or(f64::NAN));
        spread.map_or_else(String::new, |spread| format!("{:.digits$}", spread.median))
    }
}
