//! The book: the locked accounts of one batch, in memory. It decides commands one after the other, each on top of the
//! changes of those before it, and remembers what has to be written. Pure: the same book and the same commands give
//! the same answers, in one batch or in many.

mod merge;

use std::sync::Arc;

use super::command::{BalanceKey, Command, Movement, Source};
use super::id::{AccountId, Category, OperationId};
use super::map::Map;
use super::money::{Amount, Currency};
use super::operation::{Entry, Operation, Outcome, Receipt};
use super::refusal::{Refusal, Side};
use super::time::Timestamp;

/// One balance. Amounts in minor units.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Balance {
    /// Settled money.
    pub posted: i64,
    /// Money reserved by holds.
    pub held: i64,
    /// How far `posted - held` may go below zero.
    pub overdraft_limit: i64,
    /// The most that `posted` may reach; `None`: what an `i64` holds.
    pub balance_limit: Option<i64>,
    /// Counts the entries.
    pub version: i64,
    /// When the last entry was made; the epoch while there is none.
    pub update_time: Timestamp,
    /// The operation that made the last entry; `None` while there is none.
    pub last_operation_id: Option<OperationId>,
}

/// A balance that nobody has changed yet.
static UNTOUCHED: Balance = Balance {
    posted: 0,
    held: 0,
    overdraft_limit: 0,
    balance_limit: None,
    version: 0,
    update_time: Timestamp::from_micros(0),
    last_operation_id: None,
};

impl Balance {
    /// What a debit can take: `posted - held + overdraft_limit`, at most what an `i64` holds.
    pub fn available(&self) -> i64 {
        let available =
            i128::from(self.posted) - i128::from(self.held) + i128::from(self.overdraft_limit);
        i64::try_from(available).unwrap_or(if available > 0 { i64::MAX } else { i64::MIN })
    }

    /// The most that `posted` may reach.
    pub fn limit(&self) -> i64 {
        self.balance_limit.unwrap_or(i64::MAX)
    }
}

/// An account as far as decisions need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The currency of all its balances.
    pub currency: Currency,
    /// Every operation is refused.
    pub closed: bool,
    /// Debits are refused.
    pub debits_frozen: bool,
    /// Credits are refused.
    pub credits_frozen: bool,
    /// Its balances, as far as the batch names them. A category that is named and missing has a zero balance.
    pub balances: Balances,
}

impl Account {
    fn balance(&self, category: &Category) -> &Balance {
        self.balances.get(category).unwrap_or(&UNTOUCHED)
    }
}

/// The balances of an account: `main`, which every account has, and mostly no others. They know which of them a book changed,
/// and how many there are that were not read because nobody asks about them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Balances {
    main: Pocket,
    /// Ordered by category.
    others: Vec<(Category, Pocket)>,
    unread_count: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Pocket {
    balance: Balance,
    is_changed: bool,
}

impl Pocket {
    fn new(balance: Balance) -> Self {
        Self {
            balance,
            is_changed: false,
        }
    }
}

impl Balances {
    /// Those of an account that has no category but `main`.
    pub fn new(main: Balance) -> Self {
        Self::with_unread(main, 0)
    }

    /// Those of an account that has so many categories besides `main`, none of which was read yet.
    pub fn with_unread(main: Balance, unread_count: usize) -> Self {
        Self {
            main: Pocket::new(main),
            others: Vec::new(),
            unread_count,
        }
    }

    /// How many categories the account has that are not here.
    pub fn unread_count(&self) -> usize {
        self.unread_count
    }

    /// How many categories the account has, `main` included.
    fn category_count(&self) -> usize {
        1 + self.others.len() + self.unread_count
    }

    fn has(&self, category: &Category) -> bool {
        self.get(category).is_some()
    }

    /// Adds a category that the account has and that was not read before. `false`: it has none of those any more, so what
    /// was said of their number is wrong.
    #[must_use]
    pub fn add_read(&mut self, category: &Category, balance: Balance) -> bool {
        let Some(unread_count) = self.unread_count.checked_sub(1) else {
            return false;
        };
        self.unread_count = unread_count;
        *self.get_or_insert(category) = balance;
        true
    }

    /// The balance of a category; `None`: it has none yet.
    pub fn get(&self, category: &Category) -> Option<&Balance> {
        if category.is_main() {
            return Some(&self.main.balance);
        }
        let index = self.position(category).ok()?;
        Some(&self.others[index].1.balance)
    }

    /// The balance of a category, to change it. Zero, if it had none yet.
    pub fn get_or_insert(&mut self, category: &Category) -> &mut Balance {
        &mut self.pocket(category).balance
    }

    fn pocket(&mut self, category: &Category) -> &mut Pocket {
        if category.is_main() {
            return &mut self.main;
        }
        let index = self.position(category).unwrap_or_else(|index| {
            self.others
                .insert(index, (category.clone(), Pocket::default()));
            index
        });
        &mut self.others[index].1
    }

    /// Where a category is among the others, or where it belongs.
    fn position(&self, category: &Category) -> Result<usize, usize> {
        self.others
            .binary_search_by(|(other, _)| other.cmp(category))
    }

    /// Sets the balance of a category.
    pub fn insert(&mut self, category: Category, balance: Balance) {
        *self.get_or_insert(&category) = balance;
    }

    /// All balances with their categories, `main` first.
    pub fn iter(&self) -> impl Iterator<Item = (Category, &Balance)> {
        let others = self.others.iter();
        std::iter::once((Category::main(), &self.main.balance))
            .chain(others.map(|(category, pocket)| (category.clone(), &pocket.balance)))
    }

    /// Those that a book changed.
    fn into_changed(self) -> impl Iterator<Item = (Category, Balance)> {
        std::iter::once((Category::main(), self.main))
            .chain(self.others)
            .filter(|(_, pocket)| pocket.is_changed)
            .map(|(category, pocket)| (category, pocket.balance))
    }
}

/// The new state of one balance that a batch changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceChange {
    /// The balance.
    pub key: BalanceKey,
    /// The currency of its account.
    pub currency: Currency,
    /// Its state after the batch.
    pub balance: Balance,
}

/// The accounts and known operations of a batch. See the module.
#[derive(Debug)]
pub struct Book {
    now: Timestamp,
    categories_per_account_max: usize,
    accounts: Map<AccountId, Account>,
    known: Map<OperationId, Arc<Operation>>,
    decided: Vec<Arc<Operation>>,
    roles: Map<AccountId, Role>,
    closed: Vec<AccountId>,
}

pub use merge::{Closures, Role};

impl Book {
    /// An empty book. `now` is a time after which all its accounts were locked. An account gets no new category beyond so
    /// many, `main` included; one that has more keeps them.
    pub fn new(now: Timestamp, categories_per_account_max: usize) -> Self {
        Self::with_capacity(now, categories_per_account_max, 0)
    }

    /// An empty book with room for so many commands.
    pub fn with_capacity(
        now: Timestamp,
        categories_per_account_max: usize,
        command_count: usize,
    ) -> Self {
        Self {
            now,
            categories_per_account_max,
            accounts: Map::default(),
            known: Map::with_capacity_and_hasher(command_count, <_>::default()),
            decided: Vec::with_capacity(command_count),
            roles: Map::default(),
            closed: Vec::new(),
        }
    }

    /// Adds locked accounts. An account that is not added does not exist.
    pub fn add_accounts(&mut self, accounts: Map<AccountId, Account>) {
        if self.accounts.is_empty() {
            self.accounts = accounts;
        } else {
            self.accounts.extend(accounts);
        }
    }

    /// Adds an operation that was recorded before.
    pub fn add_operation(&mut self, operation: Operation) {
        self.known
            .insert(operation.command.operation_id.clone(), Arc::new(operation));
    }

    /// Decides one command on top of those before it.
    pub fn apply(&mut self, command: &Arc<Command>) -> Result<Receipt, Refusal> {
        if let Some(first) = self.known.get(&command.operation_id) {
            return replay(first, command);
        }
        let posting = match self.decide(command) {
            Err(refusal) if !refusal.is_recorded() => return Err(refusal),
            decision => decision,
        };
        let outcome = match posting {
            Ok(Posting::Move(moved)) => self.post(command, moved),
            Ok(Posting::Merge(merge)) => self.post_merge(command, merge),
            Err(refusal) => self.outcome(command, self.now, Outcome::Refused(refusal)),
        };
        answer(outcome, false)
    }

    /// What the batch has to write: the operations in the order of their decisions, and the balances in no order.
    pub fn into_changes(self) -> (Vec<Arc<Operation>>, Vec<BalanceChange>) {
        let Self {
            accounts, decided, ..
        } = self;
        let mut balances = Vec::with_capacity(accounts.len());
        for (account_id, account) in accounts {
            let currency = account.currency;
            let changed = account.balances.into_changed();
            balances.extend(changed.map(|(category, balance)| BalanceChange {
                key: BalanceKey {
                    account_id: account_id.clone(),
                    category,
                },
                currency,
                balance,
            }));
        }
        (decided, balances)
    }

    /// The rules, in order of precedence; for each, the source comes before the destination.
    fn decide(&self, command: &Command) -> Result<Posting, Refusal> {
        let Command {
            movement,
            amount,
            currency,
            ..
        } = command;
        if let Movement::Merge {
            source,
            destination,
        } = movement
        {
            let merge = self.decide_merge(source, destination, *currency)?;
            return Ok(Posting::Merge(merge));
        }
        let amount = amount.expect("only a merge has no amount, where commands are made");
        let find = |account_id: &AccountId| self.find(account_id);
        let source = movement
            .source()
            .map(|source| Ok((source, find(&source.account_id)?)))
            .transpose()?;
        let destination = movement
            .destination()
            .map(|key| Ok((key, find(&key.account_id)?)))
            .transpose()?;
        let sides = || {
            let source = source
                .iter()
                .map(|(source, account)| (&source.account_id, *account, Side::Debits));
            source.chain(
                destination
                    .iter()
                    .map(|(key, account)| (&key.account_id, *account, Side::Credits)),
            )
        };

        for (account_id, account, _) in sides() {
            check_currency(account_id, account, *currency)?;
        }
        for (account_id, account, _) in sides() {
            check_open(account_id, account)?;
        }
        for (account_id, account, side) in sides() {
            check_not_frozen(account_id, account, side)?;
        }
        let mut time = self.now;
        let source = source
            .map(|(source, account)| {
                let key = fund(source, account, amount)?;
                time = time.max(account.balance(&key.category).update_time.next());
                Ok(key)
            })
            .transpose()?;
        let destination = destination
            .map(|(key, account)| {
                check_limit(key, account, amount.minor_units())?;
                let category = std::slice::from_ref(&key.category);
                self.check_category_count(&key.account_id, account, category)?;
                time = time.max(account.balance(&key.category).update_time.next());
                Ok(key.clone())
            })
            .transpose()?;
        Ok(Posting::Move(Moved {
            amount,
            time,
            source,
            destination,
        }))
    }

    fn find(&self, account_id: &AccountId) -> Result<&Account, Refusal> {
        let account = self.accounts.get(account_id);
        account.ok_or_else(|| Refusal::AccountNotFound {
            account_id: account_id.clone(),
        })
    }

    /// Whether the account may have all these categories: the first one beyond the limit is refused.
    fn check_category_count<'a>(
        &self,
        account_id: &AccountId,
        account: &Account,
        categories: impl IntoIterator<Item = &'a Category>,
    ) -> Result<(), Refusal> {
        let room = self
            .categories_per_account_max
            .saturating_sub(account.balances.category_count());
        let is_new = |category: &&Category| !account.balances.has(category);
        match categories.into_iter().filter(is_new).nth(room) {
            None => Ok(()),
            Some(category) => Err(Refusal::CategoryLimitExceeded {
                balance: BalanceKey {
                    account_id: account_id.clone(),
                    category: category.clone(),
                },
                limit: self.categories_per_account_max,
            }),
        }
    }

    /// The time of an operation that changes these balances.
    fn time_of<'a>(&self, touched: impl Iterator<Item = &'a BalanceKey>) -> Timestamp {
        let after_last = |key: &BalanceKey| {
            self.accounts[&key.account_id]
                .balance(&key.category)
                .update_time
                .next()
        };
        touched.map(after_last).fold(self.now, Timestamp::max)
    }

    fn post(&mut self, command: &Arc<Command>, moved: Moved) -> Arc<Operation> {
        let Moved {
            amount,
            time,
            source,
            destination,
        } = moved;
        let amount = amount.minor_units();
        let operation_id = &command.operation_id;
        let source = source.map(|key| self.change(key, -amount, time, operation_id));
        let destination = destination.map(|key| self.change(key, amount, time, operation_id));
        self.outcome(
            command,
            time,
            Outcome::Posted {
                source,
                destination,
            },
        )
    }

    fn change(
        &mut self,
        key: BalanceKey,
        amount: i64,
        time: Timestamp,
        operation_id: &OperationId,
    ) -> Entry {
        let account = self
            .accounts
            .get_mut(&key.account_id)
            .expect("`decide` found the account");
        let pocket = account.balances.pocket(&key.category);
        pocket.is_changed = true;
        let balance = &mut pocket.balance;
        balance.posted = balance
            .posted
            .checked_add(amount)
            .expect("`decide` checked funds and limit");
        balance.version += 1;
        balance.update_time = time;
        let previous_operation_id = balance.last_operation_id.replace(operation_id.clone());
        Entry {
            balance: key,
            version: balance.version,
            amount,
            posted_after: balance.posted,
            held_after: balance.held,
            available_after: balance.available(),
            previous_operation_id,
        }
    }

    fn outcome(
        &mut self,
        command: &Arc<Command>,
        create_time: Timestamp,
        outcome: Outcome,
    ) -> Arc<Operation> {
        let operation = Arc::new(Operation {
            command: command.clone(),
            outcome,
            create_time,
        });
        self.known
            .insert(command.operation_id.clone(), operation.clone());
        self.decided.push(operation.clone());
        operation
    }
}

/// What a command will change.
enum Posting {
    Move(Moved),
    Merge(merge::Merge),
}

/// The balances that a movement will change, and by how much.
struct Moved {
    amount: Amount,
    /// The time of the operation: after all that happened to these balances.
    time: Timestamp,
    source: Option<BalanceKey>,
    destination: Option<BalanceKey>,
}

fn replay(first: &Arc<Operation>, command: &Command) -> Result<Receipt, Refusal> {
    let fields = first.command.differing_fields(command);
    if fields.is_empty() {
        return answer(first.clone(), true);
    }
    Err(Refusal::OperationIdReused {
        operation_id: command.operation_id.clone(),
        fields,
    })
}

fn answer(operation: Arc<Operation>, replayed: bool) -> Result<Receipt, Refusal> {
    match &operation.outcome {
        Outcome::Posted { .. } | Outcome::Merged(_) => Ok(Receipt {
            operation,
            replayed,
        }),
        Outcome::Refused(refusal) => Err(refusal.clone()),
    }
}

fn check_currency(
    account_id: &AccountId,
    account: &Account,
    amount_currency: Currency,
) -> Result<(), Refusal> {
    if account.currency == amount_currency {
        return Ok(());
    }
    let account_currency = account.currency;
    Err(Refusal::CurrencyMismatch {
        account_id: account_id.clone(),
        account_currency,
        amount_currency,
    })
}

fn check_open(account_id: &AccountId, account: &Account) -> Result<(), Refusal> {
    if account.closed {
        return Err(Refusal::AccountClosed {
            account_id: account_id.clone(),
        });
    }
    Ok(())
}

fn check_not_frozen(account_id: &AccountId, account: &Account, side: Side) -> Result<(), Refusal> {
    let frozen = match side {
        Side::Debits => account.debits_frozen,
        Side::Credits => account.credits_frozen,
    };
    if frozen {
        return Err(Refusal::AccountFrozen {
            account_id: account_id.clone(),
            side,
        });
    }
    Ok(())
}

/// Ordered funding: the first category that covers the whole amount pays.
fn fund(source: &Source, account: &Account, needed: Amount) -> Result<BalanceKey, Refusal> {
    let account_id = source.account_id.clone();
    let covers =
        |category: &&Category| account.balance(category).available() >= needed.minor_units();
    match source.categories.iter().find(covers) {
        Some(category) => Ok(BalanceKey {
            account_id,
            category: category.clone(),
        }),
        None => {
            let available =
                |category: &Category| (category.clone(), account.balance(category).available());
            let available = source.categories.iter().map(available).collect();
            Err(Refusal::InsufficientFunds {
                account_id,
                available,
                needed,
                currency: account.currency,
            })
        }
    }
}

fn check_limit(key: &BalanceKey, account: &Account, amount: i64) -> Result<(), Refusal> {
    let balance = account.balance(&key.category);
    match balance.posted.checked_add(amount) {
        Some(posted) if posted <= balance.limit() => Ok(()),
        _ => Err(Refusal::BalanceLimitExceeded {
            balance: key.clone(),
            limit: balance.limit(),
            posted: balance.posted,
            amount,
            currency: account.currency,
        }),
    }
}

#[cfg(test)]
mod tests;
