//! Requests: work on one pooled connection for one caller. Whatever becomes of the caller, the connection comes back in
//! order or not at all, and the database's work ends at the caller's deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deadpool_postgres::Client;
use tokio::time::Instant;
use tokio_postgres::NoTls;

use super::error::StoreError;
use super::pool::{Connection, Connections, Isolation};
use super::retry::{self, Retries};

/// The store for one caller, until its deadline.
#[derive(Debug, Clone)]
pub struct Requests {
    pool: Connections,
    deadline: Instant,
    writes: Writes,
}

impl Requests {
    pub(super) fn new(pool: Connections, deadline: Instant, writes: Writes) -> Self {
        Self {
            pool,
            deadline,
            writes,
        }
    }

    /// How requests write, for use within [`Requests::request`].
    pub(super) fn writes(&self) -> Writes {
        self.writes.clone()
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.request(|client| async move { Ok(client.batch_execute("SELECT 1").await?) })
            .await
    }

    /// Runs `work` on a connection, in a task of its own: a caller that goes away leaves no connection half used.
    pub(super) async fn request<T, F, Fut>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Connection>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let (pool, deadline) = (self.pool.clone(), self.deadline);
        let has_begun = Arc::new(AtomicBool::new(false));
        let begun = has_begun.clone();
        let task = tokio::spawn(async move {
            // It waits for as long as its caller does: who came with many others is served with many others.
            let client = tokio::time::timeout_at(deadline, pool.get()).await;
            let client = Arc::new(client.map_err(|_elapsed| StoreError::Exhausted)??);
            begun.store(true, Ordering::Release);
            let mut work = std::pin::pin!(work(client.clone()));
            if let Ok(result) = tokio::time::timeout_at(deadline, &mut work).await {
                return result;
            }
            // Nobody waits any more: stop the statement. The cancel might come late and hit the next one, so this
            // connection has no next one.
            // Failing to cancel is no harm: the statement timeout ends the statement a little later.
            let _cancelled = client.cancel_token().cancel_query(NoTls).await;
            let result = work.await;
            if let Some(client) = Arc::into_inner(client) {
                client.discard();
            }
            result
        });
        match tokio::time::timeout_at(deadline, task).await {
            Ok(result) => result.unwrap_or_else(|panic| {
                Err(StoreError::Corrupt(format!(
                    "a request of the store died: {panic}"
                )))
            }),
            // The task goes on for as long as it takes to leave the connection in order.
            Err(_elapsed) if has_begun.load(Ordering::Acquire) => Err(StoreError::Deadline),
            Err(_elapsed) => Err(StoreError::Exhausted),
        }
    }
}

/// How requests write: in which isolation, and what counts their repetitions.
#[derive(Debug, Clone)]
pub(super) struct Writes {
    pub(super) isolation: Isolation,
    pub(super) retries: Retries,
}

impl Writes {
    /// Runs `work`, one statement that writes, again while it loses against others. A single statement is a transaction
    /// of its own; another isolation than the session's needs one around it. Ends with the request's deadline.
    pub(super) async fn run<T, F, Fut>(&self, client: &Client, work: F) -> Result<T, StoreError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, StoreError>>,
    {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let result = match self.isolation {
                Isolation::ReadCommitted => work().await,
                Isolation::Serializable => in_transaction(client, self.isolation, work()).await,
            };
            match result {
                Err(StoreError::Serialization) if attempts < retry::SERIALIZATION_ATTEMPTS_MAX => {
                    self.retries.note();
                    tracing::debug!(attempts, "a request lost against another one; again");
                    tokio::time::sleep(retry::pause_after(attempts)).await;
                }
                result => return result,
            }
        }
    }
}

/// Runs `work` between BEGIN and COMMIT; an error leaves no transaction behind.
async fn in_transaction<T>(
    client: &Client,
    isolation: Isolation,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    client.batch_execute(isolation.begin()).await?;
    let error = match work.await {
        Ok(value) => match client.batch_execute("COMMIT").await {
            Ok(()) => return Ok(value),
            Err(error) => StoreError::during_commit(&error, Vec::new()),
        },
        Err(error) => error,
    };
    // Fails only on a connection that broke, which the pool finds out by itself.
    let _broken = client.batch_execute("ROLLBACK").await;
    Err(error)
}
