//! A Ballast under test: the server of the library, in this process, on a database of its own.

use std::net::SocketAddr;
use std::time::Duration;

use ballast::batcher::BatcherConfig;
use ballast::rpc::proto::account_service_client::AccountServiceClient;
use ballast::rpc::proto::balance_service_client::BalanceServiceClient;
use ballast::server::{Ended, NetworkLimits, Server, ServerConfig};
use ballast::store::{Isolation, Retries, StoreConfig, verify};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use super::PATIENCE;
use super::postgres::Database;

pub type Accounts = AccountServiceClient<Channel>;
pub type Balances = BalanceServiceClient<Channel>;

/// A running server, and clients for it.
pub struct Ballast {
    pub accounts: Accounts,
    pub balances: Balances,
    pub address: SocketAddr,
    /// The JSON endpoint's, if it has one.
    pub json_address: Option<SocketAddr>,
    pub database: std::sync::Arc<Database>,
    /// How often its transactions conflicted with others and were repeated.
    pub retries: Retries,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Ended>,
}

/// How long a stop of a server under test may take.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// A stop that takes longer than this waited for something that it need not wait for.
pub const PROMPT_STOP: Duration = Duration::from_secs(30);

/// Chooses the isolation of every Ballast that a test starts, as `--isolation` does; default `read-committed`.
pub const ISOLATION: &str = "BALLAST_TEST_ISOLATION";

/// The isolation that the environment chose for this run.
pub fn isolation() -> Isolation {
    match std::env::var(ISOLATION).as_deref() {
        Err(_) | Ok("read-committed") => Isolation::ReadCommitted,
        Ok("serializable") => Isolation::Serializable,
        Ok(other) => panic!("{ISOLATION} is {other:?}"),
    }
}

/// The configuration of a server under test, on a free port. Its limits are long: a busy machine is no reason to fail. A test
/// of a limit sets its own.
pub fn config(database_url: String) -> ServerConfig {
    ServerConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        json_listen: None,
        store: StoreConfig {
            database_url,
            batch_connections: 4,
            request_connections: 4,
            isolation: isolation(),
            allow_data_loss: false,
            categories_per_account_max: 256,
            statement_timeout_ms: 30_000,
            connect_timeout_ms: 20_000,
            request_queue_depth_max: 10_000,
        },
        batcher: BatcherConfig {
            lanes: 2,
            lock_wait_connections: 2,
            batch_size_max: 500,
            queue_depth_max: 10_000,
            lock_wait_max: Duration::from_secs(30),
        },
        request_timeout_max: Duration::from_secs(60),
        card_timeout: Duration::from_secs(20),
        drain_timeout: DRAIN_TIMEOUT,
        connection_count_max: 1_000,
        network: NetworkLimits::default(),
    }
}

impl Ballast {
    /// On a fresh database.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// On a fresh database, configured differently.
    pub async fn start_with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::start_on(Database::migrated().await.into(), change).await
    }

    /// Another instance on the same database.
    pub async fn sibling(&self) -> Self {
        Self::start_on(self.database.clone(), |_| {}).await
    }

    pub async fn start_on(
        database: std::sync::Arc<Database>,
        change: impl FnOnce(&mut ServerConfig),
    ) -> Self {
        let mut config = config(database.url());
        change(&mut config);
        let server = Server::bind(config).await.expect("a server starts");
        let address = server.address();
        let json_address = server.json_address();
        let retries = server.observer().retries().clone();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async move {
            // Dropped without a word is a stop too.
            let _dropped = stopped.await;
        }));
        let channel = channel(address);
        Self {
            accounts: AccountServiceClient::new(channel.clone()),
            balances: BalanceServiceClient::new(channel),
            address,
            json_address,
            database,
            retries,
            stop: Some(stop),
            running,
        }
    }

    /// Tells it to stop, as SIGTERM does.
    pub fn begin_to_stop(&mut self) {
        self.stop.take();
    }

    /// Stops it and says whether everything was answered in time.
    pub async fn stopped(mut self) -> bool {
        self.begin_to_stop();
        self.running.await.expect("the server does not panic") == Ended::Drained
    }

    /// Recomputes the whole ledger, and expects it in order.
    pub async fn assert_in_order(&self) {
        let report = verify::run(&self.database.sql().await)
            .await
            .expect("the verification runs");
        assert_eq!(report.findings, Vec::<String>::new());
    }

    /// A client on a connection of its own.
    pub fn own_balances(&self) -> Balances {
        BalanceServiceClient::new(channel(self.address))
    }
}

/// Locks that somebody outside holds, as from psql, until it is released or dropped.
pub struct OutsideLock(tokio_postgres::Client);

impl OutsideLock {
    pub async fn release(self) {
        self.0.batch_execute("ROLLBACK").await.expect("unlocked");
    }

    /// Lets what the statement did happen.
    pub async fn commit(self) {
        self.0.batch_execute("COMMIT").await.expect("committed");
    }
}

impl Ballast {
    /// Locks all balances of an account from outside.
    pub async fn lock(&self, account_id: &str) -> OutsideLock {
        self.lock_with(&format!(
            "SELECT 1 FROM balances WHERE account_id = '{account_id}' FOR UPDATE"
        ))
        .await
    }

    /// Holds the locks that a statement takes.
    pub async fn lock_with(&self, statement: &str) -> OutsideLock {
        let sql = self.database.sql().await;
        sql.batch_execute(&format!("BEGIN; {statement}"))
            .await
            .expect("locked");
        OutsideLock(sql)
    }

    /// Somebody who sees who waits for locks.
    pub async fn observer(&self) -> Observer {
        Observer(self.database.sql().await)
    }

    /// See [`Observer::until_waiting`].
    pub async fn until_waiting(&self, is_enough: impl Fn(i64) -> bool) {
        self.observer().await.until_waiting(is_enough).await;
    }
}

/// A connection that sees who waits for locks. Making one takes a while.
pub struct Observer(tokio_postgres::Client);

impl Observer {
    /// Comes back when the number of statements that wait for a lock has become what `is_enough` wants.
    pub async fn until_waiting(&self, is_enough: impl Fn(i64) -> bool) {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let end = tokio::time::Instant::now() + PATIENCE;
        while !is_enough(
            self.0
                .query_one(waiting, &[])
                .await
                .expect("a count")
                .get(0),
        ) {
            let in_time = tokio::time::Instant::now() < end;
            assert!(
                in_time,
                "the statements that wait for a lock stayed too many or too few"
            );
            tokio::task::yield_now().await;
        }
    }
}

/// A channel that connects when it is first used.
pub fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("an address is a URI")
        .connect_lazy()
}
