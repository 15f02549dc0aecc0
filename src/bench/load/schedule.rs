//! Schedules: when the calls of an open loop are due.

use std::time::Duration;

use tokio::time::Instant;

/// When what one sender of an open loop sends is due.
pub(super) struct Schedule {
    /// The next of it.
    pub(super) due: Instant,
    interval: Duration,
}

impl Schedule {
    /// That of the sender of this index among `count`, which together send `rate` calls per second, evenly.
    pub(super) fn part(rate: f64, index: usize, count: usize) -> Self {
        let after = |calls: usize| Duration::from_secs_f64(calls as f64 / rate);
        Self {
            due: Instant::now() + after(index),
            interval: after(count),
        }
    }

    /// Sends everything that is due by then: the timer is coarser than the interval at high rates.
    pub(super) fn take_due(&mut self, by: Instant, mut send: impl FnMut(Instant)) {
        while self.due <= by {
            send(self.due);
            self.due += self.interval;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn senders_share_a_rate_evenly_and_leave_nothing_out() {
        let start = Instant::now();
        let mut schedules: Vec<_> = (0..4)
            .map(|index| Schedule::part(1000.0, index, 4))
            .collect();
        tokio::time::advance(Duration::from_millis(20)).await;
        let mut due = Vec::new();
        for schedule in &mut schedules {
            schedule.take_due(Instant::now(), |at| due.push((at - start).as_micros()));
            assert!(schedule.due > Instant::now());
        }
        due.sort_unstable();
        let every_millisecond: Vec<u128> = (0..=20).map(|number| number * 1000).collect();
        assert_eq!(due, every_millisecond);
    }
}
