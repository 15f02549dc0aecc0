//! The store: every SQL statement of Ballast, and nothing that decides. The statements live one per file in `sql/`.

mod accounts;
mod cards;
mod columns;
mod connect_error;
pub mod database_url;
mod error;
mod history;
mod ledger;
mod lock;
mod merges;
mod places;
mod pool;
mod replays;
mod requests;
mod retry;
mod row;
pub mod schema;
pub mod verify;
mod write;

use std::sync::Arc;

pub use accounts::{AccountDetails, AccountSpec, BalanceDetails, Created, LimitSpec};
pub use cards::{
    CARD_STATEMENTS, CardFacts, CardRule, CardRulePosition, CardVerdict, UnsettledVerdict,
    card_rule_key,
};
pub use connect_error::ConnectError;
pub(crate) use error::with_source;
pub use error::{Outcome, StoreError};
pub use history::{BalanceAt, EntryRecord, HistoryPosition, PageOrder};
pub use ledger::{Job, Ledger, Locking, Verdict};
pub use pool::{Isolation, Session, StoreConfig, StoreConfigError};
pub use requests::Requests;
pub use retry::Retries;
pub(crate) use retry::{SERIALIZATION_ATTEMPTS_MAX, pause_after};
pub use write::WRITE_STATEMENTS;

use places::Places;
use pool::Connections;
use replays::Replays;
use requests::Writes;

/// The statements of the reads by name, for a look at their plans.
pub const READ_STATEMENTS: [(&str, &str); 10] = [
    ("lookup_merge_parts", merges::LOOKUP_MERGE_PARTS),
    ("get_accounts", include_str!("sql/get_accounts.sql")),
    ("list_account_ids", include_str!("sql/list_account_ids.sql")),
    (
        "settlement_accounts",
        include_str!("sql/settlement_accounts.sql"),
    ),
    ("account_owners", include_str!("sql/account_owners.sql")),
    ("get_balance", include_str!("sql/get_balance.sql")),
    ("get_balance_at", history::GET_BALANCE_AT),
    (
        "lookup_operations",
        include_str!("sql/lookup_operations.sql"),
    ),
    ("list_operation_ids", history::LIST_OPERATION_IDS),
    ("list_entries", history::LIST_ENTRIES),
];

/// The database behind Ballast: one pool for the batches of the write path, one for everything else and one
/// connection for health, so that none starves the other. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    batches: Connections,
    requests: Connections,
    health: Connections,
    isolation: Isolation,
    retries: Retries,
    places: Arc<Places>,
    replays: Arc<Replays>,
}

impl Store {
    /// Builds the pools. No connection is made before the first use.
    pub fn new(config: &StoreConfig) -> Result<Self, StoreConfigError> {
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
            health: Connections::new("health", config, Session::Requests, 1)?,
            isolation: config.isolation,
            retries: Retries::default(),
            places: Arc::default(),
            replays: Arc::default(),
        })
    }

    /// The reads, and the opening of accounts, for a caller that waits until `deadline`.
    pub fn before(&self, deadline: tokio::time::Instant) -> Requests {
        self.requests_on(&self.requests, deadline)
    }

    fn requests_on(&self, pool: &Connections, deadline: tokio::time::Instant) -> Requests {
        Requests::new(
            pool.clone(),
            deadline,
            Writes {
                isolation: self.isolation,
                retries: self.retries.clone(),
            },
        )
    }

    /// Whether the database answers until `deadline`. Asked on a connection of its own: busy is not unhealthy.
    pub async fn ping(&self, deadline: tokio::time::Instant) -> Result<(), StoreError> {
        self.requests_on(&self.health, deadline).ping().await
    }

    /// Closes all pools. Connections in use close when they come back.
    pub fn close(&self) {
        self.batches.close();
        self.requests.close();
        self.health.close();
    }
}
