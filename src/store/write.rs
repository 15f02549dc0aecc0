//! The write path: one transaction for a batch of commands. A single command is a batch of one.
//!
//! | phase   | statements                                        | round trip |
//! |---------|---------------------------------------------------|------------|
//! | lock    | BEGIN, `lock_by_row_id` and `lock_by_key`         | 1          |
//! | look up | `known_operations` (and the time), unless the batch was locked by row id | 1 |
//! | (rare)  | `lookup_operations` and `lookup_legs`, only for replays; `lock_categories`, only if a category besides `main` is named of an account that has some; `lock_siblings`, only for commands that need all of those; `existing_accounts`, only if some were not locked; `account_roles` and `lookup_reversals`, only for commands that need them | 1 each |
//! | decide  | [`Book::apply`] in memory, in arrival order        |            |
//! | write   | `write` or `write_indexed` (`write_limits` if limits changed): balances, and the operations that have nothing unusual; then, only if there are any, `insert_balances`, `insert_operations`, `insert_legs`, `set_account_flags`, `set_settlement` | 2 |
//! | commit  | COMMIT; only then is anyone answered              | 2          |
//!
//! Locks are taken in the order of account ids, so two batches cannot wait for each other in a circle. Lock and look-up
//! are two statements, because a lock wait does not refresh the snapshot of its own statement. Usually nobody waits at
//! all: what is locked elsewhere is skipped, and its commands are deferred (see [`Locking`]).
//!
//! With [`Isolation::Serializable`] the look-up sees no more than the lock did: both have the snapshot of the transaction.
//! What the lock waited for, or what changed since the snapshot, then ends the transaction with 40001, and the lane
//! repeats it on a new snapshot. The one thing that is neither locked nor changed is a refused operation of the same id;
//! the unique key ends that one, as it does for ids that come with other accounts.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use deadpool_postgres::Client;
use futures_util::join;
use tokio::time::Instant;
use tokio_postgres::types::ToSql;

use super::Store;
use super::account_writes::{self, AccountWrites};
use super::columns::{
    BalanceColumns, BalanceRow, IndexedEntryColumns, IndexedEntryRow, LegColumns, OperationColumns,
    PlainOperationColumns,
};
use super::connections::Connection;
use super::error::{InDoubt, StoreError};
use super::ledger::{Job, Ledger, Locking, Verdict, Work};
use super::lock::{self, Locked, LockedRows, Siblings};
use super::operation_row::Written;
use super::operations;
use super::pool::LOCK_TIMEOUT;
use super::row::RowId;
use super::statement::{AnyColumns, Columns, Statement};
use super::transaction::{LockBy, Transaction, millis};
use crate::domain::{
    AccountId, BalanceChange, BalanceKey, Book, Changes, Command, Operation, OperationId, Set,
};

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
        let first = match locking {
            Locking::Skip => LockBy::for_skipping(self),
            Locking::Held(hold) => {
                let (client, lock_by) = match hold.take() {
                    Some(client) => (client, LockBy::KeyInHold),
                    None => (self.batches.get().await?, LockBy::Key),
                };
                match self.transact_on(client, jobs, lock_by).await {
                    Err(StoreError::Duplicate { .. }) => LockBy::Key,
                    done => return done,
                }
            }
        };
        let mut lock_by = first;
        for _ in 1..DUPLICATE_ATTEMPTS_MAX {
            match self.transact(jobs, lock_by).await {
                Err(StoreError::Duplicate { .. }) => self.replays.expect_more(),
                done => return done,
            }
            lock_by = LockBy::Key;
        }
        match self.transact(jobs, lock_by).await {
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
    async fn transact(&self, jobs: &[Job], lock_by: LockBy) -> Result<Vec<Verdict>, StoreError> {
        let client = self.batches.get().await?;
        match self.transact_on(client, jobs, lock_by).await {
            Err(StoreError::LockTimeout) if self.await_tables().await? => {
                let client = self.batches.get().await?;
                self.transact_on(client, jobs, lock_by).await
            }
            done => done,
        }
    }

    async fn transact_on(
        &self,
        client: Connection,
        jobs: &[Job],
        lock_by: LockBy,
    ) -> Result<Vec<Verdict>, StoreError> {
        let transaction = Transaction {
            client: &client,
            isolation: self.isolation,
            statement_timeout: self.statement_timeout,
            categories_per_account_max: self.categories_per_account_max,
            lock_by,
            row_ids: &self.row_ids,
            replays: &self.replays,
        };
        // Unless it is given back in order, it may be in the middle of anything: a new one is cheaper than a doubt.
        client.begins();
        let result = transaction.run(jobs).await;
        let is_in_order = match &result {
            Ok(_) => true,
            Err(error) => {
                if matches!(error, StoreError::Unavailable { .. }) {
                    self.write_failures.notify_one();
                }
                error.leaves_the_connection_usable()
                    && client.batch_execute("ROLLBACK").await.is_ok()
            }
        };
        if is_in_order {
            client.ended();
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
        client.begins();
        let result = wait.await.map_err(StoreError::from);
        let is_usable = match &result {
            Ok(()) => true,
            Err(error) => error.leaves_the_connection_usable(),
        };
        if is_usable && client.batch_execute("ROLLBACK").await.is_ok() {
            client.ended();
        }
        result
    }
}

const AWAIT_ACCOUNTS: &str = include_str!("sql/await_accounts.sql");
const AWAIT_CATEGORIES: &str = include_str!("sql/await_categories.sql");
const AWAIT_SIBLINGS: &str = include_str!("sql/await_siblings.sql");
const AWAIT_OPERATION: &str = include_str!("sql/await_operation.sql");
const AWAIT_TABLES: &str = include_str!("sql/await_tables.sql");

macro_rules! statement {
    ($name:ident: $($file:literal),+) => {
        static $name: LazyLock<Statement> =
            LazyLock::new(|| Statement::new(concat!($(include_str!($file)),+)));
    };
}

statement!(WRITE: "sql/updated.sql", "sql/recorded.sql", "sql/all_updated.sql");
statement!(WRITE_INDEXED: "sql/updated.sql", "sql/recorded.sql", "sql/indexed.sql", "sql/all_updated.sql");
statement!(WRITE_LIMITS: "sql/updated_limits.sql", "sql/recorded.sql", "sql/indexed.sql", "sql/all_updated.sql");
statement!(INSERT_BALANCES: "sql/insert_balances.sql");
statement!(INSERT_OPERATIONS: "sql/insert_operations.sql");
statement!(INSERT_LEGS: "sql/insert_legs.sql");

/// The statements of the write path by name, for a look at their plans. Each has an index for each of its keys.
pub fn write_statements() -> Vec<(&'static str, &'static str)> {
    vec![
        ("await_accounts", AWAIT_ACCOUNTS),
        ("await_categories", AWAIT_CATEGORIES),
        ("await_siblings", AWAIT_SIBLINGS),
        ("lock_by_row_id", lock::LOCK_BY_ROW_ID),
        ("lock_by_key", lock::LOCK_BY_KEY),
        ("lock_siblings", lock::LOCK_SIBLINGS),
        ("lock_categories", lock::LOCK_CATEGORIES),
        ("existing_accounts", lock::EXISTING_ACCOUNTS),
        ("account_roles", lock::ACCOUNT_ROLES),
        ("known_operations", operations::KNOWN_OPERATIONS),
        ("lookup_operations", operations::LOOKUP_OPERATIONS),
        ("lookup_legs", operations::LOOKUP_LEGS),
        ("lookup_reversals", operations::LOOKUP_REVERSALS),
        ("write", WRITE.text()),
        ("write_indexed", WRITE_INDEXED.text()),
        ("write_limits", WRITE_LIMITS.text()),
        ("insert_balances", INSERT_BALANCES.text()),
        ("insert_operations", INSERT_OPERATIONS.text()),
        ("insert_legs", INSERT_LEGS.text()),
        (
            "set_account_flags",
            account_writes::SET_ACCOUNT_FLAGS.text(),
        ),
        ("set_settlement", account_writes::SET_SETTLEMENT),
    ]
}

impl Transaction<'_> {
    async fn run(&self, jobs: &[Job]) -> Result<Vec<Verdict>, StoreError> {
        let Locked {
            mut book,
            rows,
            contended,
        } = self.lock(jobs).await?;
        let now = Instant::now();
        let verdicts: Vec<Verdict> = jobs
            .iter()
            .map(|job| decide(job, &mut book, &contended, now))
            .collect();
        if self.lock_by == LockBy::RowId && self.has_overlooked(jobs, &verdicts).await? {
            return Err(StoreError::Duplicate {
                constraint: "operations_pkey".to_owned(),
            });
        }
        self.write(&book.into_changes(), &rows).await?;
        Ok(verdicts)
    }

    async fn write(&self, changes: &Changes, rows: &LockedRows<'_>) -> Result<(), StoreError> {
        let Changes {
            operations,
            balances,
            accounts,
        } = changes;
        let in_doubt = || operations.iter().map(|it| InDoubt::of(it)).collect();
        let commit = self.client.batch_execute("COMMIT");
        if operations.is_empty() {
            return Ok(commit.await?);
        }
        let limits_changed = balances.iter().any(|change| change.breach.is_some());
        let balances = BalanceWrites::of(balances, rows);
        let operations = OperationWrites::of(operations);
        // All statements are prepared before the first one goes, so that they and the COMMIT go in one pipeline.
        let named = match (limits_changed, operations.indexed.is_empty()) {
            (true, _) => &WRITE_LIMITS,
            (false, true) => &WRITE,
            (false, false) => &WRITE_INDEXED,
        };
        let write = self.prepare(named.text()).await?;
        let write_params = named.bind(&[&balances.updates, &operations.plain, &operations.indexed]);
        let insert_balances = self.insert(&INSERT_BALANCES, &balances.inserts).await?;
        let insert_operations = self.insert(&INSERT_OPERATIONS, &operations.unusual).await?;
        let insert_legs = self.insert(&INSERT_LEGS, &operations.legs).await?;
        let account_writes = AccountWrites::prepare(self.client, accounts).await?;
        let (updated, inserted, recorded, with_legs, accounts_changed, committed) = join!(
            self.client.query_one(&write, &write_params),
            insert_balances.execute(self.client),
            insert_operations.execute(self.client),
            insert_legs.execute(self.client),
            account_writes.execute(self.client),
            commit,
        );
        let written = updated.and_then(|row| {
            inserted
                .and(recorded)
                .and(with_legs)
                .and(accounts_changed)?;
            row.try_get::<_, Option<Vec<RowId>>>("row_ids")
        });
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
        let now_at = balances.mains.iter().zip(row_ids.unwrap_or_default());
        self.row_ids
            .remember(now_at.filter_map(|(id, row_id)| Some(((*id)?, row_id))));
        Ok(())
    }

    /// An insert of these rows, ready to be sent; nothing if there are none.
    async fn insert<'b>(
        &self,
        named: &Statement,
        rows: &'b dyn AnyColumns,
    ) -> Result<Insert<'b>, StoreError> {
        if !rows.has_rows() {
            return Ok(Insert(None));
        }
        Ok(Insert(Some((
            self.prepare(named.text()).await?,
            named.bind(&[rows]),
        ))))
    }
}

/// The balances that changed, as columns.
struct BalanceWrites<'a> {
    /// Those that have a row, in the order of their row ids: the statement goes through its pages once.
    updates: BalanceColumns<'a>,
    /// Of each update, the account, if this is its balance `main`; the others' row ids are not remembered.
    mains: Vec<Option<&'a AccountId>>,
    /// Those that have none yet, in the order of their keys.
    inserts: BalanceColumns<'a>,
}

impl<'a> BalanceWrites<'a> {
    fn of(changes: &'a [BalanceChange], rows: &LockedRows<'_>) -> Self {
        let mut with_row = Vec::with_capacity(changes.len());
        let mut without_row = Vec::new();
        for change in changes {
            match rows.get(&change.key) {
                Some(row_id) => with_row.push((row_id, change)),
                None => without_row.push(change),
            }
        }
        with_row.sort_unstable_by_key(|(row_id, _)| *row_id);
        without_row.sort_unstable_by_key(|change| &change.key);
        let mut writes = Self {
            updates: BalanceColumns::default(),
            mains: Vec::with_capacity(with_row.len()),
            inserts: BalanceColumns::default(),
        };
        for (row_id, change) in with_row {
            let BalanceKey {
                account_id,
                category,
            } = &change.key;
            writes.mains.push(category.is_main().then_some(account_id));
            writes.updates.push(BalanceRow::of(change, Some(row_id)));
        }
        for change in without_row {
            writes.inserts.push(BalanceRow::of(change, None));
        }
        writes
    }
}

/// The operations that were decided, as columns.
#[derive(Default)]
struct OperationWrites<'a> {
    /// Those that are written with the balances.
    plain: PlainOperationColumns<'a>,
    /// Those that have something in the columns that the plain ones leave out.
    unusual: OperationColumns<'a>,
    legs: LegColumns<'a>,
    /// Their entries that belong into the sparse entry index.
    indexed: IndexedEntryColumns<'a>,
}

impl<'a> OperationWrites<'a> {
    /// In the order of their ids, so that the index is gone through once.
    fn of(operations: &'a [Arc<Operation>]) -> Self {
        let mut sorted: Vec<&Operation> = operations.iter().map(Arc::as_ref).collect();
        sorted.sort_unstable_by_key(|operation| operation.command.operation_id.as_str());
        let mut writes = Self::default();
        for operation in sorted {
            let Written {
                row,
                legs,
                is_plain,
            } = Written::of(operation);
            match is_plain {
                true => writes.plain.push(row.into()),
                false => writes.unusual.push(row),
            }
            legs.into_iter().for_each(|leg| writes.legs.push(leg));
            let entries = operation.entries().iter();
            let indexed = entries.filter_map(|entry| IndexedEntryRow::of(operation, entry));
            indexed.for_each(|row| writes.indexed.push(row));
        }
        writes
    }
}

/// A statement with its parameters, if there is anything to insert.
struct Insert<'a>(Option<(tokio_postgres::Statement, Vec<&'a (dyn ToSql + Sync)>)>);

impl Insert<'_> {
    async fn execute(&self, client: &Client) -> Result<u64, tokio_postgres::Error> {
        match &self.0 {
            Some((statement, params)) => client.execute(statement, params).await,
            None => Ok(0),
        }
    }
}

async fn execute_unless(
    skip: bool,
    client: &Client,
    statement: &tokio_postgres::Statement,
    params: &[&(dyn ToSql + Sync)],
) -> Result<u64, tokio_postgres::Error> {
    if skip {
        Ok(0)
    } else {
        client.execute(statement, params).await
    }
}

fn decide(job: &Job, book: &mut Book, contended: &Set<AccountId>, now: Instant) -> Verdict {
    if !contended.is_empty() {
        let mut account_ids = job.account_ids().iter();
        if let Some(account_id) = account_ids.find(|id| contended.contains(*id)) {
            return Verdict::Contended(account_id.clone());
        }
    }
    // Too late is too late, also before the caller's own timer notices. A repetition decides on what was started before.
    let is_withdrawn = job.deadline <= now && job.claim.withdraw();
    if is_withdrawn || !job.claim.start() {
        return Verdict::Withdrawn;
    }
    match (job.work(), job.validates_only()) {
        (Work::Command(command), false) => Verdict::Decided(book.apply(command)),
        (Work::Command(command), true) => Verdict::Decided(book.validate(command)),
        (Work::Group(commands), false) => Verdict::GroupDecided(book.apply_group(commands)),
        (Work::Group(commands), true) => Verdict::GroupDecided(book.validate_group(commands)),
    }
}
