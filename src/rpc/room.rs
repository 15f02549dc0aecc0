//! Room: the memory that answers may take until they are read, for one connection and for the whole process.
//!
//! An answer takes memory from the moment its RPC makes it until HTTP/2 has written it, and a client that opens no window
//! keeps it there. So what may become large is reserved before it is made, and waits if there is no room; everything else
//! is counted when it is handed over, and holds up later requests of the connection. Reading gives the room back.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes};
use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response};

use super::edge::Call;
use super::status::RpcError;
use crate::batcher::Failure;

/// What a connection may always have unread, even if the process has no room left, in bytes: some dozens of small answers.
/// So a client that reads is served, whatever other clients do.
const SHARE_BYTES: usize = 16 * 1024;

/// How many bytes of answers may be in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomLimits {
    /// Of one connection.
    pub connection_bytes_max: usize,
    /// Of all together.
    pub process_bytes_max: usize,
}

impl Default for RoomLimits {
    /// Eight of the largest answers for a connection; as much as eight such connections for all.
    fn default() -> Self {
        Self {
            connection_bytes_max: 32 * 1024 * 1024,
            process_bytes_max: 256 * 1024 * 1024,
        }
    }
}

/// Those who wait for room: in the order of their arrival, so that only the first is woken.
#[derive(Debug, Default)]
struct Line {
    first: Mutex<()>,
    waiting_count: AtomicUsize,
    freed: Notify,
}

/// Counts a waiter for as long as it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Line {
    /// Waits for the turn, and until `fits` says yes. The caller takes the room before it drops the turn.
    async fn turn(&self, fits: impl Fn() -> bool) -> MutexGuard<'_, ()> {
        let turn = self.first.lock().await;
        if fits() {
            return turn;
        }
        // Counted before it looks again: freeing first makes room and then looks for waiters.
        self.waiting_count.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiting_count);
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if fits() {
                return turn;
            }
            freed.await;
        }
    }

    fn wake(&self) {
        if self.waiting_count.load(Ordering::SeqCst) > 0 {
            self.freed.notify_waiters();
        }
    }
}

/// The room of the process.
#[derive(Debug)]
pub struct ProcessRoom {
    limits: RoomLimits,
    used: AtomicUsize,
    /// Those who reserve.
    large: Line,
    /// Those whose answers are small.
    small: Line,
    /// Cancelled when nobody may wait any longer.
    draining: CancellationToken,
}

impl ProcessRoom {
    /// Empty. Once the server drains, nobody waits for room.
    pub fn new(limits: RoomLimits, draining: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            limits,
            draining,
            used: AtomicUsize::new(0),
            large: Line::default(),
            small: Line::default(),
        })
    }

    /// How many bytes are taken.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// Three quarters are taken: from now on only connections that have read everything get more room.
    pub fn is_crowded(&self) -> bool {
        self.used() > self.crowded_at()
    }

    fn crowded_at(&self) -> usize {
        self.limits.process_bytes_max / 4 * 3
    }

    fn is_full(&self) -> bool {
        self.used() > self.limits.process_bytes_max
    }

    /// What `room` returns when there is room; an error if the deadline passes first. If there is room at once, the deadline
    /// does not matter.
    async fn wait<T>(
        &self,
        room: impl Future<Output = T>,
        deadline: Instant,
    ) -> Result<T, RpcError> {
        tokio::select! {
            biased;
            room = room => Ok(room),
            () = self.draining.cancelled() => Err(RpcError::Failure(Failure::ShuttingDown)),
            () = tokio::time::sleep_until(deadline) => Err(RpcError::Unread),
        }
    }

    fn try_take(&self, bytes: usize, limit: usize) -> bool {
        let taken = |used: usize| (used == 0 || used + bytes <= limit).then_some(used + bytes);
        let order = Ordering::SeqCst;
        self.used.fetch_update(order, order, taken).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::SeqCst);
        self.large.wake();
        self.small.wake();
    }
}

/// The room of one connection.
#[derive(Debug)]
pub struct Room {
    process: Arc<ProcessRoom>,
    /// Bytes of answers that are not made yet.
    reserved: AtomicUsize,
    /// Bytes of answers that were made, counted since the beginning, modulo the size of the counter.
    handed: AtomicUsize,
    /// Of these, those that were written or thrown away.
    freed: AtomicUsize,
    large: Line,
    small: Line,
}

impl Room {
    /// The room of a connection of this process.
    pub fn new(process: Arc<ProcessRoom>) -> Arc<Self> {
        Arc::new(Self {
            process,
            reserved: AtomicUsize::new(0),
            handed: AtomicUsize::new(0),
            freed: AtomicUsize::new(0),
            large: Line::default(),
            small: Line::default(),
        })
    }

    /// Bytes of answers that were made and wait to be read.
    pub fn unread(&self) -> usize {
        // In this order: what is freed was handed over before.
        let freed = self.freed.load(Ordering::SeqCst);
        self.handed.load(Ordering::SeqCst).wrapping_sub(freed)
    }

    /// A number that changes whenever something was read.
    pub fn freed(&self) -> usize {
        self.freed.load(Ordering::Relaxed)
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

    /// Whether requests of this connection have to wait.
    pub fn has_place(&self) -> bool {
        !self.is_full() && !self.is_held_up_by_others()
    }

    /// Completes when a request with a small answer may begin.
    pub async fn place(&self) {
        loop {
            if self.is_full() {
                drop(self.small.turn(|| !self.is_full()).await);
            } else if self.is_held_up_by_others() {
                drop(self.process.small.turn(|| !self.process.is_full()).await);
            } else {
                return;
            }
        }
    }

    /// The room of the call's connection.
    pub fn of<T>(request: &Request<T>) -> Result<Arc<Self>, RpcError> {
        let call = request.extensions().get::<Call>();
        Ok(call.ok_or(RpcError::Unread)?.room.clone())
    }

    /// Reserves room for an answer of up to so many bytes; waits for it until the call's deadline.
    ///
    /// Cancel safe: a caller that leaves reserves nothing.
    pub async fn reserve<T>(request: &Request<T>, bytes: usize) -> Result<Reserved, RpcError> {
        let call = request.extensions().get::<Call>();
        let call = call.ok_or(RpcError::Unread)?;
        let reserved = call.room.clone().reserved(bytes);
        let waited = call.room.process.wait(reserved, call.deadline()).await;
        waited.map_err(|error| match error {
            // Its time was over before it had its turn, and not for lack of room.
            RpcError::Unread if call.room.fits(bytes) => RpcError::Failure(Failure::Deadline {
                outcome_unknown: false,
            }),
            error => error,
        })
    }

    /// Whether an answer of this size has room now.
    fn fits(&self, bytes: usize) -> bool {
        let limits = self.process.limits;
        let has_room =
            self.used() + bytes.min(limits.connection_bytes_max) <= limits.connection_bytes_max;
        has_room && self.process.used() + bytes <= self.process.crowded_at()
    }

    async fn reserved(self: Arc<Self>, bytes: usize) -> Reserved {
        let RoomLimits {
            connection_bytes_max,
            process_bytes_max,
        } = self.process.limits;
        let bytes = bytes.min(connection_bytes_max);
        let fits = || self.used() == 0 || self.used() + bytes <= connection_bytes_max;
        let turn = self.large.turn(fits).await;
        let limit = match self.used() {
            0 => process_bytes_max,
            _ => self.process.crowded_at(),
        };
        let mut reserved = Reserved {
            room: self.clone(),
            bytes: 0,
        };
        // Those who fit go first: a connection that reads does not queue behind those that do not.
        if !self.process.try_take(bytes, limit) {
            let fits = || self.process.try_take(bytes, limit);
            drop(self.process.large.turn(fits).await);
        }
        self.reserved.fetch_add(bytes, Ordering::SeqCst);
        reserved.bytes = bytes;
        drop(turn);
        reserved
    }

    /// Counts an answer that is made, whether there is room or not.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        self.handed.fetch_add(bytes, Ordering::SeqCst);
        self.process.used.fetch_add(bytes, Ordering::SeqCst);
        Held {
            room: self.clone(),
            bytes,
        }
    }

    fn wake(&self) {
        self.large.wake();
        self.small.wake();
    }
}

/// Room for an answer that is being made. Dropping it gives back what was not handed over.
#[derive(Debug)]
pub struct Reserved {
    room: Arc<Room>,
    bytes: usize,
}

impl Reserved {
    /// Room for an answer that is small, or whose size nobody knows.
    pub fn nothing(room: Arc<Room>) -> Self {
        Self { room, bytes: 0 }
    }

    /// The answer that it was reserved for.
    pub fn answer<T>(self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        let reserved = Arc::new(std::sync::Mutex::new(Some(self)));
        response.extensions_mut().insert(Carried(reserved));
        response
    }

    /// What an RPC reserved for this response; nothing if it reserved nothing.
    pub fn take_from<B>(response: &mut http::Response<B>, room: &Arc<Room>) -> Self {
        let carried = response.extensions_mut().remove::<Carried>();
        let reserved = carried.and_then(|carried| carried.0.lock().ok()?.take());
        reserved.unwrap_or_else(|| Self::nothing(room.clone()))
    }

    /// Hands over bytes of the answer. Beyond what was reserved, they are counted all the same. The first bytes are all that
    /// an answer with a reservation has, so the rest of that is given back.
    pub fn hand(&mut self, bytes: Bytes) -> Counted {
        let size = bytes.len();
        let from_reserved = size.min(self.bytes);
        if from_reserved > 0 {
            self.bytes -= from_reserved;
            self.room.handed.fetch_add(from_reserved, Ordering::SeqCst);
            self.room
                .reserved
                .fetch_sub(from_reserved, Ordering::SeqCst);
            self.give_back();
        }
        let mut held = self.room.hold(size - from_reserved);
        held.bytes = size;
        Counted { bytes, _held: held }
    }

    fn give_back(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes > 0 {
            self.room.reserved.fetch_sub(bytes, Ordering::SeqCst);
            self.room.process.give_back(bytes);
            self.room.wake();
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.give_back();
    }
}
/// How a reservation gets from its RPC to the body of the response: extensions have to be cloned.
#[derive(Debug, Clone)]
struct Carried(Arc<std::sync::Mutex<Option<Reserved>>>);

/// Bytes that are counted for as long as it lives.
#[derive(Debug)]
pub struct Held {
    room: Arc<Room>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.freed.fetch_add(self.bytes, Ordering::SeqCst);
        self.room.process.give_back(self.bytes);
        self.room.wake();
    }
}

/// Bytes of an answer on their way through HTTP/2, which drops them when they are written.
#[derive(Debug)]
pub struct Counted {
    bytes: Bytes,
    _held: Held,
}

impl Buf for Counted {
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

/// Waits until a request with a small answer may begin, at most until its deadline.
pub(super) async fn place(room: &Room, deadline: Instant) -> Result<(), RpcError> {
    if room.has_place() {
        return Ok(());
    }
    room.process.wait(room.place(), deadline).await
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn process() -> Arc<ProcessRoom> {
        let limits = RoomLimits {
            connection_bytes_max: 100_000,
            process_bytes_max: 400_000,
        };
        ProcessRoom::new(limits, CancellationToken::new())
    }

    fn bytes(size: usize) -> Bytes {
        vec![0; size].into()
    }

    #[tokio::test]
    async fn what_is_reserved_handed_over_and_read_is_given_back() {
        let process = process();
        let room = Room::new(process.clone());
        let mut reserved = room.clone().reserved(50_000).await;
        assert_eq!((process.used(), room.unread()), (50_000, 0));
        let first = reserved.hand(bytes(20_000));
        assert_eq!((process.used(), room.unread()), (20_000, 20_000));
        let more_than_reserved = reserved.hand(bytes(40_000));
        assert_eq!((process.used(), room.unread()), (60_000, 60_000));
        drop((first, reserved));
        assert_eq!((process.used(), room.unread()), (40_000, 40_000));
        drop(more_than_reserved);
        assert_eq!((process.used(), room.unread(), room.used()), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_connection_that_does_not_read_waits_and_another_goes_on() {
        let process = process();
        let (room, other) = (Room::new(process.clone()), Room::new(process.clone()));
        let mut reserved = room.clone().reserved(60_000).await;
        let mut second = tokio::spawn(room.clone().reserved(60_000));
        tokio::task::yield_now().await;
        assert!((&mut second).now_or_never().is_none(), "no room");
        other.clone().reserved(60_000).await;
        let unread = reserved.hand(bytes(60_000));
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
        let room = Room::new(process.clone());
        let reserved = room.clone().reserved(100_000).await;
        let waiting = tokio::spawn(room.clone().reserved(10));
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.is_err_and(|error| error.is_cancelled()));
        drop(reserved);
        assert_eq!((process.used(), room.used()), (0, 0));
        drop(room.clone().reserved(100_000).await);
    }

    #[tokio::test]
    async fn small_answers_hold_up_the_next_requests_of_their_connection() {
        let process = process();
        let room = Room::new(process.clone());
        let unread: Vec<_> = (0..101).map(|_| room.hold(1_000)).collect();
        assert!(!room.has_place());
        assert!(room.place().now_or_never().is_none());
        assert!(Room::new(process).has_place(), "another connection");
        drop(unread);
        room.place().await;
    }

    #[tokio::test]
    async fn when_the_process_is_full_whoever_has_read_everything_goes_on() {
        let process = process();
        let readers: Vec<_> = (0..5).map(|_| Room::new(process.clone())).collect();
        let unread: Vec<_> = readers.iter().map(|room| room.hold(90_000)).collect();
        assert!(readers.iter().all(|room| !room.has_place()));
        let innocent = Room::new(process.clone());
        assert!(innocent.has_place());
        let waiting = tokio::spawn(innocent.reserved(50_000));
        tokio::task::yield_now().await;
        drop(unread);
        drop(waiting.await.expect("no panic"));
        assert_eq!(process.used(), 0);
    }
}
