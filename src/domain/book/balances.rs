//! Balances: the balances of the accounts of a book, and which of them it changed.

use crate::domain::id::{Category, OperationId};
use crate::domain::money::Currency;
use crate::domain::time::Timestamp;

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
        self.available_with(0)
    }

    /// The same after so much was added to posted.
    pub(super) fn available_with(&self, added: i128) -> i64 {
        let available = i128::from(self.posted) + added - i128::from(self.held)
            + i128::from(self.overdraft_limit);
        i64::try_from(available).unwrap_or(if available > 0 { i64::MAX } else { i64::MIN })
    }

    /// The most that `posted` may reach.
    pub fn limit(&self) -> i64 {
        self.balance_limit.unwrap_or(i64::MAX)
    }
}

/// What an account refuses, whatever is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AccountFlags {
    /// Every operation is refused.
    pub closed: bool,
    /// Debits are refused.
    pub debits_frozen: bool,
    /// Credits are refused.
    pub credits_frozen: bool,
}

/// An account as far as decisions need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The currency of all its balances.
    pub currency: Currency,
    /// What it refuses.
    pub flags: AccountFlags,
    /// Its balances, as far as the batch names them. A category that is named and missing has a zero balance.
    pub balances: Balances,
}

impl Account {
    pub(super) fn balance(&self, category: &Category) -> &Balance {
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

/// A balance in a book, and whether the book changed it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Pocket {
    pub(super) balance: Balance,
    pub(super) is_changed: bool,
    /// The book changed its limits, and then it was so far beyond its overdraft limit.
    pub(super) breach: Option<i64>,
}

impl Pocket {
    fn new(balance: Balance) -> Self {
        Self {
            balance,
            is_changed: false,
            breach: None,
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
    pub(super) fn category_count(&self) -> usize {
        1 + self.others.len() + self.unread_count
    }

    pub(super) fn has(&self, category: &Category) -> bool {
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
        Some(&self.pocket_if_there(category)?.balance)
    }

    /// The balance of a category, to change it. Zero, if it had none yet.
    pub fn get_or_insert(&mut self, category: &Category) -> &mut Balance {
        &mut self.pocket(category).balance
    }

    pub(super) fn pocket(&mut self, category: &Category) -> &mut Pocket {
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

    /// The pocket of a category; `None`: it has none yet.
    pub(super) fn pocket_if_there(&self, category: &Category) -> Option<&Pocket> {
        if category.is_main() {
            return Some(&self.main);
        }
        let index = self.position(category).ok()?;
        Some(&self.others[index].1)
    }

    /// Takes back a category that [`Balances::pocket`] made.
    pub(super) fn remove(&mut self, category: &Category) {
        if let Ok(index) = self.position(category) {
            self.others.remove(index);
        }
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

    /// When any of them was changed last.
    pub(super) fn last_time(&self) -> Timestamp {
        let others = self.others.iter();
        let others = others.map(|(_, pocket)| pocket.balance.update_time);
        others.fold(self.main.balance.update_time, Timestamp::max)
    }

    /// Those that a book changed.
    pub(super) fn into_changed(self) -> impl Iterator<Item = (Category, Pocket)> {
        std::iter::once((Category::main(), self.main))
            .chain(self.others)
            .filter(|(_, pocket)| pocket.is_changed)
    }
}
