//! The write path: one transaction for a batch of commands. A single command is a batch of one.
//!
//! | phase   | statements                                        | round trip |
//! |---------|---------------------------------------------------|------------|
//! | lock    | BEGIN, `lock_places` and `lock_accounts`          | 1          |
//! | look up | `known_operations` (and the time), unless an optimist went without | 1 |
//! | (rare)  | `lookup_operations`, only for replays; `lock_categories`, only if a category besides `main` is named of an account that has some; `lock_siblings`, only for merges of such accounts; `existing_accounts`, only if some were not locked; `account_roles`, only for merges | 1 each |
//! | decide  | [`Book::apply`] in memory, in arrival order        |            |
//! | write   | `write_plain` or `write_plain_marked`; or `update_balances`, `insert_balances`, `insert_operations`, `insert_marks`, and for merges `close_accounts`, `set_settlement`, `insert_merge_parts` | 2 |
//! | commit  | COMMIT; only then is anyone answered              | 2          |
//!
//! Locks are taken in the order of account ids, so two batches cannot wait for each other in a circle. Lock and look-up
//! are two statements, because a lock wait does not refresh the snapshot of its own statement. Usually nobody waits at
//! all: what is locked elsewhere is skipped, and its jobs are told so (see [`Locking`]).
//!
//! With [`Isolation::Serializable`] the look-up sees no more than the lock did: both have the snapshot of the transaction.
//! What the lock waited for, or what changed since the snapshot, then ends the transaction with 40001, and the lane
//! repeats it on a new snapshot. The one thing that is neither locked nor changed is a refused operation of the same id;
//! the unique key ends that one, as it does for ids that come with other accounts.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Client;
use futures_util::join;
use tokio::time::Instant;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::Store;
use super::columns::{BalanceColumns, MarkColumns, OperationColumns};
use super::connections::Connection;
use super::error::{InDoubt, StoreError};
use super::ledger::{Job, Ledger, Locking, Verdict, Work};
use super::lock::{self, Locked, RowIds, Siblings};
use super::merges::{self, MergeWrites};
use super::places::Places;
use super::pool::Isolation;
use super::replays::Replays;
use super::row::RowId;
use crate::domain::{AccountId, BalanceChange, Book, Command, Operation, OperationId, Set};

/// How long a statement of a batch may wait for a lock. Rows that are locked elsewhere are skipped, so what is left to wait
/// for is an operation id that another transaction is about to record, or a table that is being altered.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_millis(100);
/// A probe of the tables' locks that takes longer than this had to wait for one.
const TABLE_LOCK_GRANTED_AT_ONCE: Duration = Duration::from_millis(20);
/// How often a transaction is repeated that found an operation recorded since its look-up. Each repetition looks up again,
/// so whatever is still in the way then is no operation.
const DUPLICATE_ATTEMPTS_MAX: u32 = 3;

/// The locks of some accounts, on a connection in an open transaction. Dropped, it closes the connection, which releases
/// them too.
#[derive(Debug)]
pub struct Hold(Option<Connection>);

impl Hold {
    fn take(mut self) -> Option<Connection> {
        self.0.take()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // It has an open transaction: nobody may find it in the pool.
        if let Some(client) = self.0.take() {
            client.discard();
        }
    }
}

impl Ledger for Store {
    type Hold = Hold;

    async fn execute(
        &self,
        jobs: &[Job],
        locking: Locking<Hold>,
    ) -> Result<Vec<Verdict>, StoreError> {
        let (first, again) = match locking {
            Locking::Skip => (Mode::for_skipping(self), Mode::CAREFUL),
            Locking::Held(hold) => {
                let mode = Mode {
                    begins: hold.0.is_none(),
                    ..Mode::CAREFUL
                };
                let client = match hold.take() {
                    Some(client) => client,
                    None => self.batches.get().await?,
                };
                match self.transact_on(client, jobs, mode).await {
                    Err(StoreError::Duplicate { .. }) => (Mode::CAREFUL, Mode::CAREFUL),
                    done => return done,
                }
            }
        };
        let mut mode = first;
        for _ in 1..DUPLICATE_ATTEMPTS_MAX {
            match self.transact(jobs, mode).await {
                Err(StoreError::Duplicate { .. }) => self.replays.expect_more(),
                done => return done,
            }
            mode = again;
        }
        match self.transact(jobs, mode).await {
            Err(StoreError::Duplicate { constraint }) => Err(StoreError::Corrupt(format!(
                "a row that has to be new is there already ({constraint})"
            ))),
            done => done,
        }
    }

    async fn await_accounts(
        &self,
        account_ids: &[AccountId],
        commands: &[Arc<Command>],
        wait_max: Duration,
    ) -> Result<Hold, StoreError> {
        // Which of them have other balances than main is not known yet.
        let siblings = Siblings::of(commands.iter(), &account_ids.iter().collect());
        let names: [&(dyn ToSql + Sync); 2] = [&siblings.account_ids, &siblings.categories];
        let account_ids: Vec<&str> = account_ids.iter().map(AccountId::as_str).collect();
        let client = self.batches.get().await?;
        let end = Instant::now() + wait_max;
        // The second limit is for many locks together, each of which is granted in time.
        let begin = format!(
            "{}; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}",
            self.isolation.begin(),
            millis(wait_max),
            millis(2 * wait_max + LOCK_TIMEOUT)
        );
        let hold = Hold(Some(client));
        loop {
            let Some(client) = &hold.0 else {
                return Err(StoreError::unavailable("the connection is gone"));
            };
            let granted = async {
                let mains = client.prepare_cached(AWAIT_ACCOUNTS).await?;
                let named = client.prepare_cached(AWAIT_CATEGORIES).await?;
                let whole = client.prepare_cached(AWAIT_SIBLINGS).await?;
                let params: [&(dyn ToSql + Sync); 1] = [&account_ids];
                let whole_params: [&(dyn ToSql + Sync); 1] = [&siblings.whole];
                let (begun, mains, named, whole) = join!(
                    client.batch_execute(&begin),
                    client.execute(&mains, &params),
                    execute_unless(siblings.account_ids.is_empty(), client, &named, &names),
                    execute_unless(siblings.whole.is_empty(), client, &whole, &whole_params),
                );
                begun?;
                mains.and(named).and(whole).map(drop)
            };
            let error = match granted.await {
                Ok(()) => return Ok(hold),
                Err(error) => StoreError::from(error),
            };
            let is_usable = error.leaves_the_connection_usable()
                && client.batch_execute("ROLLBACK").await.is_ok();
            match error {
                // Its snapshot is older than what it waited for. The next one is not.
                StoreError::Serialization if is_usable && Instant::now() < end => {
                    self.retries.note();
                }
                error => {
                    let client = hold.take();
                    if let Some(client) = client.filter(|_| !is_usable) {
                        client.discard();
                    }
                    return Err(match error {
                        StoreError::StatementTimeout => StoreError::LockTimeout,
                        error => error,
                    });
                }
            }
        }
    }

    async fn release(&self, hold: Hold) {
        if let Some(client) = hold.take()
            && client.batch_execute("ROLLBACK").await.is_err()
        {
            client.discard();
        }
    }

    async fn await_operation(
        &self,
        operation_id: &OperationId,
        wait_max: Duration,
    ) -> Result<(), StoreError> {
        self.await_on_one_statement(wait_max, AWAIT_OPERATION, &[&operation_id.as_str()])
            .await
            .or_else(|error| match error {
                // The other one recorded it: it can be replayed.
                StoreError::Duplicate { .. } => Ok(()),
                error => Err(error),
            })
    }
}

impl Store {
    async fn transact(&self, jobs: &[Job], mode: Mode) -> Result<Vec<Verdict>, StoreError> {
        let client = self.batches.get().await?;
        match self.transact_on(client, jobs, mode).await {
            Err(StoreError::LockTimeout) if self.await_tables().await? => {
                let client = self.batches.get().await?;
                self.transact_on(client, jobs, mode).await
            }
            done => done,
        }
    }

    async fn transact_on(
        &self,
        client: Connection,
        jobs: &[Job],
        mode: Mode,
    ) -> Result<Vec<Verdict>, StoreError> {
        let transaction = Transaction {
            client: &client,
            isolation: self.isolation,
            statement_timeout: self.statement_timeout,
            categories_per_account_max: self.categories_per_account_max,
            mode,
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

    /// Waits while somebody alters a table of the write path. False: nobody does.
    async fn await_tables(&self) -> Result<bool, StoreError> {
        let asked = Instant::now();
        self.await_on_one_statement(self.statement_timeout, AWAIT_TABLES, &[])
            .await
            .map_err(|error| match error {
                StoreError::LockTimeout => StoreError::TableLocked,
                error => error,
            })?;
        Ok(asked.elapsed() > TABLE_LOCK_GRANTED_AT_ONCE)
    }

    /// Executes a statement that may wait for a lock, and undoes what it did.
    async fn await_on_one_statement(
        &self,
        wait_max: Duration,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<(), StoreError> {
        let client = self.batches.get().await?;
        let wait = async {
            // The wait may be longer than a statement usually may take.
            let begin = format!(
                "BEGIN; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = 0",
                millis(wait_max)
            );
            client.batch_execute(&begin).await?;
            client.execute(sql, params).await.map(drop)
        };
        let result = wait.await.map_err(StoreError::from);
        let is_usable = match &result {
            Ok(()) => true,
            Err(error) => error.leaves_the_connection_usable(),
        };
        if !(is_usable && client.batch_execute("ROLLBACK").await.is_ok()) {
            client.discard();
        }
        result
    }
}

fn millis(duration: Duration) -> u128 {
    // 0 would mean "wait for ever".
    duration.as_millis().max(1)
}

const AWAIT_ACCOUNTS: &str = include_str!("sql/await_accounts.sql");
const AWAIT_CATEGORIES: &str = include_str!("sql/await_categories.sql");
const AWAIT_SIBLINGS: &str = include_str!("sql/await_siblings.sql");
const AWAIT_OPERATION: &str = include_str!("sql/await_operation.sql");
const AWAIT_TABLES: &str = include_str!("sql/await_tables.sql");
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
pub const WRITE_STATEMENTS: [(&str, &str); 21] = [
    ("await_accounts", AWAIT_ACCOUNTS),
    ("await_categories", AWAIT_CATEGORIES),
    ("await_siblings", AWAIT_SIBLINGS),
    ("lock_places", lock::LOCK_PLACES),
    ("lock_accounts", lock::LOCK_ACCOUNTS),
    ("lock_siblings", lock::LOCK_SIBLINGS),
    ("lock_categories", lock::LOCK_CATEGORIES),
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

/// How a transaction locks. It skips what is locked elsewhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mode {
    /// Whether it believes in places and expects no replay. See [`super::lock`].
    pub(super) is_optimist: bool,
    /// False: it goes on with a transaction that has begun.
    pub(super) begins: bool,
}

impl Mode {
    /// Looks up all rows by their keys, and all operations.
    const CAREFUL: Self = Self {
        is_optimist: false,
        begins: true,
    };

    fn for_skipping(store: &Store) -> Self {
        Self {
            is_optimist: store.isolation == Isolation::ReadCommitted
                && !store.replays.are_expected(),
            ..Self::CAREFUL
        }
    }
}

/// One transaction on one connection.
pub(super) struct Transaction<'a> {
    pub(super) client: &'a Client,
    isolation: Isolation,
    statement_timeout: Duration,
    pub(super) categories_per_account_max: usize,
    pub(super) mode: Mode,
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
        let now = Instant::now();
        let verdicts: Vec<Verdict> = jobs
            .iter()
            .map(|job| decide(job, &mut book, &contended, now))
            .collect::<Result<_, _>>()?;
        if self.mode.is_optimist && self.has_overlooked(jobs, &verdicts).await? {
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
        let in_doubt = || operations.iter().map(|it| InDoubt::of(it)).collect();
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
                execute_unless(
                    inserts.is_empty(),
                    self.client,
                    &insert_balances,
                    &insert_params
                ),
                self.client.execute(&insert_operations, &operation_params),
                execute_unless(
                    mark_columns.is_empty(),
                    self.client,
                    &insert_marks,
                    &mark_params
                ),
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
            _ => StoreError::during_commit(&error, in_doubt()),
        })?;
        committed.map_err(|error| StoreError::during_commit(&error, in_doubt()))?;
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

    pub(super) async fn prepare(&self, sql: &str) -> Result<Statement, StoreError> {
        Ok(self.client.prepare_cached(sql).await?)
    }

    pub(super) fn begin(&self) -> String {
        let begin = self.isolation.begin();
        match self.mode.begins {
            true => begin.to_owned(),
            // What the wait for a lock was set to is no longer right.
            false => format!(
                "SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}",
                millis(LOCK_TIMEOUT),
                millis(self.statement_timeout)
            ),
        }
    }
}

async fn execute_unless(
    skip: bool,
    client: &Client,
    statement: &Statement,
    params: &[&(dyn ToSql + Sync)],
) -> Result<u64, tokio_postgres::Error> {
    if skip {
        Ok(0)
    } else {
        client.execute(statement, params).await
    }
}

fn decide(
    job: &Job,
    book: &mut Book,
    contended: &Set<AccountId>,
    now: Instant,
) -> Result<Verdict, StoreError> {
    if !contended.is_empty() {
        let mut account_ids = job.account_ids().iter();
        if let Some(account_id) = account_ids.find(|id| contended.contains(*id)) {
            return Ok(Verdict::Contended(account_id.clone()));
        }
    }
    // Too late is too late, also before the caller's own timer notices. A repetition decides on what was started before.
    let is_withdrawn = job.deadline <= now && job.claim.withdraw();
    if is_withdrawn || !job.claim.start() {
        return Ok(Verdict::Withdrawn);
    }
    match job.work() {
        Work::Command(command) => Ok(Verdict::Decided(book.apply(command))),
        Work::Group(_) => Err(StoreError::Rejected {
            // feature_not_supported
            sqlstate: "0A000".to_owned(),
            message: "this ledger does not execute atomic groups".to_owned(),
        }),
    }
}
