//! Parts: operations of a load whose figures are also kept on their own.

use super::calls::Facts;
use crate::bench::scenario::Scenario;

/// The operations in [`Scenario::Locked`], by name, in the order in which they are shown.
pub(in crate::bench) const LOCKED_PARTS: [&str; 3] = [
    "others, nothing locked",
    "others, one balance locked",
    "on the locked balance",
];

/// The operations in [`Scenario::LockedPayers`], by name, in the order in which they are shown.
pub(in crate::bench) const PAYER_PARTS: [&str; 2] = ["others", "locked payers"];

/// How the operations of a load are told apart.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Parts {
    #[default]
    None,
    /// By [`LOCKED_PARTS`].
    ByTime,
    /// By [`PAYER_PARTS`].
    ByPayer,
}

impl Parts {
    pub(super) fn of(scenario: Scenario) -> Self {
        match scenario {
            Scenario::Locked => Self::ByTime,
            Scenario::LockedPayers(_) => Self::ByPayer,
            _ => Self::None,
        }
    }

    /// The part of an operation.
    pub(super) fn name(self, facts: Facts, is_locked: bool) -> Option<&'static str> {
        let [free, locked, apart] = LOCKED_PARTS;
        let [others, payers] = PAYER_PARTS;
        match (self, facts.is_apart, is_locked) {
            (Self::None, ..) => None,
            (Self::ByTime, false, false) => Some(free),
            (Self::ByTime, false, true) => Some(locked),
            // Neither one of the others nor locked.
            (Self::ByTime, true, false) => None,
            (Self::ByTime, true, true) => Some(apart),
            (Self::ByPayer, false, _) => Some(others),
            (Self::ByPayer, true, _) => Some(payers),
        }
    }
}
