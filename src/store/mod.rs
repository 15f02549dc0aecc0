//! The store: every SQL statement of Ballast, and nothing that decides. The statements live one per file in `sql/`.

mod accounts;
mod error;
mod history;
mod pool;
mod requests;
mod row;
pub mod schema;
pub mod verify;
mod write;

pub use accounts::{AccountDetails, AccountSpec, BalanceDetails, Created, LimitSpec};
pub(crate) use error::with_source;
pub use error::{Outcome, StoreError};
pub use history::{BalanceAt, EntryRecord, HistoryPosition, PageOrder};
pub use pool::{StoreConfig, StoreConfigError};
pub use requests::Requests;
pub use write::{Job, Ledger, Locking, Verdict, WRITE_STATEMENTS};

use deadpool_postgres::Pool;

/// The database behind Ballast: one pool for the batches of the write path and one for everything else, so that
/// neither starves the other. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    batches: Pool,
    requests: Pool,
}

impl Store {
    /// Builds both pools. No connection is made before the first use.
    pub fn new(config: &StoreConfig) -> Result<Self, StoreConfigError> {
        Ok(Self {
            batches: pool::batches(config)?,
            requests: pool::requests(config)?,
        })
    }

    /// The reads, and the opening of accounts, for a caller that waits until `deadline`.
    pub fn before(&self, deadline: tokio::time::Instant) -> Requests {
        Requests::new(self.requests.clone(), deadline)
    }

    /// Closes both pools. Connections in use close when they come back.
    pub fn close(&self) {
        self.batches.close();
        self.requests.close();
    }
}
