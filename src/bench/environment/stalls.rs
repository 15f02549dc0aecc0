//! Stalls: how long a thread that never waits stands still. On a shared machine the host may take a processor away for some
//! milliseconds without saying so, and whatever is in flight then waits. What else runs on the machine counts too: it is
//! not told apart.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

/// How long it is looked at.
const WATCHED: Duration = Duration::from_secs(2);
/// A pause of a thread that never waits is a stall from here on; shorter ones are interrupts.
const STALL_MIN: Duration = Duration::from_millis(1);

/// What threads that never wait, one for each processor, missed of their time.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Stalls {
    /// How long they ran, in seconds.
    pub watched_s: f64,
    /// How often one of them stood still for at least 1 ms.
    pub count: u64,
    /// The longest time that one of them stood still, in milliseconds; 0 if none did for 1 ms.
    pub longest_ms: f64,
    /// All stalls of all of them together, in milliseconds.
    pub total_ms: f64,
}

impl Stalls {
    /// Keeps all processors busy for two seconds; to be called while no load runs.
    pub(super) fn measure(cpu_count: usize) -> Self {
        let watches: Vec<_> = (0..cpu_count).map(|_| thread::spawn(watch)).collect();
        let mut all = Self {
            watched_s: WATCHED.as_secs_f64(),
            ..Self::default()
        };
        for stalled in watches.into_iter().flat_map(thread::JoinHandle::join) {
            all.count += stalled.len() as u64;
            for stall in stalled {
                let stall_ms = stall.as_secs_f64() * 1e3;
                all.total_ms += stall_ms;
                all.longest_ms = all.longest_ms.max(stall_ms);
            }
        }
        all
    }
}

impl fmt::Display for Stalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            watched_s,
            count,
            longest_ms,
            total_ms,
        } = self;
        write!(
            f,
            "a busy thread on each for {watched_s} s: {count} stalls of 1 ms or more"
        )?;
        if *count > 0 {
            write!(f, ", {longest_ms:.1} ms at most, {total_ms:.1} ms in all")?;
        }
        Ok(())
    }
}

/// The stalls of this thread.
fn watch() -> Vec<Duration> {
    let started = Instant::now();
    let mut stalled = Vec::new();
    let mut last = started;
    while last - started < WATCHED {
        let now = Instant::now();
        if now - last >= STALL_MIN {
            stalled.push(now - last);
        }
        last = now;
    }
    stalled
}
