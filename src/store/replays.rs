//! Replays: whether the next batches look up their operation ids before they decide.
//!
//! The unique key of `operations` finds every replay, at the price of a transaction that is rolled back and repeated. A
//! look-up finds it for a descent through the index, but pays that for every operation. So batches look up while replays
//! keep coming, and go without as long as none do.

use std::sync::atomic::{AtomicU32, Ordering};

/// How many batches look up after the last replay.
const BATCHES_AFTER_REPLAY: u32 = 256;

/// See the module. Clones would count apart, so there are none.
#[derive(Debug, Default)]
pub(super) struct Replays(AtomicU32);

impl Replays {
    /// Whether the next batch looks up first.
    pub(super) fn are_expected(&self) -> bool {
        let count_down = |batches: u32| batches.checked_sub(1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, count_down)
            .is_ok()
    }

    /// There was one.
    pub(super) fn expect_more(&self) {
        self.0.store(BATCHES_AFTER_REPLAY, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replays_are_expected_for_a_while_after_each() {
        let replays = Replays::default();
        assert!(!replays.are_expected());
        replays.expect_more();
        assert!((0..BATCHES_AFTER_REPLAY).all(|_| replays.are_expected()));
        assert!(!replays.are_expected());
    }
}
