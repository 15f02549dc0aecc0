//! The write path: one transaction for a batch of commands. A single command is a batch of one.
//!
//! | phase   | statements                                        | round trip |
//! |---------|---------------------------------------------------|------------|
//! | lock    | BEGIN, `lock_accounts`                            | 1          |
//! | look up | `known_operations` (and the time)                 | 1          |
//! | (rare)  | `lookup_operations`, only for replays; `lock_siblings`, only for accounts with categories; `existing_accounts`, only if some were not locked; `account_roles`, only for merges | 1 each |
//! | decide  | [`Book::apply`] in memory, in arrival order        |            |
//! | write   | `update_balances`, `insert_balances`, `insert_operations`, `insert_entries`, and for merges `close_accounts`, `set_settlement`, `insert_merge_parts` | 2 |
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

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Client;
use futures_util::future::join3;
use futures_util::join;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::Store;
use super::columns::{BalanceColumns, EntryColumns, OperationColumns};
use super::error::StoreError;
use super::ledger::{Job, Ledger, Locking, Verdict};
use super::merges::{self, MergeWrites};
use super::pool::Isolation;
use super::retry::Retries;
use super::row::{self, RowId};
use crate::domain::{
    Account, AccountId, BalanceChange, BalanceKey, Balances, Book, Category, Map, Movement,
    Operation, Set,
};

/// How long a batch that waits may hold its other locks. Other instances hold theirs for some milliseconds; whoever
/// holds one longer is an outsider, and is waited for without holding anything.
const WAIT_WHILE_HOLDING: Duration = Duration::from_millis(100);

impl Ledger for Store {
    async fn execute(&self, jobs: &[Job], locking: &Locking) -> Result<Vec<Verdict>, StoreError> {
        let (account_id, wait_max) = match locking {
            Locking::Skip => return self.transact(jobs, None).await,
            Locking::Wait {
                account_id,
                wait_max,
            } => (account_id, *wait_max),
        };
        match self
            .transact(jobs, Some(WAIT_WHILE_HOLDING.min(wait_max)))
            .await
        {
            Err(StoreError::LockTimeout) => self.await_account(account_id, wait_max).await?,
            done => return done,
        }
        self.transact(jobs, Some(WAIT_WHILE_HOLDING)).await
    }

    fn retries(&self) -> &Retries {
        &self.retries
    }
}

impl Store {
    async fn transact(
        &self,
        jobs: &[Job],
        lock_timeout: Option<Duration>,
    ) -> Result<Vec<Verdict>, StoreError> {
        let client = self.batches.get().await?;
        let transaction = Transaction {
            client: &client,
            isolation: self.isolation,
            lock_timeout,
        };
        let result = transaction.run(jobs).await;
        if let Err(error) = &result {
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

const LOCK_ACCOUNTS: &str = include_str!("sql/lock_accounts.sql");
const LOCK_ACCOUNTS_SKIP: &str = concat!(include_str!("sql/lock_accounts.sql"), "SKIP LOCKED");
const LOCK_SIBLINGS: &str = include_str!("sql/lock_siblings.sql");
const LOCK_SIBLINGS_SKIP: &str = concat!(include_str!("sql/lock_siblings.sql"), "SKIP LOCKED");
const EXISTING_ACCOUNTS: &str = include_str!("sql/existing_accounts.sql");
const AWAIT_ACCOUNT: &str = include_str!("sql/await_account.sql");
const KNOWN_OPERATIONS: &str = include_str!("sql/known_operations.sql");
const UPDATE_BALANCES: &str = include_str!("sql/update_balances.sql");
const INSERT_BALANCES: &str = include_str!("sql/insert_balances.sql");
const INSERT_OPERATIONS: &str = include_str!("sql/insert_operations.sql");
const INSERT_PLAIN_OPERATIONS: &str = include_str!("sql/insert_plain_operations.sql");
const INSERT_ENTRIES: &str = include_str!("sql/insert_entries.sql");
const INSERT_PLAIN_ENTRIES: &str = include_str!("sql/insert_plain_entries.sql");

/// The statements of the write path by name, for a look at their plans. Each has an index for each of its keys.
pub const WRITE_STATEMENTS: [(&str, &str); 17] = [
    ("await_account", AWAIT_ACCOUNT),
    ("lock_accounts", LOCK_ACCOUNTS),
    ("lock_siblings", LOCK_SIBLINGS),
    ("existing_accounts", EXISTING_ACCOUNTS),
    ("known_operations", KNOWN_OPERATIONS),
    ("lookup_operations", merges::LOOKUP_OPERATIONS),
    ("lookup_merge_parts", merges::LOOKUP_MERGE_PARTS),
    ("account_roles", merges::ACCOUNT_ROLES),
    ("update_balances", UPDATE_BALANCES),
    ("insert_balances", INSERT_BALANCES),
    ("insert_operations", INSERT_OPERATIONS),
    ("insert_plain_operations", INSERT_PLAIN_OPERATIONS),
    ("insert_entries", INSERT_ENTRIES),
    ("insert_plain_entries", INSERT_PLAIN_ENTRIES),
    ("close_accounts", merges::CLOSE_ACCOUNTS),
    ("set_settlement", merges::SET_SETTLEMENT),
    ("insert_merge_parts", merges::INSERT_MERGE_PARTS),
];

/// One transaction on one connection.
struct Transaction<'a> {
    client: &'a Client,
    isolation: Isolation,
    lock_timeout: Option<Duration>,
}

/// What the locks brought: the accounts that are ours, and those that somebody else holds.
struct Locked {
    book: Book,
    row_ids: Map<BalanceKey, RowId>,
    contended: Set<AccountId>,
}

impl Locked {
    /// Remembers where a balance's row is.
    fn note_place(&mut self, row: &Row, account_id: &AccountId, category: Category) {
        let key = BalanceKey {
            account_id: account_id.clone(),
            category,
        };
        self.row_ids.insert(key, row.get("ctid"));
    }
}

impl Transaction<'_> {
    async fn run(&self, jobs: &[Job]) -> Result<Vec<Verdict>, StoreError> {
        let Locked {
            mut book,
            row_ids,
            contended,
        } = self.lock(jobs).await?;
        let verdicts = jobs
            .iter()
            .map(|job| decide(job, &mut book, &contended))
            .collect();
        let closures = book.closures();
        let (operations, balances) = book.into_changes();
        let merged = operations.iter().map(Arc::as_ref);
        let merges = MergeWrites::prepare(self.client, &closures, merged).await?;
        self.write(&operations, &balances, &row_ids, &merges)
            .await?;
        Ok(verdicts)
    }

    async fn lock(&self, jobs: &[Job]) -> Result<Locked, StoreError> {
        let account_ids: BTreeSet<&AccountId> = jobs
            .iter()
            .flat_map(|job| job.command.movement.account_ids())
            .collect();
        let account_texts: Vec<&str> = account_ids.iter().map(|id| id.as_str()).collect();
        let operation_ids: Vec<&str> = jobs
            .iter()
            .map(|job| job.command.operation_id.as_str())
            .collect();
        let lock = self
            .prepare(self.either(LOCK_ACCOUNTS, LOCK_ACCOUNTS_SKIP))
            .await?;
        let look_up = self.prepare(KNOWN_OPERATIONS).await?;
        let begin = self.begin();
        let (begun, mains, known) = join3(
            self.client.batch_execute(&begin),
            self.client.query(&lock, &[&account_texts]),
            self.client.query_one(&look_up, &[&operation_ids]),
        )
        .await;
        begun?;
        let (mains, known) = (mains?, known?);

        let mut book = Book::with_capacity(row::time(&known, "now"), jobs.len());
        for operation in self.operations(known.get("operation_ids")).await? {
            book.add_operation(operation);
        }
        let mut locked = Locked {
            book,
            row_ids: Map::with_capacity_and_hasher(mains.len(), <_>::default()),
            contended: Set::default(),
        };
        let mut accounts = Map::with_capacity_and_hasher(mains.len(), <_>::default());
        let mut sibling_counts = Map::default();
        for main in &mains {
            let account_id = AccountId::from_stored(main.get("account_id"));
            let sibling_count: i32 = main.get("sibling_count");
            if sibling_count > 0 {
                sibling_counts.insert(account_id.clone(), sibling_count);
            }
            locked.note_place(main, &account_id, Category::main());
            accounts.insert(account_id, account(main)?);
        }
        let missing: Vec<&str> = account_ids
            .iter()
            .filter(|id| !accounts.contains_key(**id))
            .map(|id| id.as_str())
            .collect();
        locked.contended = self.contended(missing).await?;
        self.lock_siblings(&mut accounts, sibling_counts, &mut locked)
            .await?;
        let merged: BTreeSet<&str> = jobs
            .iter()
            .filter(|job| matches!(job.command.movement, Movement::Merge { .. }))
            .flat_map(|job| job.command.movement.account_ids())
            .filter(|id| accounts.contains_key(*id))
            .map(AccountId::as_str)
            .collect();
        if !merged.is_empty() {
            let merged = Vec::from_iter(merged);
            merges::add_roles(self.client, &merged, &mut locked.book).await?;
        }
        for (account_id, account) in accounts {
            locked.book.add_account(account_id, account);
        }
        Ok(locked)
    }

    /// The recorded operations of these ids.
    async fn operations(&self, operation_ids: Vec<&str>) -> Result<Vec<Operation>, StoreError> {
        match operation_ids.is_empty() {
            true => Ok(Vec::new()),
            false => merges::operations(self.client, &operation_ids).await,
        }
    }

    /// Adds the other balances of accounts that have some. An account of which one is locked elsewhere is contended.
    async fn lock_siblings(
        &self,
        accounts: &mut Map<AccountId, Account>,
        mut sibling_counts: Map<AccountId, i32>,
        locked: &mut Locked,
    ) -> Result<(), StoreError> {
        if sibling_counts.is_empty() {
            return Ok(());
        }
        let account_ids: Vec<&str> = sibling_counts.keys().map(AccountId::as_str).collect();
        let statement = self
            .prepare(self.either(LOCK_SIBLINGS, LOCK_SIBLINGS_SKIP))
            .await?;
        for sibling in self.client.query(&statement, &[&account_ids]).await? {
            let account_id = AccountId::from_stored(sibling.get("account_id"));
            let category = Category::from_stored(sibling.get("category"));
            if let (Some(account), Some(count)) = (
                accounts.get_mut(&account_id),
                sibling_counts.get_mut(&account_id),
            ) {
                locked.note_place(&sibling, &account_id, category.clone());
                account.balances.insert(category, row::balance(&sibling));
                *count -= 1;
            }
        }
        for (account_id, missing_count) in sibling_counts {
            match missing_count {
                0 => {}
                1.. if self.lock_timeout.is_none() => {
                    accounts.remove(&account_id);
                    locked.contended.insert(account_id);
                }
                _ => {
                    return Err(StoreError::Corrupt(format!(
                        "sibling_count of account {account_id}"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Which of the accounts that were not locked exist: somebody else holds those.
    async fn contended(&self, missing: Vec<&str>) -> Result<Set<AccountId>, StoreError> {
        if missing.is_empty() || self.lock_timeout.is_some() {
            return Ok(Set::default());
        }
        let statement = self.prepare(EXISTING_ACCOUNTS).await?;
        let existing = self.client.query(&statement, &[&missing]).await?;
        Ok(existing
            .iter()
            .map(|row| AccountId::from_stored(row.get("account_id")))
            .collect())
    }

    async fn write(
        &self,
        operations: &[Arc<Operation>],
        balances: &[BalanceChange],
        row_ids: &Map<BalanceKey, RowId>,
        merges: &MergeWrites,
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
        let mut sorted: Vec<&Operation> = operations.iter().map(Arc::as_ref).collect();
        sorted.sort_unstable_by(|a, b| {
            a.command
                .operation_id
                .as_str()
                .cmp(b.command.operation_id.as_str())
        });
        let operation_columns = OperationColumns::new(&sorted);
        let entry_columns = EntryColumns::new(operations);
        let (insert_operations, operation_params) = if operation_columns.are_plain() {
            let params = operation_columns.plain_params().to_vec();
            (INSERT_PLAIN_OPERATIONS, params)
        } else {
            (INSERT_OPERATIONS, operation_columns.params())
        };
        let (insert_entries, entry_params) = if entry_columns.are_plain() {
            (INSERT_PLAIN_ENTRIES, entry_columns.plain_params().to_vec())
        } else {
            (INSERT_ENTRIES, entry_columns.params())
        };
        let (update, insert_balances, insert_operations, insert_entries) = (
            self.prepare(UPDATE_BALANCES).await?,
            self.prepare(INSERT_BALANCES).await?,
            self.prepare(insert_operations).await?,
            self.prepare(insert_entries).await?,
        );
        let (update_params, insert_params) =
            (updates.params_of_update(), inserts.params_of_insert());
        let (updated, inserted, recorded, entered, merged, committed) = join!(
            self.execute_unless(updates.is_empty(), &update, &update_params),
            self.execute_unless(inserts.is_empty(), &insert_balances, &insert_params),
            self.client.execute(&insert_operations, &operation_params),
            self.execute_unless(entry_columns.is_empty(), &insert_entries, &entry_params),
            merges.execute(self.client),
            commit,
        );
        // COMMIT of an aborted transaction reports success, so the statements before it are what counts.
        let sent: [Result<u64, tokio_postgres::Error>; 5] =
            [updated, inserted, recorded, entered, merged];
        if let Some(error) = sent.iter().find_map(|result| result.as_ref().err()) {
            return Err(match error.as_db_error() {
                // A pooler in between says 08 or 57P when it lost the server, and the COMMIT may have reached it.
                Some(database)
                    if !["08", "57P"]
                        .iter()
                        .any(|class| database.code().code().starts_with(class)) =>
                {
                    error.into()
                }
                _ => StoreError::during_commit(error, operation_ids()),
            });
        }
        let [updated, .., merged] = sent;
        committed.map_err(|error| StoreError::during_commit(&error, operation_ids()))?;
        match (updated, merged) {
            (Ok(rows), Ok(closed))
                if rows == updates.len() as u64 && closed == merges.closed_count() =>
            {
                Ok(())
            }
            _ => Err(StoreError::Corrupt(
                "a locked balance disappeared".to_owned(),
            )),
        }
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

    async fn prepare(&self, sql: &str) -> Result<Statement, StoreError> {
        Ok(self.client.prepare_cached(sql).await?)
    }

    fn either(&self, waiting: &'static str, skipping: &'static str) -> &'static str {
        if self.lock_timeout.is_some() {
            waiting
        } else {
            skipping
        }
    }

    fn begin(&self) -> String {
        let begin = format!("BEGIN ISOLATION LEVEL {}", self.isolation.sql());
        match self.lock_timeout {
            Some(lock_timeout) => {
                format!("{begin}; SET LOCAL lock_timeout = {}", millis(lock_timeout))
            }
            None => begin,
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

fn account(main: &Row) -> Result<Account, StoreError> {
    Ok(Account {
        currency: row::currency(main)?,
        closed: main.get("closed"),
        debits_frozen: main.get("debits_frozen"),
        credits_frozen: main.get("credits_frozen"),
        balances: Balances::new(row::balance(main)),
    })
}
