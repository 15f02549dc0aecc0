//! Requests: work on one pooled connection for one caller. Whatever becomes of the caller, the connection comes back in
//! order or not at all, and the database's work ends at the caller's deadline.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_postgres::NoTls;

use super::error::StoreError;
use super::pool::{Connection, Connections};

/// The store for one caller, until its deadline.
#[derive(Debug, Clone)]
pub struct Requests {
    pool: Connections,
    deadline: Instant,
}

impl Requests {
    pub(super) fn new(pool: Connections, deadline: Instant) -> Self {
        Self { pool, deadline }
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
        let task = tokio::spawn(async move {
            let client = tokio::time::timeout_at(deadline, pool.get()).await;
            let client = Arc::new(client.map_err(|_elapsed| StoreError::Deadline)??);
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
            Err(_elapsed) => Err(StoreError::Deadline),
        }
    }
}
