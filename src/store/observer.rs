//! The observer of the write path: the store and the batcher tell it what they do, and whoever shows numbers reads them here.
//! It counts, and never waits or fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::retry::Retries;

/// See the module. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Observer {
    retries: Retries,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    batches: AtomicU64,
    commands: AtomicU64,
    queue_wait_us: AtomicU64,
    lock_waits: AtomicU64,
    lock_wait_us: AtomicU64,
    queue_depth: AtomicU64,
}

/// The numbers at one time. All but `queue_depth` are counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteCounts {
    /// Batches that were started.
    pub batches: u64,
    /// Commands in these batches. A command that had to wait for another session counts once for each of its batches.
    pub commands: u64,
    /// Transactions that lost against others and were repeated.
    pub retries: u64,
    /// The time that the jobs of these batches waited since they arrived, summed up.
    pub queue_wait: Duration,
    /// Waits for accounts or operation ids that another session held, that have ended.
    pub lock_waits: u64,
    /// How long these waits took, summed up.
    pub lock_wait: Duration,
    /// Jobs that wait, when a batch last began or ended, or a job arrived while a lane was free.
    pub queue_depth: u64,
}

impl Observer {
    /// The numbers now. They are read one after the other, so they may differ by what happens meanwhile.
    pub fn counts(&self) -> WriteCounts {
        let Counters {
            batches,
            commands,
            queue_wait_us,
            lock_waits,
            lock_wait_us,
            queue_depth,
        } = &*self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WriteCounts {
            batches: read(batches),
            commands: read(commands),
            retries: self.retries.count(),
            queue_wait: Duration::from_micros(read(queue_wait_us)),
            lock_waits: read(lock_waits),
            lock_wait: Duration::from_micros(read(lock_wait_us)),
            queue_depth: read(queue_depth),
        }
    }

    /// The transactions that lost against others and were repeated.
    pub fn retries(&self) -> &Retries {
        &self.retries
    }

    /// A batch of so many commands starts; its jobs waited so long, summed up.
    pub(crate) fn note_batch(&self, command_count: usize, waited: Duration) {
        let counters = &self.counters;
        add(&counters.batches, 1);
        add(&counters.commands, command_count as u64);
        add(&counters.queue_wait_us, micros(waited));
    }

    /// A wait for what another session held has ended, granted or not.
    pub(crate) fn note_lock_wait(&self, waited: Duration) {
        add(&self.counters.lock_waits, 1);
        add(&self.counters.lock_wait_us, micros(waited));
    }

    /// So many jobs wait.
    pub(crate) fn set_queue_depth(&self, job_count: usize) {
        let depth = &self.counters.queue_depth;
        depth.store(job_count as u64, Ordering::Relaxed);
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
