//! The write path: one transaction for a batch of commands. A single command is a batch of one.
//!
//! | phase   | statements                                        | round trip |
//! |---------|---------------------------------------------------|------------|
//! | lock    | BEGIN, `lock_places` and `lock_accounts`          | 1          |
//! | look up | `known_operations` (and the time), unless an optimist went without | 1 |
//! | (rare)  | `lookup_operations`, only for replays; `lock_siblings`, only for accounts with categories; `existing_accounts`, only if some were not locked; `account_roles`, only for merges | 1 each |
//! | decide  | [`Book::apply`] in memory, in arrival order        |            |
//! | write   | `write_plain` or `write_plain_marked`; or `update_balances`, `insert_balances`, `insert_operations`, `insert_marks`, and for merges `close_accounts`, `set_settlement`, `insert_merge_parts` | 2 |
//! | commit  | COMMIT; only then is anyone answered              | 2          |
//!
//! Locks are taken in the order of account ids, so two batches cannot wait for each other in a circle. Lock and look-up
//! are two statements, because a lock wait does not refresh the snapshot of its own statement. Usually nobody waits at
//! all: what is locked elsewhere is skipped, and its commands step aside (see [`Locking`]).
//!
//! With [`Isolation::Serializable`] the look-up sees no more than the lock did: both have the snapshot of the transaction.
//! What the lock waited for, or what changed since the snapshot, then ends the transaction with 40001, and the lane
//! repeats it on a new snapshot. The one thing that is neither locked nor changed is a refused operation of the same id;
//! the unique key ends that one, as it does for ids that come with other accounts.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Client;
use futures_util::join;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::Store;
use super::columns::{BalanceColumns, MarkColumns, OperationColumns};
use super::error::StoreError;
use super::ledger::{Job, Ledger, Locking, Verdict};
use super::lock::{self, Locked, RowIds};
use super::merges::{self, MergeWrites};
use super::places::Places;
use super::pool::Isolation;
use super::replays::Replays;
use super::retry::Retries;
use super::row::RowId;
use crate::domain::{AccountId, BalanceChange, Book, Operation, Set};

/// How long a batch that waits may hold its other locks. Other instances hold theirs for some milliseconds; whoever
/// holds one longer is an outsider, and is waited for without holding anything.
const WAIT_WHILE_HOLDING: Duration = Duration::from_millis(100);

impl Ledger for Store {
    async fn execute(&self, jobs: &[Job], locking: &Locking) -> Result<Vec<Verdict>, StoreError> {
        let (account_id, wait_max) = match locking {
            Locking::Skip => return self.execute_at_once(jobs).await,
            Locking::Wait {
                account_id,
                wait_max,
            } => (account_id, *wait_max),
        };
        let careful = |lock_timeout| self.transact(jobs, false, Some(lock_timeout));
        match careful(WAIT_WHILE_HOLDING.min(wait_max)).await {
            Err(StoreError::LockTimeout) => self.await_account(account_id, wait_max).await?,
            done => return done,
        }
        careful(WAIT_WHILE_HOLDING).await
    }

    fn retries(&self) -> &Retries {
        &self.retries
    }
}

impl Store {
    /// Executes the jobs without a wait for locks: as an optimist, and with care if that overlooked a replay.
    async fn execute_at_once(&self, jobs: &[Job]) -> Result<Vec<Verdict>, StoreError> {
        let is_optimist =
            self.isolation == Isolation::ReadCommitted && !self.replays.are_expected();
        if is_optimist {
            match self.transact(jobs, true, None).await {
                Err(StoreError::Duplicate { .. }) => self.replays.expect_more(),
                done => return done,
            }
        }
        self.transact(jobs, false, None).await
    }

    async fn transact(
        &self,
        jobs: &[Job],
        is_optimist: bool,
        lock_timeout: Option<Duration>,
    ) -> Result<Vec<Verdict>, StoreError> {
        let client = self.batches.get().await?;
        let transaction = Transaction {
            client: &client,
            isolation: self.isolation,
            lock_timeout,
            is_optimist,
            places: &self.places,
            replays: &self.replays,
        };
        let result = transaction.run(jobs).await;
        if let Err(error) = &result {
            if matches!(error, StoreError::Unavailable { .. }) {
                self.write_failures.notify_one();
            }
            let is_usable = error.leaves_the_connection_usable()
                && client.batch_execute("ROLLBACK").await.is_ok();
            if !is_usable {
                // It may be in the middle of anything; a new connection is cheaper than a doubt.
                client.discard();
            }
        }
        result
    }

    /// Waits until the account's lock was free for a moment, holding no other.
    async fn await_account(
        &self,
        account_id: &AccountId,
        wait_max: Duration,
    ) -> Result<(), StoreError> {
        let client = self.batches.get().await?;
        let wait = async {
            let wait_ms = millis(wait_max);
            // The wait may be longer than a statement usually may take.
            let begin = format!(
                "BEGIN; SET LOCAL lock_timeout = {wait_ms}; SET LOCAL statement_timeout = 0"
            );
            client.batch_execute(&begin).await?;
            let statement = client.prepare_cached(AWAIT_ACCOUNT).await?;
            client.execute(&statement, &[&account_id.as_str()]).await?;
            client.batch_execute("ROLLBACK").await
        };
        let result = wait.await;
        if result.is_err() {
            client.discard();
        }
        Ok(result?)
    }
}

fn millis(duration: Duration) -> u128 {
    // 0 would mean "wait for ever".
    duration.as_millis().max(1)
}

const AWAIT_ACCOUNT: &str = include_str!("sql/await_account.sql");
const UPDATE_BALANCES: &str = concat!(
    include_str!("sql/updated.sql"),
    include_str!("sql/all_updated.sql")
);
const WRITE_PLAIN: &str = concat!(
    include_str!("sql/updated.sql"),
    include_str!("sql/recorded.sql"),
    include_str!("sql/all_updated.sql")
);
const WRITE_PLAIN_MARKED: &str = concat!(
    include_str!("sql/updated.sql"),
    include_str!("sql/recorded.sql"),
    include_str!("sql/marked.sql"),
    include_str!("sql/all_updated.sql")
);
const INSERT_BALANCES: &str = include_str!("sql/insert_balances.sql");
const INSERT_OPERATIONS: &str = include_str!("sql/insert_operations.sql");
const INSERT_MARKS: &str = include_str!("sql/insert_marks.sql");

/// The statements of the write path by name, for a look at their plans. Each has an index for each of its keys.
pub const WRITE_STATEMENTS: [(&str, &str); 18] = [
    ("await_account", AWAIT_ACCOUNT),
    ("lock_places", lock::LOCK_PLACES),
    ("lock_accounts", lock::LOCK_ACCOUNTS),
    ("lock_siblings", lock::LOCK_SIBLINGS),
    ("existing_accounts", lock::EXISTING_ACCOUNTS),
    ("known_operations", lock::KNOWN_OPERATIONS),
    ("lookup_operations", merges::LOOKUP_OPERATIONS),
    ("lookup_merge_parts", merges::LOOKUP_MERGE_PARTS),
    ("account_roles", merges::ACCOUNT_ROLES),
    ("write_plain", WRITE_PLAIN),
    ("write_plain_marked", WRITE_PLAIN_MARKED),
    ("update_balances", UPDATE_BALANCES),
    ("insert_balances", INSERT_BALANCES),
    ("insert_operations", INSERT_OPERATIONS),
    ("insert_marks", INSERT_MARKS),
    ("close_accounts", merges::CLOSE_ACCOUNTS),
    ("set_settlement", merges::SET_SETTLEMENT),
    ("insert_merge_parts", merges::INSERT_MERGE_PARTS),
];

/// One transaction on one connection.
pub(super) struct Transaction<'a> {
    pub(super) client: &'a Client,
    isolation: Isolation,
    /// How long it waits for a lock; `None`: it skips what is locked.
    pub(super) lock_timeout: Option<Duration>,
    /// Whether it believes in places and expects no replay. See [`super::lock`].
    pub(super) is_optimist: bool,
    pub(super) places: &'a Places,
    pub(super) replays: &'a Replays,
}

impl Transaction<'_> {
    async fn run(&self, jobs: &[Job]) -> Result<Vec<Verdict>, StoreError> {
        let Locked {
            mut book,
            row_ids,
            contended,
        } = self.lock(jobs).await?;
        let verdicts: Vec<Verdict> = jobs
            .iter()
            .map(|job| decide(job, &mut book, &contended))
            .collect();
        if self.is_optimist && self.has_overlooked(jobs, &verdicts).await? {
            return Err(StoreError::Duplicate {
                constraint: "operations_pkey".to_owned(),
            });
        }
        let closures = book.closures();
        let (operations, balances) = book.into_changes();
        let merged = operations.iter().map(Arc::as_ref);
        let merges = MergeWrites::prepare(self.client, &closures, merged).await?;
        self.write(&operations, &balances, &row_ids, &merges)
            .await?;
        Ok(verdicts)
    }

    async fn write(
        &self,
        operations: &[Arc<Operation>],
        balances: &[BalanceChange],
        row_ids: &RowIds<'_>,
        merges: &MergeWrites<'_>,
    ) -> Result<(), StoreError> {
        let operation_ids = || {
            operations
                .iter()
                .map(|operation| operation.command.operation_id.clone())
                .collect()
        };
        let commit = self.client.batch_execute("COMMIT");
        if operations.is_empty() {
            return Ok(commit.await?);
        }
        let (updates, inserts) = BalanceColumns::split(balances, row_ids);
        let operation_columns = OperationColumns::new(operations);
        let mark_columns = MarkColumns::new(operations);
        let is_plain = operation_columns.are_plain()
            && !updates.is_empty()
            && inserts.is_empty()
            && merges.is_empty();
        // All statements are prepared before the first one goes, so that they and the COMMIT go in one flight.
        let (written, committed) = if is_plain {
            let (sql, mark_params) = match mark_columns.is_empty() {
                true => (WRITE_PLAIN, None),
                false => (WRITE_PLAIN_MARKED, Some(mark_columns.params())),
            };
            let write = self.prepare(sql).await?;
            let params: Vec<&(dyn ToSql + Sync)> = updates
                .params_of_update()
                .into_iter()
                .chain(operation_columns.plain_params())
                .chain(mark_params.into_iter().flatten())
                .collect();
            join!(self.query_row_ids(&write, &params), commit)
        } else {
            let (update, insert_balances, insert_operations, insert_marks) = (
                self.prepare(UPDATE_BALANCES).await?,
                self.prepare(INSERT_BALANCES).await?,
                self.prepare(INSERT_OPERATIONS).await?,
                self.prepare(INSERT_MARKS).await?,
            );
            let (update_params, insert_params, operation_params, mark_params) = (
                updates.params_of_update(),
                inserts.params_of_insert(),
                operation_columns.params(),
                mark_columns.params(),
            );
            let (updated, inserted, recorded, marked, merged, committed) = join!(
                self.update_unless(updates.is_empty(), &update, &update_params),
                self.execute_unless(inserts.is_empty(), &insert_balances, &insert_params),
                self.client.execute(&insert_operations, &operation_params),
                self.execute_unless(mark_columns.is_empty(), &insert_marks, &mark_params),
                merges.execute(self.client),
                commit,
            );
            let written = updated.and_then(|row_ids| {
                inserted.and(recorded).and(marked).and(merged)?;
                Ok(row_ids)
            });
            (written, committed)
        };
        // COMMIT of an aborted transaction reports success, so the statements before it are what counts.
        let row_ids = written.map_err(|error| match error.as_db_error() {
            // A pooler in between says 08 or 57P when it lost the server, and the COMMIT may have reached it.
            Some(database)
                if !["08", "57P"]
                    .iter()
                    .any(|class| database.code().code().starts_with(class)) =>
            {
                StoreError::from(error)
            }
            _ => StoreError::during_commit(&error, operation_ids()),
        })?;
        committed.map_err(|error| StoreError::during_commit(&error, operation_ids()))?;
        let places = updates.mains().zip(row_ids);
        self.places
            .remember(places.filter_map(|(id, row_id)| Some((id?, row_id))));
        Ok(())
    }

    /// The new places of the rows, in the order of the old ones.
    async fn update_unless(
        &self,
        skip: bool,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<RowId>, tokio_postgres::Error> {
        if skip {
            return Ok(Vec::new());
        }
        self.query_row_ids(statement, params).await
    }

    async fn query_row_ids(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<RowId>, tokio_postgres::Error> {
        let row = self.client.query_one(statement, params).await?;
        row.try_get("row_ids")
    }

    async fn execute_unless(
        &self,
        skip: bool,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, tokio_postgres::Error> {
        if skip {
            Ok(0)
        } else {
            self.client.execute(statement, params).await
        }
    }

    pub(super) async fn prepare(&self, sql: &str) -> Result<Statement, StoreError> {
        Ok(self.client.prepare_cached(sql).await?)
    }

    pub(super) fn begin(&self) -> String {
        let begin = self.isolation.begin();
        match self.lock_timeout {
            Some(lock_timeout) => {
                format!("{begin}; SET LOCAL lock_timeout = {}", millis(lock_timeout))
            }
            None => begin.to_owned(),
        }
    }
}

fn decide(job: &Job, book: &mut Book, contended: &Set<AccountId>) -> Verdict {
    let locked_elsewhere = job
        .command
        .movement
        .account_ids()
        .find(|id| contended.contains(*id));
    if let Some(account_id) = locked_elsewhere {
        return Verdict::Contended(account_id.clone());
    }
    if !job.claim.start() {
        return Verdict::Withdrawn;
    }
    Verdict::Decided(book.apply(&job.command))
}
