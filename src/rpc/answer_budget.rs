//! The answer budget: the memory that answers may take until they are read, for one connection and for the whole process.
//!
//! An answer takes memory from the moment its RPC makes it until HTTP/2 has written it, and a client that opens no window
//! keeps it there. So what may become large is reserved before it is made, and waits until it fits; everything else is
//! charged when it is made, and delays later requests of the connection. Reading releases the memory.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes};
use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Response;

use super::status::RpcError;
use crate::batcher::Failure;

/// What a connection may always have unread, even if the process has used its budget, in bytes: some dozens of small answers.
/// So a client that reads is served, whatever other clients do.
const SHARE_BYTES: usize = 16 * 1024;

/// How many bytes of answers may be in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetLimits {
    /// Of one connection.
    pub connection_bytes_max: usize,
    /// Of all together.
    pub process_bytes_max: usize,
}

impl Default for BudgetLimits {
    /// Eight of the largest answers for a connection; as much as eight such connections for all.
    fn default() -> Self {
        Self {
            connection_bytes_max: 32 * 1024 * 1024,
            process_bytes_max: 256 * 1024 * 1024,
        }
    }
}

/// Those who wait for memory: in the order of their arrival, so that only the first is woken.
#[derive(Debug, Default)]
struct WaitQueue {
    first: Mutex<()>,
    waiting_count: AtomicUsize,
    released: Notify,
}

/// Counts a waiter for as long as it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl WaitQueue {
    /// Waits for the turn, and until `fits` says yes. The caller takes the memory before it drops the turn.
    async fn turn(&self, fits: impl Fn() -> bool) -> MutexGuard<'_, ()> {
        let turn = self.first.lock().await;
        if fits() {
            return turn;
        }
        // Counted before it looks again: whoever releases memory does that first and then looks for waiters.
        self.waiting_count.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiting_count);
        loop {
            let mut released = pin!(self.released.notified());
            released.as_mut().enable();
            if fits() {
                return turn;
            }
            released.await;
        }
    }

    fn wake(&self) {
        if self.waiting_count.load(Ordering::SeqCst) > 0 {
            self.released.notify_waiters();
        }
    }
}

/// The budget of the process.
#[derive(Debug)]
pub struct ProcessBudget {
    limits: BudgetLimits,
    used: AtomicUsize,
    /// Those who reserve memory for a large answer.
    reserving: WaitQueue,
    /// Those whose answers are small, and who wait to begin.
    beginning: WaitQueue,
    /// Cancelled when nobody may wait any longer.
    draining: CancellationToken,
}

impl ProcessBudget {
    /// Nothing is used. Once the server drains, nobody waits for memory.
    pub fn new(limits: BudgetLimits, draining: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            limits,
            draining,
            used: AtomicUsize::new(0),
            reserving: WaitQueue::default(),
            beginning: WaitQueue::default(),
        })
    }

    /// How many bytes are used.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// Three quarters are used: from now on only connections that have read everything get more.
    pub fn is_crowded(&self) -> bool {
        self.used() > self.crowded_at()
    }

    fn crowded_at(&self) -> usize {
        self.limits.process_bytes_max / 4 * 3
    }

    fn is_full(&self) -> bool {
        self.used() > self.limits.process_bytes_max
    }

    /// What `granted` returns when there is memory; an error if the deadline passes first. If there is some at once, the
    /// deadline does not matter.
    async fn wait<T>(
        &self,
        granted: impl Future<Output = T>,
        deadline: Instant,
    ) -> Result<T, RpcError> {
        tokio::select! {
            biased;
            granted = granted => Ok(granted),
            () = self.draining.cancelled() => Err(RpcError::Failure(Failure::ShuttingDown)),
            () = tokio::time::sleep_until(deadline) => Err(RpcError::Unread),
        }
    }

    fn try_take(&self, bytes: usize, limit: usize) -> bool {
        let taken = |used: usize| (used == 0 || used + bytes <= limit).then_some(used + bytes);
        let order = Ordering::SeqCst;
        self.used.fetch_update(order, order, taken).is_ok()
    }

    fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::SeqCst);
        self.reserving.wake();
        self.beginning.wake();
    }
}

/// The budget of one connection.
#[derive(Debug)]
pub struct ConnectionBudget {
    process: Arc<ProcessBudget>,
    /// Bytes of answers that are not made yet.
    reserved: AtomicUsize,
    /// Bytes of answers that were made, counted since the beginning, modulo the size of the counter.
    charged: AtomicUsize,
    /// Of these, those that were written or thrown away.
    released: AtomicUsize,
    reserving: WaitQueue,
    beginning: WaitQueue,
}

impl ConnectionBudget {
    /// The budget of a connection of this process.
    pub fn new(process: Arc<ProcessBudget>) -> Arc<Self> {
        Arc::new(Self {
            process,
            reserved: AtomicUsize::new(0),
            charged: AtomicUsize::new(0),
            released: AtomicUsize::new(0),
            reserving: WaitQueue::default(),
            beginning: WaitQueue::default(),
        })
    }

    /// Bytes of answers that were made and wait to be read.
    pub fn unread(&self) -> usize {
        // In this order: what is released was charged before.
        let released = self.released.load(Ordering::SeqCst);
        self.charged.load(Ordering::SeqCst).wrapping_sub(released)
    }

    /// A number that changes whenever something was read.
    pub fn released(&self) -> usize {
        self.released.load(Ordering::Relaxed)
    }

    fn used(&self) -> usize {
        self.reserved.load(Ordering::SeqCst) + self.unread()
    }

    fn is_full(&self) -> bool {
        self.used() > self.process.limits.connection_bytes_max
    }

    fn is_held_up_by_others(&self) -> bool {
        self.process.is_full() && self.used() > SHARE_BYTES
    }

    /// Whether a request of this connection may begin.
    pub fn is_ready(&self) -> bool {
        !self.is_full() && !self.is_held_up_by_others()
    }

    /// Completes when a request with a small answer may begin.
    pub async fn ready(&self) {
        loop {
            if self.is_full() {
                drop(self.beginning.turn(|| !self.is_full()).await);
            } else if self.is_held_up_by_others() {
                let process = &self.process;
                drop(process.beginning.turn(|| !process.is_full()).await);
            } else {
                return;
            }
        }
    }

    /// The same, at most until the deadline of the request.
    pub(super) async fn ready_by(&self, deadline: Instant) -> Result<(), RpcError> {
        if self.is_ready() {
            return Ok(());
        }
        self.process.wait(self.ready(), deadline).await
    }

    /// Reserves memory for an answer of up to so many bytes; waits for it until the deadline.
    ///
    /// Cancel safe: a caller that leaves reserves nothing.
    pub(super) async fn reserve(
        self: &Arc<Self>,
        bytes: usize,
        deadline: Instant,
    ) -> Result<Reservation, RpcError> {
        let reserved = self.clone().reserved(bytes);
        let waited = self.process.wait(reserved, deadline).await;
        waited.map_err(|error| match error {
            // Its time was over before it had its turn, and not for lack of memory.
            RpcError::Unread if self.fits(bytes) => RpcError::Failure(Failure::Deadline {
                outcome_unknown: false,
            }),
            error => error,
        })
    }

    /// Whether an answer of this size fits now.
    fn fits(&self, bytes: usize) -> bool {
        let connection_bytes_max = self.process.limits.connection_bytes_max;
        let fits_here = self.used() + bytes.min(connection_bytes_max) <= connection_bytes_max;
        fits_here && self.process.used() + bytes <= self.process.crowded_at()
    }

    async fn reserved(self: Arc<Self>, bytes: usize) -> Reservation {
        let BudgetLimits {
            connection_bytes_max,
            process_bytes_max,
        } = self.process.limits;
        let bytes = bytes.min(connection_bytes_max);
        let fits = || self.used() == 0 || self.used() + bytes <= connection_bytes_max;
        let turn = self.reserving.turn(fits).await;
        let limit = match self.used() {
            0 => process_bytes_max,
            _ => self.process.crowded_at(),
        };
        let mut reservation = Reservation {
            budget: self.clone(),
            bytes: 0,
        };
        // Those who fit go first: a connection that reads does not queue behind those that do not.
        if !self.process.try_take(bytes, limit) {
            let fits = || self.process.try_take(bytes, limit);
            drop(self.process.reserving.turn(fits).await);
        }
        self.reserved.fetch_add(bytes, Ordering::SeqCst);
        reservation.bytes = bytes;
        drop(turn);
        reservation
    }

    /// Counts an answer that is made, whether it fits or not.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.charged.fetch_add(bytes, Ordering::SeqCst);
        self.process.used.fetch_add(bytes, Ordering::SeqCst);
        Charge {
            budget: self.clone(),
            bytes,
        }
    }

    fn wake(&self) {
        self.reserving.wake();
        self.beginning.wake();
    }
}

/// Memory for an answer that is being made. Dropping it releases what was not charged.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<ConnectionBudget>,
    bytes: usize,
}

impl Reservation {
    /// For an answer that is small, or whose size nobody knows.
    pub fn nothing(budget: Arc<ConnectionBudget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// The answer that it was made for.
    pub fn answer<T>(self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        let reservation = Arc::new(std::sync::Mutex::new(Some(self)));
        response.extensions_mut().insert(Carried(reservation));
        response
    }

    /// What an RPC reserved for this response; nothing if it reserved nothing.
    pub fn take_from<B>(response: &mut http::Response<B>, budget: &Arc<ConnectionBudget>) -> Self {
        let carried = response.extensions_mut().remove::<Carried>();
        let reservation = carried.and_then(|carried| carried.0.lock().ok()?.take());
        reservation.unwrap_or_else(|| Self::nothing(budget.clone()))
    }

    /// Charges bytes of the answer. Beyond what was reserved, they are counted all the same. The first bytes are all that
    /// an answer with a reservation has, so the rest of that is released.
    pub fn charge(&mut self, bytes: Bytes) -> ChargedBytes {
        let size = bytes.len();
        let from_reserved = size.min(self.bytes);
        if from_reserved > 0 {
            let budget = &self.budget;
            self.bytes -= from_reserved;
            budget.charged.fetch_add(from_reserved, Ordering::SeqCst);
            budget.reserved.fetch_sub(from_reserved, Ordering::SeqCst);
            self.release();
        }
        let mut charge = self.budget.charge(size - from_reserved);
        charge.bytes = size;
        ChargedBytes {
            bytes,
            _charge: charge,
        }
    }

    fn release(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes > 0 {
            self.budget.reserved.fetch_sub(bytes, Ordering::SeqCst);
            self.budget.process.release(bytes);
            self.budget.wake();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release();
    }
}

/// How a reservation gets from its RPC to the body of the response: extensions have to be cloned.
#[derive(Debug, Clone)]
struct Carried(Arc<std::sync::Mutex<Option<Reservation>>>);

/// Bytes that are counted for as long as it lives.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<ConnectionBudget>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.released.fetch_add(self.bytes, Ordering::SeqCst);
        self.budget.process.release(self.bytes);
        self.budget.wake();
    }
}

/// Bytes of an answer on their way through HTTP/2, which drops them when they are written.
#[derive(Debug)]
pub struct ChargedBytes {
    bytes: Bytes,
    _charge: Charge,
}

impl Buf for ChargedBytes {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.bytes.copy_to_bytes(length)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn process() -> Arc<ProcessBudget> {
        let limits = BudgetLimits {
            connection_bytes_max: 100_000,
            process_bytes_max: 400_000,
        };
        ProcessBudget::new(limits, CancellationToken::new())
    }

    fn bytes(size: usize) -> Bytes {
        vec![0; size].into()
    }

    #[tokio::test]
    async fn what_is_reserved_charged_and_read_is_released() {
        let process = process();
        let budget = ConnectionBudget::new(process.clone());
        let mut reserved = budget.clone().reserved(50_000).await;
        assert_eq!((process.used(), budget.unread()), (50_000, 0));
        let first = reserved.charge(bytes(20_000));
        assert_eq!((process.used(), budget.unread()), (20_000, 20_000));
        let more_than_reserved = reserved.charge(bytes(40_000));
        assert_eq!((process.used(), budget.unread()), (60_000, 60_000));
        drop((first, reserved));
        assert_eq!((process.used(), budget.unread()), (40_000, 40_000));
        drop(more_than_reserved);
        assert_eq!((process.used(), budget.unread(), budget.used()), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_connection_that_does_not_read_waits_and_another_goes_on() {
        let process = process();
        let (budget, other) = (
            ConnectionBudget::new(process.clone()),
            ConnectionBudget::new(process.clone()),
        );
        let mut reserved = budget.clone().reserved(60_000).await;
        let mut second = tokio::spawn(budget.clone().reserved(60_000));
        tokio::task::yield_now().await;
        assert!((&mut second).now_or_never().is_none(), "it does not fit");
        other.clone().reserved(60_000).await;
        let unread = reserved.charge(bytes(60_000));
        drop(reserved);
        tokio::task::yield_now().await;
        assert!((&mut second).now_or_never().is_none(), "made, and not read");
        drop(unread);
        drop(second.await.expect("no panic"));
        assert_eq!(process.used(), 0);
    }

    #[tokio::test]
    async fn a_waiter_that_leaves_reserves_nothing() {
        let process = process();
        let budget = ConnectionBudget::new(process.clone());
        let reserved = budget.clone().reserved(100_000).await;
        let waiting = tokio::spawn(budget.clone().reserved(10));
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.is_err_and(|error| error.is_cancelled()));
        drop(reserved);
        assert_eq!((process.used(), budget.used()), (0, 0));
        drop(budget.clone().reserved(100_000).await);
    }

    #[tokio::test]
    async fn small_answers_delay_the_next_requests_of_their_connection() {
        let process = process();
        let budget = ConnectionBudget::new(process.clone());
        let unread: Vec<_> = (0..101).map(|_| budget.charge(1_000)).collect();
        assert!(!budget.is_ready());
        assert!(budget.ready().now_or_never().is_none());
        assert!(
            ConnectionBudget::new(process).is_ready(),
            "another connection"
        );
        drop(unread);
        budget.ready().await;
    }

    #[tokio::test]
    async fn when_the_process_is_full_whoever_has_read_everything_goes_on() {
        let process = process();
        let readers: Vec<_> = (0..5)
            .map(|_| ConnectionBudget::new(process.clone()))
            .collect();
        let unread: Vec<_> = readers.iter().map(|budget| budget.charge(90_000)).collect();
        assert!(readers.iter().all(|budget| !budget.is_ready()));
        let innocent = ConnectionBudget::new(process.clone());
        assert!(innocent.is_ready());
        let waiting = tokio::spawn(innocent.reserved(50_000));
        tokio::task::yield_now().await;
        drop(unread);
        drop(waiting.await.expect("no panic"));
        assert_eq!(process.used(), 0);
    }
}
