//! Retries: a transaction that lost against another one (40001, 40P01) left nothing behind and is repeated, bounded and
//! jittered, and counted. How often that happens tells whether the isolation fits the load.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often a transaction that loses is tried before its caller is told CONTENTION: with the pauses, two to three
/// seconds.
pub(crate) const SERIALIZATION_ATTEMPTS_MAX: u32 = 20;
/// The pause before the first repetition; it doubles with each, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(160);

/// Counts the transactions that lost and were repeated, since the start. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Retries(Arc<AtomicU64>);

impl Retries {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more.
    pub(crate) fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// How long to wait after so many attempts: half to all of the pause, so that two that collided do not collide again.
pub(crate) fn pause_after(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    let pause = PAUSE_MAX.min(PAUSE_MIN * 2_u32.pow(doublings));
    let random = RandomState::new().hash_one(0_u8);
    pause.mul_f64(0.5 + 0.5 * (random as f64 / u64::MAX as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        for attempts in 1..100 {
            let pause = pause_after(attempts);
            let longest = PAUSE_MAX.min(PAUSE_MIN * 2_u32.pow((attempts - 1).min(10)));
            assert!(
                (longest / 2..=longest).contains(&pause),
                "{attempts}: {pause:?}"
            );
        }
    }
}
