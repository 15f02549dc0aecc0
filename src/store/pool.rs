//! Pools: how connections are made, and what they are set to. Who gets one is the matter of [`super::connections`].

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts,
};
use tokio_postgres::NoTls;

/// How long a statement of a batch may wait for a lock. Rows that are locked elsewhere are skipped, so what is left to wait
/// for is an operation id that another transaction is about to record, or a table that is being altered.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

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
    /// How many categories an account may have, `main` included. One that has more from before keeps them and gets no new
    /// one.
    pub categories_per_account_max: usize,
    /// The longest that one statement may run.
    pub statement_timeout_ms: u64,
    /// The longest that a new connection may take, with its settings. No caller's deadline cuts it short.
    pub connect_timeout_ms: u64,
    /// The most requests that wait for a connection; beyond it callers get OVERLOADED.
    pub request_queue_depth_max: usize,
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

/// Makes Ballast notice within some ten seconds that a database went away silently (a killed machine, a moved address). TCP
/// alone would take hours.
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
        let lock_timeout_ms = LOCK_TIMEOUT
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

    /// A lane has a connection of its own, and waits only for a new one; requests queue for theirs, each for as long as
    /// its caller waits.
    pub(super) fn wait_max(self, connect_timeout: Duration) -> Option<Duration> {
        match self {
            Self::Batches => Some(connect_timeout),
            Self::Requests => None,
        }
    }

    /// Batches that follow each other are faster on two connections in turns than on one, so the second one is made before
    /// anybody needs it.
    pub(super) fn keeps_a_spare(self) -> bool {
        match self {
            Self::Batches => true,
            Self::Requests => false,
        }
    }

    /// The most that wait for a connection. There are never more lanes than connections for them.
    pub(super) fn line_max(self, config: &StoreConfig) -> usize {
        match self {
            Self::Batches => usize::MAX,
            Self::Requests => config.request_queue_depth_max,
        }
    }
}

/// A pool that makes connections of a kind, at most so many at a time. Whoever asks it waits for as long as that takes.
pub(super) fn pool(
    name: &str,
    config: &StoreConfig,
    session: Session,
    size: usize,
) -> Result<Pool, StoreConfigError> {
    let mut postgres: tokio_postgres::Config = config.database_url.parse()?;
    let timeout = Duration::from_millis(config.connect_timeout_ms);
    postgres.application_name(format!("ballast {name}"));
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
            wait: Some(timeout),
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
