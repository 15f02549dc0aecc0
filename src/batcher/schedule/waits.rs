//! Lock waits: what another session holds, the connections that wait for it, and the locks that they were granted.
//!
//! A wait holds only the locks that it waits for. First each account is waited for alone. Accounts whose lock was granted
//! quickly (another instance has them in turns with this one) are waited for together, in the order of their ids: a job
//! needs several of them at a time, and two instances would otherwise take them from each other for ever.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::batcher::ticket::Ticket;
use crate::domain::{AccountId, Map, OperationId};

/// How long a connection waits for one lock while there are more waits than connections.
const TURN_MAX: Duration = Duration::from_millis(150);
const TURN_MIN: Duration = Duration::from_millis(10);
/// After about this time all waits have had a turn, unless there are very many.
const ROUND: Duration = Duration::from_millis(600);
/// How long accounts are waited for together: so long at most some of them are held while another one is missing.
const TOGETHER_MAX: Duration = Duration::from_millis(100);
/// So many accounts that are waited for together are joined by no others.
const TOGETHER_COUNT_MAX: usize = 64;
/// An account that was granted so short a time ago is one that comes back soon.
const RECENT: Duration = Duration::from_secs(1);
/// Above this number of recent grants the older ones are forgotten.
const RECENT_COUNT_MAX: usize = 4096;
/// A lock that was granted after a longer wait than this was held by another session.
pub(super) const GRANTED_AT_ONCE: Duration = Duration::from_millis(1);
/// How long granted locks are kept for jobs whose other accounts a lane has.
pub(super) const IDLE_MAX: Duration = Duration::from_millis(50);
/// How long an operation id is remembered that another session was about to record.
const OPERATION_MEMORY: Duration = Duration::from_secs(5);

/// What one connection waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wait {
    /// The locks of these accounts, one or more.
    Accounts(Vec<AccountId>),
    /// The end of another transaction that is about to record this id, or another id of the jobs that wait under its name.
    Operation(OperationId),
}

/// The locks of some accounts that were granted and are not used yet.
pub(super) struct IdleHold<H> {
    pub(super) hold: H,
    pub(super) account_ids: Vec<AccountId>,
    /// Another session had them before.
    pub(super) was_contended: bool,
    /// When they are given back.
    pub(super) end: Instant,
}

/// The jobs that wait for an operation id that another session is about to record.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) waiting: Vec<Ticket>,
    pub(super) is_waited_for: bool,
    pub(super) since: Instant,
}

/// The waits that have no connection yet, and what is known of earlier ones.
pub(super) struct Waits<H> {
    queue: VecDeque<Wait>,
    /// When the locks of accounts were last granted.
    granted: Map<AccountId, Instant>,
    pub(super) idle_holds: Vec<IdleHold<H>>,
    pub(super) operations: Map<OperationId, Awaited>,
    /// Connections that wait, hold locks, or give them back.
    pub(super) connection_count: usize,
}

impl<H> Waits<H> {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            granted: Map::default(),
            idle_holds: Vec::new(),
            operations: Map::default(),
            connection_count: 0,
        }
    }

    /// The wait whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Wait> {
        self.queue.pop_front()
    }

    pub(super) fn push(&mut self, wait: Wait) {
        self.queue.push_back(wait);
    }

    /// Waits for these accounts together, and for what else is waited for together with one of them. The others among
    /// them must be held by nobody.
    pub(super) fn push_together(&mut self, account_ids: &[AccountId]) {
        let mut together: BTreeSet<AccountId> = account_ids.iter().cloned().collect();
        self.queue.retain(|wait| match wait {
            Wait::Accounts(others) if others.iter().any(|id| together.contains(id)) => {
                together.extend(others.iter().cloned());
                false
            }
            Wait::Accounts(_) | Wait::Operation(_) => true,
        });
        self.queue
            .push_back(Wait::Accounts(together.into_iter().collect()));
    }

    /// Whether a wait for this account is queued and may be joined by others.
    pub(super) fn can_join(&self, account_id: &AccountId) -> bool {
        self.queue.iter().any(|wait| match wait {
            Wait::Accounts(ids) => ids.len() < TOGETHER_COUNT_MAX && ids.contains(account_id),
            Wait::Operation(_) => false,
        })
    }

    /// How long a connection may wait, at most `longest`: in turns while there are more waits than connections.
    pub(super) fn turn(&self, wait: &Wait, longest: Duration, connection_count: usize) -> Duration {
        let longest = match wait {
            Wait::Accounts(ids) if ids.len() > 1 => longest.min(TOGETHER_MAX),
            Wait::Accounts(_) | Wait::Operation(_) => longest,
        };
        // The last free connection is never lent for long: an account that comes back soon may need it next.
        if self.queue.is_empty() && self.connection_count + 1 < connection_count {
            return longest;
        }
        let connections = u32::try_from(connection_count).unwrap_or(u32::MAX);
        let waits = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
        let turn = ROUND.saturating_mul(connections) / waits.max(1);
        longest.min(turn.clamp(TURN_MIN, TURN_MAX))
    }

    pub(super) fn note_granted(&mut self, account_ids: &[AccountId], now: Instant) {
        if self.granted.len() > RECENT_COUNT_MAX {
            self.granted.retain(|_, granted| now - *granted < RECENT);
        }
        for account_id in account_ids {
            self.granted.insert(account_id.clone(), now);
        }
    }

    /// These accounts did not come back soon.
    pub(super) fn forget_granted(&mut self, account_ids: &[AccountId]) {
        for account_id in account_ids {
            self.granted.remove(account_id);
        }
    }

    pub(super) fn comes_back_soon(&self, account_id: &AccountId, now: Instant) -> bool {
        let granted = self.granted.get(account_id);
        granted.is_some_and(|granted| now - *granted < RECENT)
    }

    /// The operation ids that nobody asked for lately are forgotten.
    pub(super) fn forget_operations(&mut self, now: Instant) {
        self.operations.retain(|_, awaited| {
            awaited.is_waited_for
                || !awaited.waiting.is_empty()
                || now - awaited.since < OPERATION_MEMORY
        });
    }
}
