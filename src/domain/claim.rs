//! A claim settles one race: the caller's deadline against the decision. Exactly one of them wins, so a caller is never
//! told "nothing happened" about an operation that then happens.

use std::sync::atomic::{AtomicU8, Ordering};

const WAITING: u8 = 0;
const STARTED: u8 = 1;
const WITHDRAWN: u8 = 2;

/// Whether an operation was started or withdrawn; decided once, for good.
#[derive(Debug, Default)]
pub struct Claim(AtomicU8);

impl Claim {
    /// Starts the operation. False: it was withdrawn and must not happen. True again when called again.
    pub fn start(&self) -> bool {
        self.decide(STARTED)
    }

    /// Withdraws the operation. False: it was started, its outcome is open. True again when called again.
    pub fn withdraw(&self) -> bool {
        self.decide(WITHDRAWN)
    }

    /// Whether the operation was withdrawn. Looks, and decides nothing.
    pub fn is_withdrawn(&self) -> bool {
        self.0.load(Ordering::Acquire) == WITHDRAWN
    }

    fn decide(&self, to: u8) -> bool {
        match self
            .0
            .compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => true,
            Err(decided) => decided == to,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_decision_stands() {
        let started = Claim::default();
        assert!(started.start() && started.start() && !started.withdraw());
        assert!(!started.is_withdrawn());
        let withdrawn = Claim::default();
        assert!(!withdrawn.is_withdrawn());
        assert!(withdrawn.withdraw() && withdrawn.withdraw() && !withdrawn.start());
        assert!(withdrawn.is_withdrawn());
    }
}
