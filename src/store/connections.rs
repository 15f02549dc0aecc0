//! Connections: who has one, who waits for one, and who makes a new one.
//!
//! Callers wait in one line and are served in the order of their arrival. A caller that leaves the line, such as at its
//! deadline, stops nothing: a connection is made by a task of the pool, with a time limit of its own, and goes to the caller
//! that is first in the line then. A connection that comes back serves the next one, also while a new one is being made.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_postgres::{Client, Object, Pool};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::cancel;
use super::error::StoreError;
use super::pool::{self, Session, StoreConfig, StoreConfigError};

/// The pause after a connection could not be made, while others of the pool work and serve the line.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(200);

/// The connections of one pool. Cheap to clone. At debug level it says who takes one, and when it comes back.
#[derive(Clone, Debug)]
pub(super) struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: &'static str,
    /// Makes connections. What it made is kept here, not there.
    pool: Pool,
    /// Where the database is.
    address: tokio_postgres::Config,
    size: usize,
    connect_timeout: Duration,
    /// The longest wait for a connection; `None`: the caller's deadline bounds it.
    wait_max: Option<Duration>,
    line_max: usize,
    /// Whether there is one idle connection, if there may be: see [`Session::keeps_a_spare`].
    keeps_a_spare: bool,
    stock: Mutex<Stock>,
    /// One permit for each idle connection: the line of those who wait for one.
    ready: Semaphore,
    /// How many wait.
    line: AtomicUsize,
    /// Tells the line that no connection can be made and none is left to wait for.
    failures: watch::Sender<Option<StoreError>>,
    in_use: AtomicUsize,
}

/// What there is.
#[derive(Debug, Default)]
struct Stock {
    idle: VecDeque<Made>,
    /// Connections that are idle or in use.
    total: usize,
    /// Tasks that make one.
    making: usize,
    /// Connections of an older generation are closed instead of being used again.
    generation: u64,
    is_closed: bool,
}

#[derive(Debug)]
struct Made {
    client: Client,
    generation: u64,
}

impl Connections {
    pub(super) fn new(
        name: &'static str,
        config: &StoreConfig,
        session: Session,
        size: usize,
    ) -> Result<Self, StoreConfigError> {
        let connect_timeout = Duration::from_millis(config.connect_timeout_ms);
        Ok(Self(Arc::new(Shared {
            name,
            pool: pool::pool(name, config, session, size)?,
            address: config.database_url.parse()?,
            size,
            connect_timeout,
            wait_max: session.wait_max(connect_timeout),
            line_max: session.line_max(config),
            keeps_a_spare: session.keeps_a_spare(),
            stock: Mutex::default(),
            ready: Semaphore::new(0),
            line: AtomicUsize::new(0),
            failures: watch::Sender::new(None),
            in_use: AtomicUsize::new(0),
        })))
    }

    /// A connection: an idle one, else the next that comes back or is made. Cancel safe: to give up waiting costs only the
    /// place in the line.
    pub(super) async fn get(&self) -> Result<Connection, StoreError> {
        let shared = &self.0;
        let asked = Instant::now();
        let Some(wait_max) = shared.wait_max else {
            return shared.wait().await.map(|made| self.taken(made, asked));
        };
        match tokio::time::timeout(wait_max, shared.wait()).await {
            Ok(made) => Ok(self.taken(made?, asked)),
            Err(_elapsed) => Err(StoreError::unavailable(format!(
                "no connection within {wait_max:?}"
            ))),
        }
    }

    fn taken(&self, made: Made, asked: Instant) -> Connection {
        if self.0.keeps_a_spare {
            self.0.make_a_spare();
        }
        let (pool, taken) = (self.0.name, Instant::now());
        let in_use = self.0.in_use.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::debug!(
            pool,
            wait_us = micros(taken - asked),
            in_use,
            "connection taken"
        );
        Connection {
            made: Some(made),
            pool: self.0.clone(),
            taken,
            is_spoiled: AtomicBool::new(false),
        }
    }

    /// Closes all connections: idle ones now, those in use when they come back. New ones look the address of the
    /// database up again and begin with its current settings.
    pub(super) fn renew(&self) {
        self.0.stock().generation += 1;
        self.0.sweep();
    }

    /// Hands out no more connections, and closes each when it comes back.
    pub(super) fn close(&self) {
        self.0.stock().is_closed = true;
        self.0.ready.close();
        self.0.sweep();
        self.0.pool.close();
    }
}

impl Shared {
    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait(self: &Arc<Self>) -> Result<Made, StoreError> {
        loop {
            match self.ready.try_acquire() {
                Ok(permit) => permit.forget(),
                Err(_none_or_closed) => self.stand_in_line().await?,
            }
            if let Some(made) = self.take_idle() {
                return Ok(made);
            }
        }
    }

    /// Comes back with the right to one idle connection.
    async fn stand_in_line(self: &Arc<Self>) -> Result<(), StoreError> {
        let _place = InLine::enter(&self.line, self.line_max).ok_or(StoreError::Exhausted)?;
        let mut failures = self.failures.subscribe();
        self.make_if_needed();
        tokio::select! {
            biased;
            permit = self.ready.acquire() => match permit {
                Ok(permit) => permit.forget(),
                Err(_closed) => return Err(StoreError::unavailable("the pool is closed")),
            },
            _ = failures.changed() => {
                let failure = failures.borrow_and_update().clone();
                return Err(failure.unwrap_or_else(|| StoreError::unavailable("no connection")));
            }
        }
        Ok(())
    }

    /// The idle connection of a permit; `None` if it cannot be used any more.
    fn take_idle(self: &Arc<Self>) -> Option<Made> {
        let mut stock = self.stock();
        let made = stock.idle.pop_front()?;
        if made.is_usable(&stock) {
            return Some(made);
        }
        stock.total -= 1;
        drop(stock);
        made.close();
        None
    }

    /// Gives a connection to whoever is first in the line, or keeps it for the next.
    fn give(self: &Arc<Self>, made: Made) {
        let mut stock = self.stock();
        if made.is_usable(&stock) {
            stock.idle.push_back(made);
            drop(stock);
            self.ready.add_permits(1);
        } else {
            drop(stock);
            self.lose(made);
        }
    }

    /// Closes a connection that was in use. The line may need another one.
    fn lose(self: &Arc<Self>, made: Made) {
        self.stock().total -= 1;
        made.close();
        self.make_if_needed();
    }

    /// Closes the idle connections that cannot be used any more.
    fn sweep(&self) {
        let mut useless = Vec::new();
        let mut stock = self.stock();
        for made in std::mem::take(&mut stock.idle) {
            match made.is_usable(&stock) {
                true => stock.idle.push_back(made),
                false => useless.push(made),
            }
        }
        stock.total -= useless.len();
        self.ready.forget_permits(useless.len());
        drop(stock);
        useless.into_iter().for_each(Made::close);
    }

    /// Starts to make a connection if more callers wait than connections are being made, and the limit allows another one.
    fn make_if_needed(self: &Arc<Self>) {
        let mut stock = self.stock();
        let is_needed = self.may_be_needed(&stock)
            && stock.making < self.line.load(Ordering::Relaxed)
            && stock.total + stock.making < self.size;
        // Without a runtime the process ends.
        if let (true, Ok(runtime)) = (is_needed, Handle::try_current()) {
            stock.making += 1;
            runtime.spawn(self.clone().make());
        }
    }

    /// Has a connection made if the last idle one was taken.
    fn make_a_spare(self: &Arc<Self>) {
        let mut stock = self.stock();
        let is_wanted = !stock.is_closed
            && stock.idle.is_empty()
            && stock.making == 0
            && stock.total < self.size;
        if let (true, Ok(runtime)) = (is_wanted, Handle::try_current()) {
            stock.making += 1;
            runtime.spawn(self.clone().make());
        }
    }

    fn may_be_needed(&self, stock: &Stock) -> bool {
        !stock.is_closed && self.line.load(Ordering::Relaxed) > 0
    }

    /// Makes a connection. If that fails, tries again after a pause, or tells the line if it waits for nothing else.
    async fn make(self: Arc<Self>) {
        while let Err(Unmade) = self.try_to_make().await {
            tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            let mut stock = self.stock();
            if !self.may_be_needed(&stock) {
                stock.making -= 1;
                return;
            }
        }
    }

    /// An error: it is worth another try. Otherwise this is one maker less.
    async fn try_to_make(self: &Arc<Self>) -> Result<(), Unmade> {
        let generation = self.stock().generation;
        let made = tokio::time::timeout(self.connect_timeout, self.pool.get()).await;
        let client = match made {
            Ok(made) => made.map_err(StoreError::from),
            Err(_elapsed) => Err(StoreError::unavailable(format!(
                "connecting took longer than {:?}",
                self.connect_timeout
            ))),
        };
        let mut stock = self.stock();
        match client {
            Ok(client) => {
                stock.making -= 1;
                stock.total += 1;
                drop(stock);
                self.give(Made { client, generation });
                self.make_if_needed();
                Ok(())
            }
            Err(error) if stock.total == 0 => {
                stock.making -= 1;
                // Under the lock: whoever enters the line after this finds one maker less.
                self.failures.send_replace(Some(error));
                Ok(())
            }
            Err(error) => {
                tracing::debug!(pool = self.name, %error, "no further connection could be made");
                Err(Unmade)
            }
        }
    }
}

/// A connection could not be made, and the line has others to wait for.
struct Unmade;

impl Made {
    fn is_usable(&self, stock: &Stock) -> bool {
        !stock.is_closed && self.generation == stock.generation && !self.client.is_closed()
    }

    fn close(self) {
        drop(Object::take(self.client));
    }
}

/// A place in the line.
struct InLine<'a>(&'a AtomicUsize);

impl<'a> InLine<'a> {
    fn enter(line: &'a AtomicUsize, max: usize) -> Option<Self> {
        let place = Self(line);
        (line.fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection in use. It goes back to its pool when it is dropped, unless it is spoiled.
#[derive(Debug)]
pub(super) struct Connection {
    made: Option<Made>,
    pool: Arc<Shared>,
    taken: Instant,
    is_spoiled: AtomicBool,
}

impl Connection {
    /// Closes the connection instead of giving it back; its pool makes a new one when it needs one.
    pub(super) fn spoil(&self) {
        self.is_spoiled.store(true, Ordering::Relaxed);
    }

    /// From now on a transaction may be open on it: whatever happens, nobody may find it in the pool. To be taken back with
    /// [`Connection::ended`].
    pub(super) fn begins(&self) {
        self.spoil();
    }

    /// No transaction is open any more.
    pub(super) fn ended(&self) {
        self.is_spoiled.store(false, Ordering::Relaxed);
    }

    /// Asks PostgreSQL to end the statement that runs on it. True: that is over, and will not hit a later statement.
    pub(super) async fn cancel(&self) -> bool {
        let shared = &self.pool;
        let cancelled = cancel::cancel(&shared.address, self.cancel_token());
        let cancelled = tokio::time::timeout(shared.connect_timeout, cancelled).await;
        matches!(cancelled, Ok(Ok(())))
    }

    /// Closes the connection at once.
    pub(super) fn discard(self) {
        self.spoil();
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        let made = self.made.as_ref();
        &made.expect("only drop takes it").client
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(made) = self.made.take() else {
            return;
        };
        let in_use = self.pool.in_use.fetch_sub(1, Ordering::Relaxed) - 1;
        let (pool, used_us) = (self.pool.name, micros(self.taken.elapsed()));
        // A panic may have left it in the middle of anything.
        if self.is_spoiled.load(Ordering::Relaxed) || std::thread::panicking() {
            self.pool.lose(made);
            tracing::debug!(pool, used_us, in_use, "connection discarded");
        } else {
            self.pool.give(made);
            tracing::debug!(pool, used_us, in_use, "connection returned");
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
