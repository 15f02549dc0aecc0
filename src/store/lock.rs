//! The first half of the write path: locks the accounts of a batch, and brings what its decisions need.
//!
//! A batch that locks by row id finds rows by the [`RowIdCache`](super::row_id_cache::RowIdCache) and does not ask who
//! replays; the unique key of `operations` tells. It never waits for a lock. One that locks by key looks up all operation ids
//! too, in a later statement than the locks, because a lock wait does not refresh the snapshot of its own statement.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::{join, join3};
use tokio_postgres::Row;

use super::error::StoreError;
use super::ledger::{Job, Verdict};
use super::operations::{self, KNOWN_OPERATIONS};
use super::row::{self, PgTime, RowId};
use super::transaction::{LockBy, Transaction};
use crate::domain::{
    Account, AccountFlags, AccountId, AccountNeed, BalanceKey, Balances, BalancesNeed, Book,
    Category, Command, Map, OperationId, OwnerId, Role, Set, Timestamp,
};

pub(super) const LOCK_BY_ROW_ID: &str = include_str!("sql/lock_by_row_id.sql");
pub(super) const LOCK_BY_KEY: &str = include_str!("sql/lock_by_key.sql");
pub(super) const LOCK_SIBLINGS: &str = include_str!("sql/lock_siblings.sql");
pub(super) const LOCK_CATEGORIES: &str = include_str!("sql/lock_categories.sql");
pub(super) const EXISTING_ACCOUNTS: &str = include_str!("sql/existing_accounts.sql");
pub(super) const ACCOUNT_ROLES: &str = include_str!("sql/account_roles.sql");

/// What the locks brought: the accounts that are ours, and those that somebody else holds.
pub(super) struct Locked<'a> {
    pub(super) book: Book,
    pub(super) rows: LockedRows<'a>,
    pub(super) contended: Set<AccountId>,
}

/// Where the locked rows are.
pub(super) struct LockedRows<'a> {
    wanted: Wanted<'a>,
    siblings: Map<BalanceKey, RowId>,
}

impl LockedRows<'_> {
    /// The row id of a balance; `None`: it has none yet.
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

/// A row of `lock_by_key` or `lock_by_row_id`: an account with its balance `main`.
struct Main<'a> {
    row_id: RowId,
    account_id: &'a str,
    account: Account,
    now: Timestamp,
}

impl<'a> Main<'a> {
    /// The columns by their positions in the select list, which is quicker than by their names.
    fn from_row(row: &'a Row) -> Result<Self, StoreError> {
        let balance = row::balance_from(row, 8);
        // A CHECK keeps it from being negative.
        let sibling_count = usize::try_from(row.get::<_, i32>(6)).unwrap_or(0);
        Ok(Self {
            row_id: row.get(0),
            account_id: row.get(1),
            account: Account {
                currency: row::currency_of(row.get(2))?,
                flags: AccountFlags {
                    closed: row.get(3),
                    debits_frozen: row.get(4),
                    credits_frozen: row.get(5),
                },
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
    /// All of these accounts.
    pub(super) whole: Vec<&'a str>,
    /// Those that commands name, of the other accounts: each balance once, as two columns.
    pub(super) account_ids: Vec<&'a str>,
    pub(super) categories: Vec<&'a str>,
}

impl<'a> Siblings<'a> {
    pub(super) fn of(
        commands: impl Iterator<Item = &'a Arc<Command>>,
        with_siblings: &Set<&AccountId>,
    ) -> Self {
        let mut whole = BTreeSet::new();
        let mut named = BTreeSet::new();
        for need in commands.flat_map(|command| command.needs().accounts) {
            if !with_siblings.contains(need.account_id) {
                continue;
            }
            let account_id = need.account_id.as_str();
            match need.balances {
                BalancesNeed::All => drop(whole.insert(account_id)),
                BalancesNeed::Named(categories) => {
                    let others = categories.iter().filter(|category| !category.is_main());
                    named.extend(others.map(|category| (account_id, category.as_str())));
                }
            }
        }
        named.retain(|(account_id, _)| !whole.contains(account_id));
        let (account_ids, categories) = named.into_iter().unzip();
        Self {
            whole: whole.into_iter().collect(),
            account_ids,
            categories,
        }
    }
}

/// What the commands of a batch need besides balances.
#[derive(Default)]
struct NeededFacts<'a> {
    /// The roles of these accounts, which are locked.
    roles: BTreeSet<&'a str>,
    /// The reversals of these operations.
    reversals: BTreeSet<&'a str>,
}

impl<'a> NeededFacts<'a> {
    fn of(jobs: &'a [Job], accounts: &Map<AccountId, Account>) -> Self {
        let mut facts = Self::default();
        for needs in jobs
            .iter()
            .flat_map(Job::commands)
            .map(|command| command.needs())
        {
            let of_role =
                |need: &&AccountNeed<'_>| need.role && accounts.contains_key(need.account_id);
            let roles = needs.accounts.iter().filter(of_role);
            facts
                .roles
                .extend(roles.map(|need| need.account_id.as_str()));
            facts
                .reversals
                .extend(needs.reversals_of.map(OperationId::as_str));
        }
        facts
    }
}

fn wrong_sibling_count(account_id: &AccountId) -> StoreError {
    StoreError::Corrupt(format!("sibling_count of account {account_id}"))
}

impl Transaction<'_> {
    pub(super) async fn lock<'a>(&self, jobs: &'a [Job]) -> Result<Locked<'a>, StoreError> {
        let mut mains = Mains::new(jobs);
        let book = match self.lock_by {
            LockBy::RowId => {
                self.lock_by_row_id(&mut mains).await?;
                // Without a row nothing will be recorded, and nothing needs the time.
                self.book(mains.now.unwrap_or_default(), jobs)
            }
            LockBy::Key | LockBy::KeyInHold => self.lock_by_key(jobs, &mut mains).await?,
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
            rows: LockedRows {
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
        let facts = NeededFacts::of(jobs, &accounts);
        self.add_roles(facts.roles, &mut locked.book).await?;
        self.add_reversals(facts.reversals, &mut locked.book)
            .await?;
        locked.book.add_accounts(accounts);
        Ok(locked)
    }

    /// Locks rows by their row ids, and by their keys where those are not known or wrong.
    async fn lock_by_row_id(&self, mains: &mut Mains<'_>) -> Result<(), StoreError> {
        // In no order: each statement sorts for itself.
        let (row_ids, unknown) = self.row_ids.split(&mains.wanted_ids());
        let by_row_ids = self.prepare(LOCK_BY_ROW_ID).await?;
        let by_keys = self.prepare(LOCK_BY_KEY).await?;
        let begin = self.begin();
        let (begun, by_row_id, by_key) = join3(
            self.client.batch_execute(&begin),
            self.query_unless(row_ids.is_empty(), &by_row_ids, &[&row_ids]),
            self.query_unless(unknown.is_empty(), &by_keys, &[&unknown]),
        )
        .await;
        begun?;
        let found = mains.add(&by_row_id?)?;
        mains.add(&by_key?)?;
        if found < row_ids.len() {
            self.row_ids.judge(row_ids.len(), found);
            let missing = mains.missing();
            mains.add(&self.client.query(&by_keys, &[&missing]).await?)?;
        }
        Ok(())
    }

    /// Locks rows by their keys and then looks up the time, and the operations that are known: the book begins with them.
    async fn lock_by_key(&self, jobs: &[Job], mains: &mut Mains<'_>) -> Result<Book, StoreError> {
        let account_ids: Vec<&str> = mains.wanted.keys().copied().collect();
        let operation_ids: Vec<&str> = jobs
            .iter()
            .flat_map(Job::commands)
            .map(|command| command.operation_id.as_str())
            .collect();
        let lock = self.prepare(LOCK_BY_KEY).await?;
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
            for operation in operations::operations(self.client, &operation_ids).await? {
                book.add_operation(operation);
            }
        }
        Ok(book)
    }

    fn book(&self, now: Timestamp, jobs: &[Job]) -> Book {
        let command_count = jobs.iter().map(|job| job.commands().len()).sum();
        Book::with_capacity(now, self.categories_per_account_max, command_count)
    }

    /// Whether an operation that would be answered without being recorded was recorded before: its caller gets the first
    /// answer then. Only for a batch that did not look up.
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
            .filter(|(job, verdict)| job.validates_only() || is_unrecorded(verdict))
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
            locked.rows.siblings.insert(key, row_id);
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

    /// Adds whose these locked accounts are, and whether they receive for their owners.
    async fn add_roles(
        &self,
        account_ids: BTreeSet<&str>,
        book: &mut Book,
    ) -> Result<(), StoreError> {
        if account_ids.is_empty() {
            return Ok(());
        }
        let account_ids = Vec::from_iter(account_ids);
        let statement = self.prepare(ACCOUNT_ROLES).await?;
        let roles = self.client.query(&statement, &[&account_ids]).await?;
        let found: BTreeSet<&str> = roles.iter().map(|row| row.get("account_id")).collect();
        if let Some(lost) = account_ids.iter().find(|id| !found.contains(*id)) {
            return Err(StoreError::Corrupt(format!(
                "account {lost} has balances and no account"
            )));
        }
        for row in &roles {
            let mut role = Role::new(
                OwnerId::from_stored(row.get("owner_id")),
                row.get("settlement"),
            );
            let merged_into: Option<&str> = row.get("merged_into");
            role.merged_into = merged_into.map(AccountId::from_stored);
            let change_time: Option<PgTime> = row.get("change_time");
            role.change_time = change_time.map(|time| time.0).unwrap_or_default();
            book.add_role(AccountId::from_stored(row.get("account_id")), role);
        }
        Ok(())
    }

    /// Adds what is known of the operations that commands reverse. Their accounts are locked by now, and every reversal of them
    /// takes those locks, so no other one comes in between.
    async fn add_reversals(
        &self,
        original_ids: BTreeSet<&str>,
        book: &mut Book,
    ) -> Result<(), StoreError> {
        if original_ids.is_empty() {
            return Ok(());
        }
        let original_ids = Vec::from_iter(original_ids);
        for (original_id, reversals) in operations::reversals(self.client, &original_ids).await? {
            book.add_reversals(original_id, reversals);
        }
        Ok(())
    }
}
