//! Requests: work on one pooled connection for one caller. Whatever becomes of the caller, the connection comes back in
//! order, and the database's work ends soon after the caller's deadline.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use deadpool_postgres::Client;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::connections::{Connection, Connections};
use super::error::{Outcome, StoreError};
use super::pool::Isolation;
use super::retry::{self, Retries};

/// How long a read for which nobody waits any more may go on before it is cancelled. A cancel costs PostgreSQL a new
/// process, and nearly every read ends earlier by itself.
const CANCEL_AFTER: Duration = Duration::from_millis(250);

/// How long after the statement timeout a connection is given up that does not answer.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The store for one caller, until its deadline.
#[derive(Debug, Clone)]
pub struct Requests {
    pool: Connections,
    deadline: Instant,
    isolation: Isolation,
    retries: Retries,
    statement_timeout: Duration,
}

/// What a request does to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It may be cancelled at any time.
    Read,
    /// It is never cancelled: a cancel could meet the commit.
    Write,
}

impl Requests {
    pub(super) fn new(
        pool: Connections,
        deadline: Instant,
        isolation: Isolation,
        retries: Retries,
        statement_timeout: Duration,
    ) -> Self {
        Self {
            pool,
            deadline,
            isolation,
            retries,
            statement_timeout,
        }
    }

    /// Runs `work`, which only reads.
    pub(super) async fn request<T, F, Fut>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Connection>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let late = || StoreError::Deadline {
            outcome: Outcome::None,
        };
        self.perform(Kind::Read, work, late).await
    }

    /// Runs `work`, which writes through what it is given for that.
    pub(super) async fn write<T, F, Fut>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Connection>, Writes) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let sending = Arc::<Sending>::default();
        let writes = Writes {
            isolation: self.isolation,
            retries: self.retries.clone(),
            sending: sending.clone(),
        };
        let late = || StoreError::Deadline {
            outcome: match sending.stop() {
                Stopped::Unsent => Outcome::None,
                Stopped::Sent => Outcome::Unknown(Vec::new()),
            },
        };
        self.perform(Kind::Write, |client| work(client, writes), late)
            .await
    }

    /// Runs `work` on a connection, in a task of its own: a caller that goes away leaves no connection half used. It waits
    /// for a connection for as long as its caller does: who came with many others is served with many others.
    async fn perform<T, F, Fut>(
        &self,
        kind: Kind,
        work: F,
        late: impl FnOnce() -> StoreError,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Connection>) -> Fut,
        Fut: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        if self.deadline <= Instant::now() {
            return Err(late());
        }
        let client = match tokio::time::timeout_at(self.deadline, self.pool.get()).await {
            Ok(client) => Arc::new(client?),
            Err(_elapsed) => return Err(late()),
        };
        let (answer, answered) = oneshot::channel();
        let work = work(client.clone());
        let silence_max = self.statement_timeout + SILENCE_MAX;
        tokio::spawn(serve(kind, client, work, answer, silence_max));
        match tokio::time::timeout_at(self.deadline, answered).await {
            Ok(Ok(result)) => result,
            // The panic hook has logged it.
            Ok(Err(_dropped)) => Err(StoreError::Corrupt(
                "a request of the store died".to_owned(),
            )),
            Err(_elapsed) => Err(late()),
        }
    }
}

/// Does the work and answers. If nobody waits for the answer any more, it only brings the connection back in order.
async fn serve<T>(
    kind: Kind,
    client: Arc<Connection>,
    work: impl Future<Output = Result<T, StoreError>>,
    mut answer: oneshot::Sender<Result<T, StoreError>>,
    silence_max: Duration,
) {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        result = &mut work => {
            drop(client);
            // Whoever left meanwhile does not read it.
            let _unread = answer.send(result);
            return;
        }
        () = answer.closed() => {}
    }
    let in_order = tokio::time::timeout(silence_max, bring_in_order(kind, &client, work)).await;
    if !in_order.unwrap_or(false) {
        client.spoil();
    }
}

/// Lets the work end, and cancels a read that takes long. True: the next statement on the connection is safe.
async fn bring_in_order<T>(
    kind: Kind,
    client: &Connection,
    mut work: Pin<&mut impl Future<Output = Result<T, StoreError>>>,
) -> bool {
    if kind == Kind::Write {
        let _unread = work.await;
        return true;
    }
    let mut was_cancelled = false;
    // More than once: a cancel between two statements of the work does nothing.
    while tokio::time::timeout(CANCEL_AFTER, &mut work).await.is_err() {
        was_cancelled = true;
        if !client.cancel().await {
            let _unread = work.await;
            return false;
        }
    }
    !was_cancelled || is_quiet(client).await
}

/// Whether a statement runs undisturbed after a cancel. The first one may still meet it.
async fn is_quiet(client: &Connection) -> bool {
    match client.batch_execute("").await {
        Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
            client.batch_execute("").await.is_ok()
        }
        answered => answered.is_ok(),
    }
}

/// How requests write: in which isolation, what counts their repetitions, and whether their caller still waits.
#[derive(Debug, Clone)]
pub(super) struct Writes {
    isolation: Isolation,
    retries: Retries,
    sending: Arc<Sending>,
}

impl Writes {
    /// Runs one statement that writes, again while it loses against others. A single statement is a transaction of its
    /// own; another isolation than the session's needs one around it. After the caller's deadline nothing is sent any more.
    ///
    /// An error says exactly what it left behind: unknown is only what was lost together with the answer to a commit.
    pub(super) async fn run(
        &self,
        client: &Client,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let statement = client.prepare_cached(sql).await?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let execution = client.query(&statement, params);
            let result = match self.isolation {
                Isolation::ReadCommitted => self.alone(execution).await,
                Isolation::Serializable => self.in_transaction(client, execution).await,
            };
            match result {
                Ok(rows) => return Ok(rows),
                Err(error) if error.is_outcome_unknown() => return Err(error),
                Err(error) => {
                    self.wrote_nothing();
                    if !matches!(error, StoreError::Serialization)
                        || attempts >= retry::SERIALIZATION_ATTEMPTS_MAX
                    {
                        return Err(error);
                    }
                }
            }
            self.retries.note();
            tracing::debug!(
                attempts,
                "a transaction conflicted with another one; it is repeated"
            );
            tokio::time::sleep(retry::pause_after(attempts)).await;
        }
    }

    /// The same for a statement that returns one row.
    pub(super) async fn run_one(
        &self,
        client: &Client,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, StoreError> {
        let row = self.run(client, sql, params).await?.pop();
        row.ok_or_else(|| StoreError::Corrupt("a statement returned no row".to_owned()))
    }

    /// What was sent is known to have changed nothing: a deadline that passes from now on says so.
    pub(super) fn wrote_nothing(&self) {
        self.sending.undo();
    }

    async fn alone<T>(
        &self,
        execution: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        self.start()?;
        execution
            .await
            .map_err(|error| StoreError::during_lone_write(&error))
    }

    /// Between BEGIN and COMMIT; an error leaves no transaction behind.
    async fn in_transaction<T>(
        &self,
        client: &Client,
        execution: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        client.batch_execute(self.isolation.begin()).await?;
        let written = match execution.await {
            Ok(value) => self.start().map(|()| value),
            Err(error) => Err(error.into()),
        };
        let error = match written {
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

    fn start(&self) -> Result<(), StoreError> {
        match self.sending.start() {
            true => Ok(()),
            false => Err(StoreError::Deadline {
                outcome: Outcome::None,
            }),
        }
    }
}

const UNSENT: u8 = 0;
const SENT: u8 = 1;
const STOPPED: u8 = 2;

/// The race between the commit of a write and the deadline of its caller: exactly one of them comes first.
#[derive(Debug, Default)]
struct Sending(AtomicU8);

/// What a deadline found.
enum Stopped {
    /// Nothing was sent that could change anything, and nothing will be.
    Unsent,
    /// It may happen, or has happened.
    Sent,
}

impl Sending {
    /// To be called right before something is sent that may change something. False: the caller has left.
    fn start(&self) -> bool {
        self.swap(UNSENT, SENT)
    }

    /// It changed nothing.
    fn undo(&self) {
        // Unless the caller has left: then it stays so.
        let _stopped = self.swap(SENT, UNSENT);
    }

    /// The caller leaves.
    fn stop(&self) -> Stopped {
        match self.0.swap(STOPPED, Ordering::AcqRel) {
            SENT => Stopped::Sent,
            _ => Stopped::Unsent,
        }
    }

    fn swap(&self, from: u8, to: u8) -> bool {
        let swapped = self
            .0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        swapped.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_knows_whether_something_was_sent() {
        let sending = Sending::default();
        assert!(matches!(sending.stop(), Stopped::Unsent));
        assert!(!sending.start(), "nothing is sent after the deadline");

        let sending = Sending::default();
        assert!(sending.start());
        sending.undo();
        assert!(sending.start());
        assert!(matches!(sending.stop(), Stopped::Sent));
        sending.undo();
        assert!(!sending.start(), "nor is it sent again");
    }
}
