//! The store: every SQL statement of Ballast, and nothing that decides. The statements live one per file in `sql/`.

mod account_writes;
mod accounts;
mod cancel;
mod cards;
mod columns;
mod connect_error;
mod connections;
pub mod database_url;
mod error;
mod history;
mod intent;
mod ledger;
mod lock;
mod observer;
mod operation_row;
mod operations;
mod pool;
mod replays;
mod requests;
mod retry;
mod row;
mod row_id_cache;
pub mod schema;
mod standing;
mod statement;
mod transaction;
mod unreadable;
mod verdicts;
pub mod verify;
mod write;

use std::sync::Arc;
use std::time::Duration;

pub use accounts::{
    AccountDetails, AccountSpec, BalanceDetails, Created, LimitSpec, ReadAccount, account_id_of,
};
pub use cards::{CARD_STATEMENTS, CardFacts, CardRule, CardRulePosition, card_rule_key};
pub use connect_error::ConnectError;
pub(crate) use error::with_source;
pub use error::{InDoubt, Outcome, StoreError};
pub use history::{BalanceAt, EntryRecord, HistoryPosition, Listed, PageOrder, UnreadableEntry};
pub use ledger::{Decision, GroupDecision, Job, Ledger, Locking, Verdict, Work};
pub use observer::{Observer, WriteCounts};
pub use operations::ReversalList;
pub use pool::{Isolation, Session, StoreConfig, StoreConfigError};
pub use requests::Requests;
pub use retry::Retries;
pub(crate) use retry::{SERIALIZATION_ATTEMPTS_MAX, pause_after};
pub use standing::{NEEDED_PRIVILEGES, Obstacle, ServerStanding};
pub use unreadable::{UnreadableAccount, UnreadableOperation};
pub use verdicts::{
    CardVerdict, CreditEnd, DueVerdict, SettlementRecord, Standing, UnsettledPayment,
    UnsettledPosition,
};
pub use verify::is_money;
pub use write::{Hold, write_statements};

use tokio::sync::Notify;

use connections::Connections;
use replays::Replays;
use row_id_cache::RowIdCache;

/// The statements of the reads by name, for a look at their plans.
pub const READ_STATEMENTS: [(&str, &str); 12] = [
    ("lookup_legs", operations::LOOKUP_LEGS),
    ("get_accounts", include_str!("sql/get_accounts.sql")),
    ("list_account_ids", include_str!("sql/list_account_ids.sql")),
    (
        "settlement_accounts",
        include_str!("sql/settlement_accounts.sql"),
    ),
    ("account_owners", include_str!("sql/account_owners.sql")),
    ("get_balance", include_str!("sql/get_balance.sql")),
    ("get_balance_at", history::GET_BALANCE_AT),
    ("lookup_operations", operations::LOOKUP_OPERATIONS),
    ("list_reversals", operations::LIST_REVERSALS),
    (
        "list_operation_ids of an account",
        history::LIST_OPERATION_IDS_OF_ACCOUNT,
    ),
    (
        "list_operation_ids of an owner",
        history::LIST_OPERATION_IDS_OF_OWNER,
    ),
    ("list_entries", history::LIST_ENTRIES),
];

/// One is enough, and the second is for when the first one hangs on a server that is gone.
const HEALTH_CONNECTIONS: usize = 2;

/// The database behind Ballast: one pool for the batches of the write path, one for everything else and a small one for
/// health, so that none starves the other. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    batches: Connections,
    requests: Connections,
    health: Connections,
    isolation: Isolation,
    categories_per_account_max: usize,
    statement_timeout: Duration,
    retries: Retries,
    /// Tells health that the database may not take writes.
    write_failures: Arc<Notify>,
    row_ids: Arc<RowIdCache>,
    replays: Arc<Replays>,
}

impl Store {
    /// Builds the pools. No connection is made before the first use. `observer` is told what the writes do.
    pub fn new(config: &StoreConfig, observer: &Observer) -> Result<Self, StoreConfigError> {
        Ok(Self {
            batches: Connections::new(
                "batches",
                config,
                Session::Batches,
                config.batch_connections,
            )?,
            requests: Connections::new(
                "requests",
                config,
                Session::Requests,
                config.request_connections,
            )?,
            health: Connections::new("health", config, Session::Requests, HEALTH_CONNECTIONS)?,
            isolation: config.isolation,
            categories_per_account_max: config.categories_per_account_max,
            statement_timeout: Duration::from_millis(config.statement_timeout_ms),
            retries: observer.retries().clone(),
            write_failures: Arc::default(),
            row_ids: Arc::default(),
            replays: Arc::default(),
        })
    }

    /// How many categories an account may have, `main` included; one that has more from before keeps them.
    pub fn categories_per_account_max(&self) -> usize {
        self.categories_per_account_max
    }

    /// The reads, and the opening of accounts, for a caller that waits until `deadline`.
    pub fn before(&self, deadline: tokio::time::Instant) -> Requests {
        self.requests_on(&self.requests, deadline)
    }

    fn requests_on(&self, pool: &Connections, deadline: tokio::time::Instant) -> Requests {
        Requests::new(
            pool.clone(),
            deadline,
            self.isolation,
            self.retries.clone(),
            self.statement_timeout,
        )
    }

    /// What the database says about itself until `deadline`. Asked on a connection of its own: busy is not unhealthy.
    /// With `reconnects` on a new one, which shows what new sessions are allowed now, and where the address leads now.
    pub async fn standing(
        &self,
        deadline: tokio::time::Instant,
        reconnects: bool,
    ) -> Result<ServerStanding, StoreError> {
        if reconnects {
            self.health.renew();
        }
        self.requests_on(&self.health, deadline)
            .request(|client| async move { ServerStanding::of(&client).await })
            .await
    }

    /// Closes all connections for batches and requests: idle ones now, those in use when they come back.
    pub fn renew(&self) {
        self.batches.renew();
        self.requests.renew();
    }

    /// Comes back when the write path found the database unavailable since the last time.
    pub async fn write_failed(&self) {
        self.write_failures.notified().await;
    }

    /// Closes all pools. Connections in use close when they come back.
    pub fn close(&self) {
        self.batches.close();
        self.requests.close();
        self.health.close();
    }
}
