//! The first half of the write path: locks the accounts of a batch, and brings what its decisions need.
//!
//! An optimist finds rows at their [`Places`] and does not ask who replays; the unique key of `operations` tells. It
//! never waits for a lock. A careful transaction finds rows by their keys and looks up all operation ids, in a later
//! statement than the locks, because a lock wait does not refresh the snapshot of its own statement.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::{join, join3};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::error::StoreError;
use super::ledger::{Job, Verdict};
use super::merges;
use super::row::{self, PgTime, RowId};
use super::write::Transaction;
use crate::domain::{
    Account, AccountId, BalanceKey, Balances, Book, Category, Command, Map, Movement, Set,
    Timestamp,
};

pub(super) const LOCK_PLACES: &str = include_str!("sql/lock_places.sql");
pub(super) const LOCK_ACCOUNTS: &str = include_str!("sql/lock_accounts.sql");
pub(super) const LOCK_SIBLINGS: &str = include_str!("sql/lock_siblings.sql");
pub(super) const LOCK_CATEGORIES: &str = include_str!("sql/lock_categories.sql");
pub(super) const EXISTING_ACCOUNTS: &str = include_str!("sql/existing_accounts.sql");
pub(super) const KNOWN_OPERATIONS: &str = include_str!("sql/known_operations.sql");

/// What the locks brought: the accounts that are ours, and those that somebody else holds.
pub(super) struct Locked<'a> {
    pub(super) book: Book,
    pub(super) row_ids: RowIds<'a>,
    pub(super) contended: Set<AccountId>,
}

/// Where the locked rows are.
pub(super) struct RowIds<'a> {
    wanted: Wanted<'a>,
    siblings: Map<BalanceKey, RowId>,
}

impl RowIds<'_> {
    /// The place of a balance's row; `None`: it has none yet.
    pub(super) fn get(&self, key: &BalanceKey) -> Option<RowId> {
        if key.category.is_main() {
            self.wanted.get(key.account_id.as_str())?.row_id
        } else {
            self.siblings.get(key).copied()
        }
    }
}

/// The accounts of a batch, by their ids as text.
type Wanted<'a> = Map<&'a str, WantedAccount<'a>>;

/// An account of a batch.
struct WantedAccount<'a> {
    id: &'a AccountId,
    /// Where its row is; `None`: it was not locked.
    row_id: Option<RowId>,
}

/// A row of `lock_accounts` or `lock_places`: an account with its balance `main`.
struct Main<'a> {
    row_id: RowId,
    account_id: &'a str,
    account: Account,
    now: Timestamp,
}

impl<'a> Main<'a> {
    /// The columns by their places in the select list, which is quicker than by their names.
    fn from_row(row: &'a Row) -> Result<Self, StoreError> {
        let balance = row::balance_from(row, 8);
        // A CHECK keeps it from being negative.
        let sibling_count = usize::try_from(row.get::<_, i32>(6)).unwrap_or(0);
        Ok(Self {
            row_id: row.get(0),
            account_id: row.get(1),
            account: Account {
                currency: row::currency_of(row.get(2))?,
                closed: row.get(3),
                debits_frozen: row.get(4),
                credits_frozen: row.get(5),
                balances: Balances::with_unread(balance, sibling_count),
            },
            now: row.get::<_, PgTime>(7).0,
        })
    }
}

/// The accounts of a batch, and what was locked of them so far.
struct Mains<'a> {
    wanted: Wanted<'a>,
    accounts: Map<AccountId, Account>,
    with_siblings: Set<&'a AccountId>,
    /// The latest time that a row came with.
    now: Option<Timestamp>,
}

impl<'a> Mains<'a> {
    fn new(jobs: &'a [Job]) -> Self {
        let mut wanted = Wanted::with_capacity_and_hasher(2 * jobs.len(), <_>::default());
        for id in jobs.iter().flat_map(Job::account_ids) {
            wanted.insert(id.as_str(), WantedAccount { id, row_id: None });
        }
        Self {
            accounts: Map::with_capacity_and_hasher(wanted.len(), <_>::default()),
            wanted,
            with_siblings: Set::default(),
            now: None,
        }
    }

    /// The accounts of the batch, in no order.
    fn wanted_ids(&self) -> Vec<&'a AccountId> {
        self.wanted.values().map(|account| account.id).collect()
    }

    /// Takes those of the rows that belong to accounts of the batch, and says how many did.
    fn add(&mut self, rows: &[Row]) -> Result<usize, StoreError> {
        let mut count = 0;
        for row in rows {
            let main = Main::from_row(row)?;
            let Some(account) = self.wanted.get_mut(main.account_id) else {
                continue;
            };
            account.row_id = Some(main.row_id);
            let account_id = account.id.clone();
            if main.account.balances.unread_count() > 0 {
                self.with_siblings.insert(account.id);
            }
            self.now = self.now.max(Some(main.now));
            self.accounts.insert(account_id, main.account);
            count += 1;
        }
        Ok(count)
    }

    /// The accounts that are not locked.
    fn missing(&self) -> Vec<&'a str> {
        let missing = |account: &&WantedAccount| account.row_id.is_none();
        let missing = self.wanted.values().filter(missing);
        missing.map(|account| account.id.as_str()).collect()
    }
}

/// The balances besides `main` that the commands of a batch need, of those accounts that have any.
pub(super) struct Siblings<'a> {
    /// All of these accounts: a merge moves whatever there is.
    pub(super) whole: Vec<&'a str>,
    /// Those that commands name, of the other accounts: each balance once, as two columns.
    pub(super) account_ids: Vec<&'a str>,
    pub(super) categories: Vec<&'a str>,
}

impl<'a> Siblings<'a> {
    pub(super) fn of(
        commands: impl Iterator<Item = &'a Arc<Command>> + Clone,
        with_siblings: &Set<&AccountId>,
    ) -> Self {
        let movements = commands.map(|command| &command.movement);
        let whole: BTreeSet<&str> = movements
            .clone()
            .filter(|movement| matches!(movement, Movement::Merge { .. }))
            .flat_map(Movement::account_ids)
            .filter(|account_id| with_siblings.contains(account_id))
            .map(AccountId::as_str)
            .collect();
        let named: BTreeSet<(&str, &str)> = movements
            .flat_map(Movement::named_balances)
            .filter(|(account_id, category)| {
                !category.is_main()
                    && with_siblings.contains(account_id)
                    && !whole.contains(account_id.as_str())
            })
            .map(|(account_id, category)| (account_id.as_str(), category.as_str()))
            .collect();
        let (account_ids, categories) = named.into_iter().unzip();
        Self {
            whole: whole.into_iter().collect(),
            account_ids,
            categories,
        }
    }
}

fn wrong_sibling_count(account_id: &AccountId) -> StoreError {
    StoreError::Corrupt(format!("sibling_count of account {account_id}"))
}

impl Transaction<'_> {
    pub(super) async fn lock<'a>(&self, jobs: &'a [Job]) -> Result<Locked<'a>, StoreError> {
        let mut mains = Mains::new(jobs);
        let book = if self.mode.is_optimist {
            self.lock_as_optimist(&mut mains).await?;
            // Without a row nothing will be recorded, and nothing needs the time.
            self.book(mains.now.unwrap_or_default(), jobs)
        } else {
            self.lock_and_look_up(jobs, &mut mains).await?
        };
        let contended = self.contended(mains.missing()).await?;
        let Mains {
            wanted,
            mut accounts,
            with_siblings,
            now: _,
        } = mains;
        let mut locked = Locked {
            book,
            row_ids: RowIds {
                wanted,
                siblings: Map::default(),
            },
            contended,
        };
        if !with_siblings.is_empty() {
            let commands = jobs.iter().flat_map(Job::commands);
            let siblings = Siblings::of(commands, &with_siblings);
            self.lock_siblings(&siblings, &mut accounts, &mut locked)
                .await?;
        }
        self.add_roles(jobs, &accounts, &mut locked.book).await?;
        locked.book.add_accounts(accounts);
        Ok(locked)
    }

    /// Locks rows at their places, and by their keys where those are not known or wrong.
    async fn lock_as_optimist(&self, mains: &mut Mains<'_>) -> Result<(), StoreError> {
        // In no order: each statement sorts for itself.
        let (row_ids, unknown) = self.places.split(&mains.wanted_ids());
        let at_places = self.prepare(LOCK_PLACES).await?;
        let by_keys = self.prepare(LOCK_ACCOUNTS).await?;
        let begin = self.begin();
        let (begun, placed, keyed) = join3(
            self.client.batch_execute(&begin),
            self.query_unless(row_ids.is_empty(), &at_places, &[&row_ids]),
            self.query_unless(unknown.is_empty(), &by_keys, &[&unknown]),
        )
        .await;
        begun?;
        let found = mains.add(&placed?)?;
        mains.add(&keyed?)?;
        if found < row_ids.len() {
            self.places.judge(row_ids.len(), found);
            let missing = mains.missing();
            mains.add(&self.client.query(&by_keys, &[&missing]).await?)?;
        }
        Ok(())
    }

    /// Locks rows by their keys and then looks up the time, and the operations that are known: the book begins with them.
    async fn lock_and_look_up(
        &self,
        jobs: &[Job],
        mains: &mut Mains<'_>,
    ) -> Result<Book, StoreError> {
        let account_ids: Vec<&str> = mains.wanted.keys().copied().collect();
        let operation_ids: Vec<&str> = jobs
            .iter()
            .flat_map(Job::commands)
            .map(|command| command.operation_id.as_str())
            .collect();
        let lock = self.prepare(LOCK_ACCOUNTS).await?;
        let look_up = self.prepare(KNOWN_OPERATIONS).await?;
        let begin = self.begin();
        let (begun, rows, known) = join3(
            self.client.batch_execute(&begin),
            self.client.query(&lock, &[&account_ids]),
            self.client.query_one(&look_up, &[&operation_ids]),
        )
        .await;
        begun?;
        mains.add(&rows?)?;
        let known = known?;
        let mut book = self.book(row::time(&known, "now"), jobs);
        let operation_ids: Vec<&str> = known.get("operation_ids");
        if !operation_ids.is_empty() {
            self.replays.expect_more();
            for operation in merges::operations(self.client, &operation_ids).await? {
                book.add_operation(operation);
            }
        }
        Ok(book)
    }

    fn book(&self, now: Timestamp, jobs: &[Job]) -> Book {
        let command_count = jobs.iter().map(|job| job.commands().len()).sum();
        Book::with_capacity(now, self.categories_per_account_max, command_count)
    }

    /// Whether an operation that an optimist would answer without recording it was recorded before: its caller gets the
    /// first answer then.
    pub(super) async fn has_overlooked(
        &self,
        jobs: &[Job],
        verdicts: &[Verdict],
    ) -> Result<bool, StoreError> {
        let is_unrecorded = |verdict: &Verdict| match verdict {
            Verdict::Decided(Err(refusal)) => !refusal.is_recorded(),
            // The replay of a group that was refused may meet another refusal first.
            Verdict::GroupDecided(Err(_)) => true,
            Verdict::Decided(Ok(_))
            | Verdict::GroupDecided(Ok(_))
            | Verdict::Contended(_)
            | Verdict::Withdrawn => false,
        };
        let operation_ids: Vec<&str> = jobs
            .iter()
            .zip(verdicts)
            .filter(|(_, verdict)| is_unrecorded(verdict))
            .flat_map(|(job, _)| job.commands())
            .map(|command| command.operation_id.as_str())
            .collect();
        if operation_ids.is_empty() {
            return Ok(false);
        }
        let look_up = self.prepare(KNOWN_OPERATIONS).await?;
        let known = self.client.query_one(&look_up, &[&operation_ids]).await?;
        let known: Vec<&str> = known.get("operation_ids");
        Ok(!known.is_empty())
    }

    /// Adds the balances besides `main` that the commands need. An account of which one is locked elsewhere is contended.
    async fn lock_siblings(
        &self,
        siblings: &Siblings<'_>,
        accounts: &mut Map<AccountId, Account>,
        locked: &mut Locked<'_>,
    ) -> Result<(), StoreError> {
        let Siblings {
            whole,
            account_ids,
            categories,
        } = siblings;
        if whole.is_empty() && account_ids.is_empty() {
            return Ok(());
        }
        let by_account = self.prepare(LOCK_SIBLINGS).await?;
        let by_category = self.prepare(LOCK_CATEGORIES).await?;
        let (of_whole, named) = join(
            self.query_unless(whole.is_empty(), &by_account, &[whole]),
            self.query_unless(
                account_ids.is_empty(),
                &by_category,
                &[account_ids, categories],
            ),
        )
        .await;
        for row in of_whole?.iter().chain(&named?) {
            let account_id = AccountId::from_stored(row.get("account_id"));
            let Some(account) = accounts.get_mut(&account_id) else {
                // One of its rows was locked elsewhere.
                continue;
            };
            let Some(row_id) = row.get("row_id") else {
                accounts.remove(&account_id);
                locked.contended.insert(account_id);
                continue;
            };
            let category = Category::from_stored(row.get("category"));
            if !account.balances.add_read(&category, row::balance(row)) {
                return Err(wrong_sibling_count(&account_id));
            }
            let key = BalanceKey {
                account_id,
                category,
            };
            locked.row_ids.siblings.insert(key, row_id);
        }
        for account_id in whole.iter().copied().map(AccountId::from_stored) {
            let account = accounts.get(&account_id);
            if account.is_some_and(|account| account.balances.unread_count() > 0) {
                return Err(wrong_sibling_count(&account_id));
            }
        }
        Ok(())
    }

    /// Which of the accounts that were not locked exist: somebody else holds those.
    async fn contended(&self, missing: Vec<&str>) -> Result<Set<AccountId>, StoreError> {
        if missing.is_empty() {
            return Ok(Set::default());
        }
        let statement = self.prepare(EXISTING_ACCOUNTS).await?;
        let existing = self.client.query(&statement, &[&missing]).await?;
        Ok(existing
            .iter()
            .map(|row| AccountId::from_stored(row.get("account_id")))
            .collect())
    }

    /// Adds what only merges ask about their accounts.
    async fn add_roles(
        &self,
        jobs: &[Job],
        accounts: &Map<AccountId, Account>,
        book: &mut Book,
    ) -> Result<(), StoreError> {
        let merged: BTreeSet<&str> = jobs
            .iter()
            .flat_map(Job::commands)
            .filter(|command| matches!(command.movement, Movement::Merge { .. }))
            .flat_map(|command| command.movement.account_ids())
            .filter(|id| accounts.contains_key(*id))
            .map(AccountId::as_str)
            .collect();
        if merged.is_empty() {
            return Ok(());
        }
        merges::add_roles(self.client, &Vec::from_iter(merged), book).await
    }

    pub(super) async fn query_unless(
        &self,
        skip: bool,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        match skip {
            true => Ok(Vec::new()),
            false => self.client.query(statement, params).await,
        }
    }
}
