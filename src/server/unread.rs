//! Unread answers: a connection whose client does not read them is closed, so that the memory of its answers is released.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::rpc::answer_budget::{ConnectionBudget, ProcessBudget};

/// How often the connections are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A connection with less than this unread is left alone while the process is not crowded: a paused client costs little.
const WORTH_CUTTING_BYTES: usize = 64 * 1024;
/// A client that reads this much within the time limit counts as reading: some kilobytes in a second are enough.
const PROGRESS_BYTES: usize = 256 * 1024;

/// How long a client may not read what is there for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) usual: Duration,
    /// While the process is crowded with unread answers.
    pub(super) crowded: Duration,
}

/// All connections of the process.
#[derive(Debug)]
pub(super) struct Unread {
    process: Arc<ProcessBudget>,
    patience: Patience,
    connections: Mutex<HashMap<u64, Reader>>,
    next_number: AtomicU64,
}

/// What is known of how one connection reads.
#[derive(Debug)]
struct Reader {
    budget: Arc<ConnectionBudget>,
    cut: CancellationToken,
    /// Since when it has not read what was unread then, and what was unread and released then.
    stalled: Option<Stalled>,
}

#[derive(Debug, Clone, Copy)]
struct Stalled {
    since: Instant,
    unread: usize,
    released: usize,
}

impl Reader {
    /// Whether it has had something to read for too long.
    fn is_late(&mut self, now: Instant, is_crowded: bool, patience: Patience) -> bool {
        let unread = self.budget.unread();
        let is_worth_cutting = is_crowded || unread >= WORTH_CUTTING_BYTES;
        if unread == 0 || !is_worth_cutting {
            self.stalled = None;
            return false;
        }
        let released = self.budget.released();
        let stalled = self.stalled.get_or_insert(Stalled {
            since: now,
            unread,
            released,
        });
        let read = released.wrapping_sub(stalled.released);
        if read >= stalled.unread.min(PROGRESS_BYTES) {
            *stalled = Stalled {
                since: now,
                unread,
                released,
            };
        }
        let patience = if is_crowded {
            patience.crowded
        } else {
            patience.usual
        };
        now.duration_since(stalled.since) >= patience
    }
}

impl Unread {
    pub(super) fn new(process: Arc<ProcessBudget>, patience: Patience) -> Arc<Self> {
        Arc::new(Self {
            process,
            patience,
            connections: Mutex::default(),
            next_number: AtomicU64::new(0),
        })
    }

    /// A new connection.
    pub(super) fn connection(self: &Arc<Self>) -> Watched {
        let watched = Watched {
            number: self.next_number.fetch_add(1, Ordering::Relaxed),
            unread: self.clone(),
            budget: ConnectionBudget::new(self.process.clone()),
            cut: CancellationToken::new(),
        };
        let reader = Reader {
            budget: watched.budget.clone(),
            cut: watched.cut.clone(),
            stalled: None,
        };
        self.lock().insert(watched.number, reader);
        watched
    }

    /// Looks at all connections from time to time, until the server drains.
    pub(super) async fn watch(self: Arc<Self>, draining: CancellationToken) {
        let interval = LOOK_INTERVAL.min(self.patience.crowded / 2);
        while tokio::time::timeout(interval, draining.cancelled())
            .await
            .is_err()
        {
            self.look(Instant::now());
        }
    }

    fn look(&self, now: Instant) {
        let is_crowded = self.process.is_crowded();
        for reader in self.lock().values_mut() {
            if !reader.cut.is_cancelled() && reader.is_late(now, is_crowded, self.patience) {
                tracing::warn!(
                    unread_bytes = reader.budget.unread(),
                    is_crowded,
                    "a client does not read its answers; its connection is cut"
                );
                reader.cut.cancel();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Reader>> {
        // Nothing panics while it is locked.
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is watched for as long as this lives.
#[derive(Debug)]
pub(super) struct Watched {
    number: u64,
    unread: Arc<Unread>,
    /// What its answers may take.
    pub(super) budget: Arc<ConnectionBudget>,
    /// Cancelled when it is to be cut.
    pub(super) cut: CancellationToken,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.unread.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::answer_budget::BudgetLimits;

    const PATIENCE: Patience = Patience {
        usual: Duration::from_secs(60),
        crowded: Duration::from_secs(5),
    };

    fn unread() -> Arc<Unread> {
        let process = ProcessBudget::new(BudgetLimits::default(), CancellationToken::new());
        Unread::new(process, PATIENCE)
    }

    #[tokio::test]
    async fn whoever_does_not_read_is_cut_and_whoever_reads_slowly_is_not() {
        let unread = unread();
        let (idle, slow, few) = (
            unread.connection(),
            unread.connection(),
            unread.connection(),
        );
        let begun = Instant::now();
        let _never_read = idle.budget.charge(1_000_000);
        let _small = few.budget.charge(1_000);
        let mut slowly: Vec<_> = (0..100).map(|_| slow.budget.charge(10_000)).collect();
        for second in 0..60 {
            unread.look(begun + Duration::from_secs(second));
            assert!(!idle.cut.is_cancelled(), "after {second} s");
            slowly.pop();
        }
        unread.look(begun + Duration::from_secs(60));
        assert!(idle.cut.is_cancelled());
        unread.look(begun + Duration::from_secs(600));
        assert!(!few.cut.is_cancelled(), "a paused client costs nothing");
        assert!(slow.cut.is_cancelled(), "nothing more for nine minutes");
    }

    #[tokio::test]
    async fn a_crowded_process_has_less_patience() {
        let unread = unread();
        let (crowd, few) = (unread.connection(), unread.connection());
        let begun = Instant::now();
        let _never_read = crowd.budget.charge(200 * 1024 * 1024);
        let _small = few.budget.charge(1_000);
        unread.look(begun);
        unread.look(begun + Duration::from_secs(4));
        assert!(!crowd.cut.is_cancelled() && !few.cut.is_cancelled());
        unread.look(begun + Duration::from_secs(5));
        assert!(crowd.cut.is_cancelled() && few.cut.is_cancelled());
    }

    #[tokio::test]
    async fn a_connection_that_ended_is_forgotten() {
        let unread = unread();
        drop(unread.connection());
        assert!(unread.lock().is_empty());
    }
}
