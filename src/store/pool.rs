//! Pools: how connections are made, what they are set to, and how long anyone waits for one.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool_postgres::{
    Client, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod,
    Runtime, Timeouts,
};
use tokio::time::Instant;
use tokio_postgres::NoTls;

/// How the store reaches its database.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// A connection string or URL as libpq knows it.
    pub database_url: String,
    /// Connections of the write path; each runs one batch at a time.
    pub batch_connections: usize,
    /// Connections for reads and for opening accounts.
    pub request_connections: usize,
    /// How transactions that write are kept apart.
    pub isolation: Isolation,
    /// Whether a commit may be answered that a crash could lose. Without, a session turns synchronous_commit on.
    pub allow_data_loss: bool,
    /// The longest that one statement may run.
    pub statement_timeout_ms: u64,
    /// The longest that a new connection may take, and that a batch waits for a free one. Requests wait until their
    /// deadlines.
    pub connect_timeout_ms: u64,
}

/// How transactions that write are kept apart. The answers are the same; what differs is who proves it: Ballast's locks
/// alone, or PostgreSQL too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// Row locks, and every statement sees what was committed before it.
    #[default]
    ReadCommitted,
    /// The same locks on one snapshot for each transaction; PostgreSQL aborts what no serial order explains, and it is
    /// repeated.
    Serializable,
}

impl Isolation {
    /// Begins a transaction. Sessions have READ COMMITTED by default, see [`Session::settings`]: to set it again in each
    /// transaction is work for PostgreSQL.
    pub(super) fn begin(self) -> &'static str {
        match self {
            Self::ReadCommitted => "BEGIN",
            Self::Serializable => "BEGIN ISOLATION LEVEL SERIALIZABLE",
        }
    }
}

/// Why no pool can be built.
#[derive(Debug, thiserror::Error)]
pub enum StoreConfigError {
    /// The URL is not one.
    #[error(
        "--database-url is not valid ({}); write it like postgresql://user:password@host:5432/ballast",
        super::error::with_source(.0)
    )]
    Url(#[from] tokio_postgres::Error),
    /// The pool's own settings contradict each other.
    #[error("connection pool: {0}")]
    Pool(#[from] deadpool_postgres::BuildError),
}

/// After this long without a word inside a transaction, PostgreSQL ends it: its instance went silent holding locks.
const IDLE_IN_TRANSACTION_TIMEOUT_MS: u64 = 10_000;

/// For a session whose role or database had it switched off after the start, where it is checked. Other values are stronger.
const COMMIT_DURABLY: &str = "SELECT set_config('synchronous_commit', 'on', false)
                              WHERE current_setting('synchronous_commit') = 'off'";

/// Sees to it that a database that went away without a word (a killed machine, a moved address) is noticed in some ten
/// seconds, not in the hours that TCP grants.
pub(super) fn bound_silence(config: &mut tokio_postgres::Config, connect_timeout: Duration) {
    config
        .connect_timeout(connect_timeout)
        .tcp_user_timeout(Duration::from_secs(10))
        .keepalives(true)
        .keepalives_idle(Duration::from_secs(5))
        .keepalives_interval(Duration::from_secs(2))
        .keepalives_retries(3);
}

/// What the connections of a pool are set to.
#[derive(Debug, Clone, Copy)]
pub enum Session {
    /// Those of the write path.
    Batches,
    /// Those of the reads, and of opening accounts.
    Requests,
}

impl Session {
    /// The settings, as SQL.
    ///
    /// Index plans are pinned: a join with `unnest` is misestimated and turns into a scan of the whole table as
    /// statistics please. Every statement has an index for each of its keys.
    pub fn settings(self, statement_timeout_ms: u64) -> String {
        let common = format!(
            "SET statement_timeout = {statement_timeout_ms};
             SET default_transaction_isolation = 'read committed';
             SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_TIMEOUT_MS};
             SET plan_cache_mode = force_generic_plan; SET jit = off; SET enable_seqscan = off"
        );
        let lock_timeout_ms = super::write::LOCK_TIMEOUT
            .as_millis()
            .min(u128::from(statement_timeout_ms));
        match self {
            Self::Batches => format!(
                "{common}; SET lock_timeout = {lock_timeout_ms};
                 SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off;
                 SET enable_bitmapscan = off"
            ),
            Self::Requests => common,
        }
    }

    /// A lane has a connection of its own; requests queue for theirs, each for as long as its caller waits.
    fn wait_max(self, connect_timeout: Duration) -> Option<Duration> {
        match self {
            Self::Batches => Some(connect_timeout),
            Self::Requests => None,
        }
    }

    fn application_name(self) -> &'static str {
        match self {
            Self::Batches => "ballast batches",
            Self::Requests => "ballast requests",
        }
    }
}

/// A pool that says at debug level who takes a connection and when it comes back. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    name: &'static str,
    pool: Pool,
    in_use: Arc<AtomicUsize>,
}

impl Connections {
    pub(super) fn new(
        name: &'static str,
        config: &StoreConfig,
        session: Session,
        size: usize,
    ) -> Result<Self, StoreConfigError> {
        Ok(Self {
            name,
            pool: pool(config, session, size)?,
            in_use: Arc::default(),
        })
    }

    /// A connection of the pool, a new one if all are in use and there may be more.
    pub(super) async fn get(&self) -> Result<Connection, PoolError> {
        let asked = Instant::now();
        let client = self.pool.get().await?;
        let (pool, taken) = (self.name, Instant::now());
        let in_use = self.in_use.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::debug!(
            pool,
            wait_us = micros(taken - asked),
            in_use,
            "connection taken"
        );
        Ok(Connection {
            client: Some(client),
            pool,
            in_use: self.in_use.clone(),
            taken,
        })
    }

    /// Hands out no more connections, and closes each when it comes back.
    pub(super) fn close(&self) {
        self.pool.close();
    }
}

/// A connection in use. It goes back to its pool when it is dropped, unless it is discarded.
#[derive(Debug)]
pub(super) struct Connection {
    client: Option<Client>,
    pool: &'static str,
    in_use: Arc<AtomicUsize>,
    taken: Instant,
}

impl Connection {
    /// Closes the connection; its pool makes a new one when it needs one.
    pub(super) fn discard(mut self) {
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
            self.leave("connection discarded");
        }
    }

    fn leave(&self, message: &str) {
        let in_use = self.in_use.fetch_sub(1, Ordering::Relaxed) - 1;
        let (pool, taken) = (self.pool, self.taken);
        tracing::debug!(pool, used_us = micros(taken.elapsed()), in_use, "{message}");
    }
}

impl Deref for Connection {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client.as_ref().expect("only drop and discard take it")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            drop(client);
            self.leave("connection returned");
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn pool(config: &StoreConfig, session: Session, size: usize) -> Result<Pool, StoreConfigError> {
    let mut postgres: tokio_postgres::Config = config.database_url.parse()?;
    let timeout = Duration::from_millis(config.connect_timeout_ms);
    postgres.application_name(session.application_name());
    bound_silence(&mut postgres, timeout);
    let mut settings = session.settings(config.statement_timeout_ms);
    if !config.allow_data_loss {
        settings = format!("{settings}; {COMMIT_DURABLY}");
    }
    let settings: Arc<str> = settings.into();
    let manager_config = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let pool = Pool::builder(Manager::from_config(postgres, NoTls, manager_config))
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .timeouts(Timeouts {
            wait: session.wait_max(timeout),
            create: Some(timeout),
            recycle: Some(timeout),
        })
        .post_create(Hook::async_fn(move |client, _| {
            let settings = settings.clone();
            Box::pin(async move {
                client
                    .batch_execute(&settings)
                    .await
                    .map_err(HookError::Backend)
            })
        }))
        .build()?;
    Ok(pool)
}
