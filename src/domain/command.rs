//! A command: what a caller asks for, parsed and valid, before anyone has looked at a balance.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::id::{AccountId, Category, OperationId, OwnerId};
use super::money::{Amount, Currency};

/// Which balance: the unit of locking, of versions and of history.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BalanceKey {
    /// The account.
    pub account_id: AccountId,
    /// The pocket of the account.
    pub category: Category,
}

/// A direction, seen from an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Money leaving the account.
    Debits,
    /// Money entering the account.
    Credits,
}

impl Side {
    /// Its name in facts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debits => "debits",
            Self::Credits => "credits",
        }
    }
}

/// Who pays: an account, and the categories that may, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The account.
    pub account_id: AccountId,
    /// The first one that covers the whole amount pays. Never empty, each at most once.
    pub categories: Vec<Category>,
}

/// The direction of the money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Movement {
    /// Out of a balance, to the world outside.
    Debit {
        /// Who pays.
        source: Source,
    },
    /// Into a balance, from the world outside.
    Credit {
        /// Who receives.
        destination: BalanceKey,
    },
    /// From one balance to another.
    Transfer {
        /// Who pays.
        source: Source,
        /// Who receives; never among the source's balances.
        destination: BalanceKey,
        /// The owner whose settlement account the destination is, if the caller named the owner and not the account.
        owner_id: Option<OwnerId>,
    },
}

/// What has to be true for an amount to move, besides that it can. Nearly all movements have no conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditions {
    /// The version, before it, of the balance that pays; of a credit, of the one that receives.
    pub expected_version: Option<i64>,
    /// The least that the balance that pays has available after it, in minor units. Never of a credit.
    pub min_available_after: Option<i64>,
}

/// One requested change of a command that has any number of them. They are applied in their order, each on top of those
/// before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedLeg {
    /// Whether the amount leaves the balance or enters it.
    pub side: Side,
    /// Which balance; `None`: the world outside, which has no balance and no entry.
    pub balance: Option<Source>,
    /// How much.
    pub amount: Amount,
    /// In which currency.
    pub currency: Currency,
}

impl RequestedLeg {
    /// The account, if it is not the world outside.
    pub fn account_id(&self) -> Option<&AccountId> {
        self.balance.as_ref().map(|balance| &balance.account_id)
    }
}

/// The legs of a command bring in something else than they take out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "takes out {debits} and brings in {credits} minor units of {currency}; both must be the same"
)]
pub struct Unbalanced {
    /// In this currency.
    pub currency: Currency,
    /// What they take out.
    pub debits: i128,
    /// What they bring in.
    pub credits: i128,
}

/// Directions of an account, at least one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sides {
    /// Money leaving the account.
    pub debits: bool,
    /// Money entering the account.
    pub credits: bool,
}

/// New limits of one balance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitChange {
    /// The category.
    pub category: Category,
    /// How far `posted - held` may go below zero, in minor units; `None`: as before.
    pub overdraft_limit: Option<i64>,
    /// The most that credits may raise `posted` to, in minor units, or no such limit; `None`: as before.
    pub balance_limit: Option<Option<i64>>,
}

/// A requested change of an account that moves no money. One that changes nothing is posted all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestedChange {
    /// These directions are refused from now on.
    Freeze(Sides),
    /// These directions are no longer refused.
    Unfreeze(Sides),
    /// Everything is refused from now on. Only of an account that has nothing.
    Close,
    /// The account is in use again. Only of one that no merge emptied.
    Reopen,
    /// Some of its balances have other limits from now on.
    Update {
        /// Never empty, each category at most once.
        limits: Vec<LimitChange>,
        /// A balance may be beyond its new limits; then only what brings it nearer to them passes.
        allow_breach: bool,
    },
}

/// What is to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// An amount moves between balances that the caller names.
    Move {
        /// From where to where.
        movement: Movement,
        /// How much.
        amount: Amount,
        /// Only if this is true.
        conditions: Conditions,
    },
    /// Everything moves from one account to another, category by category; then the first one closes.
    Merge {
        /// The account that is emptied and closed.
        source: AccountId,
        /// The account that receives; never the source.
        destination: AccountId,
    },
    /// Several changes at once, see [`Intent::post`].
    Post {
        /// Never empty. Per currency, credits are debits.
        legs: Vec<RequestedLeg>,
    },
    /// What an operation moved goes back, or a part of it, see [`Intent::reverse`](super::reversal).
    Reverse {
        /// The operation that is reversed.
        original_id: OperationId,
        /// What moves, as an operation by itself: a movement, or several legs.
        back: Box<Intent>,
    },
    /// An account changes, and no money moves.
    Change {
        /// The account.
        account_id: AccountId,
        /// What changes.
        change: RequestedChange,
    },
}

impl Intent {
    /// Several changes at once. Fails if they would make or destroy money: in each currency, the world outside included, what
    /// they take out is what they bring in.
    pub fn post(legs: Vec<RequestedLeg>) -> Result<Self, Unbalanced> {
        let mut sums: BTreeMap<Currency, (i128, i128)> = BTreeMap::new();
        for leg in &legs {
            let (debits, credits) = sums.entry(leg.currency).or_default();
            *match leg.side {
                Side::Debits => debits,
                Side::Credits => credits,
            } += i128::from(leg.amount.minor_units());
        }
        let unbalanced = sums
            .into_iter()
            .find(|(_, (debits, credits))| debits != credits);
        match unbalanced {
            None => Ok(Self::Post { legs }),
            Some((currency, (debits, credits))) => Err(Unbalanced {
                currency,
                debits,
                credits,
            }),
        }
    }
}

/// The kind of an intent, without what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A debit.
    Debit,
    /// A credit.
    Credit,
    /// A transfer.
    Transfer,
    /// A merge of two accounts.
    Merge,
    /// Several changes at once.
    Post,
    /// A reversal of an operation.
    Reversal,
    /// A freeze of an account.
    Freeze,
    /// The end of a freeze.
    Unfreeze,
    /// A closure of an account.
    Close,
    /// The end of a closure.
    Reopen,
    /// A change of limits.
    Update,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::Debit,
        Self::Credit,
        Self::Transfer,
        Self::Merge,
        Self::Post,
        Self::Reversal,
        Self::Freeze,
        Self::Unfreeze,
        Self::Close,
        Self::Reopen,
        Self::Update,
    ];

    /// Its stable name, in UPPER_SNAKE.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debit => "DEBIT",
            Self::Credit => "CREDIT",
            Self::Transfer => "TRANSFER",
            Self::Merge => "MERGE",
            Self::Post => "POST",
            Self::Reversal => "REVERSAL",
            Self::Freeze => "FREEZE",
            Self::Unfreeze => "UNFREEZE",
            Self::Close => "CLOSE",
            Self::Reopen => "REOPEN",
            Self::Update => "UPDATE",
        }
    }
}

/// What the caller wants to remember about an operation. Part of its content: a replay must carry the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Note {
    /// Free text.
    pub description: String,
    /// Free facts.
    pub metadata: BTreeMap<String, String>,
}

/// One request to change the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Identity and idempotency key.
    pub operation_id: OperationId,
    /// What is to happen.
    pub intent: Intent,
    /// In which currency.
    pub currency: Currency,
    /// The caller's note.
    pub note: Note,
}

/// What has to be locked and looked up before a command can be decided: all of it is said here and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs<'a> {
    /// The accounts, each once, in the order of their ids: that is the order in which accounts are locked.
    pub accounts: SmallVec<[AccountNeed<'a>; 2]>,
    /// The operation whose earlier reversals have to be known. Its accounts are among those that are locked.
    pub reversals_of: Option<&'a OperationId>,
}

/// What a command needs of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountNeed<'a> {
    /// The account. Its facts and its balance `main` are always needed.
    pub account_id: &'a AccountId,
    /// Which of its other balances are.
    pub balances: BalancesNeed<'a>,
    /// Whether its owner and its role for that owner are.
    pub role: bool,
}

/// Which balances of an account a command needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BalancesNeed<'a> {
    /// Those that it names; `main` may be among them.
    Named(SmallVec<[&'a Category; 2]>),
    /// All that there are.
    All,
}

/// A transfer would pay a balance out of itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("category {} of account {} is both source and destination", .0.category, .0.account_id)]
pub struct SameBalance(pub BalanceKey);

impl Movement {
    /// A transfer. Fails if the destination is one of the balances that may pay.
    pub fn transfer(
        source: Source,
        destination: BalanceKey,
        owner_id: Option<OwnerId>,
    ) -> Result<Self, SameBalance> {
        if source.account_id == destination.account_id
            && source.categories.contains(&destination.category)
        {
            return Err(SameBalance(destination));
        }
        Ok(Self::Transfer {
            source,
            destination,
            owner_id,
        })
    }

    /// The balances that may pay.
    pub fn source(&self) -> Option<&Source> {
        match self {
            Self::Debit { source } | Self::Transfer { source, .. } => Some(source),
            Self::Credit { .. } => None,
        }
    }

    /// The balance that receives.
    pub fn destination(&self) -> Option<&BalanceKey> {
        match self {
            Self::Credit { destination } | Self::Transfer { destination, .. } => Some(destination),
            Self::Debit { .. } => None,
        }
    }

    /// The owner that was named as the destination.
    pub fn destination_owner_id(&self) -> Option<&OwnerId> {
        match self {
            Self::Transfer { owner_id, .. } => owner_id.as_ref(),
            Self::Debit { .. } | Self::Credit { .. } => None,
        }
    }
}

impl Command {
    /// A command that moves an amount between named balances.
    pub fn of_movement(
        operation_id: OperationId,
        movement: Movement,
        (amount, currency): (Amount, Currency),
        note: Note,
    ) -> Self {
        Self {
            operation_id,
            intent: Intent::Move {
                movement,
                amount,
                conditions: Conditions::default(),
            },
            currency,
            note,
        }
    }

    /// The same, if it is a movement, only if these are true.
    pub fn with_conditions(mut self, wanted: Conditions) -> Self {
        if let Intent::Move { conditions, .. } = &mut self.intent {
            *conditions = wanted;
        }
        self
    }

    /// What has to be true for it; nothing, if it is no movement.
    pub fn conditions(&self) -> Conditions {
        match &self.intent {
            Intent::Move { conditions, .. } => *conditions,
            _ => Conditions::default(),
        }
    }

    /// What kind it is.
    pub fn kind(&self) -> Kind {
        match &self.intent {
            Intent::Move { movement, .. } => match movement {
                Movement::Debit { .. } => Kind::Debit,
                Movement::Credit { .. } => Kind::Credit,
                Movement::Transfer { .. } => Kind::Transfer,
            },
            Intent::Merge { .. } => Kind::Merge,
            Intent::Post { .. } => Kind::Post,
            Intent::Change { change, .. } => match change {
                RequestedChange::Freeze(_) => Kind::Freeze,
                RequestedChange::Unfreeze(_) => Kind::Unfreeze,
                RequestedChange::Close => Kind::Close,
                RequestedChange::Reopen => Kind::Reopen,
                RequestedChange::Update { .. } => Kind::Update,
            },
            Intent::Reverse { .. } => Kind::Reversal,
        }
    }

    /// What moves: the intent, or what a reversal moves back.
    pub fn moved(&self) -> &Intent {
        match &self.intent {
            Intent::Reverse { back, .. } => back,
            intent => intent,
        }
    }

    /// The operation that it reverses.
    pub fn reversed_operation_id(&self) -> Option<&OperationId> {
        match &self.intent {
            Intent::Reverse { original_id, .. } => Some(original_id),
            _ => None,
        }
    }

    /// How much is to move; `None`: whatever there is, or what the legs say.
    pub fn amount(&self) -> Option<Amount> {
        match self.moved() {
            Intent::Move { amount, .. } => Some(*amount),
            _ => None,
        }
    }

    /// The movement, if one amount moves between balances that are named.
    pub fn as_movement(&self) -> Option<&Movement> {
        match self.moved() {
            Intent::Move { movement, .. } => Some(movement),
            _ => None,
        }
    }

    /// The change of an account; `None`: it is about money.
    pub fn change(&self) -> Option<&RequestedChange> {
        match &self.intent {
            Intent::Change { change, .. } => Some(change),
            _ => None,
        }
    }

    /// The balances that may pay, if the command names them.
    pub fn source(&self) -> Option<&Source> {
        self.as_movement()?.source()
    }

    /// The balance that receives, if the command names it.
    pub fn destination(&self) -> Option<&BalanceKey> {
        self.as_movement()?.destination()
    }

    /// The owner that was named as the destination.
    pub fn destination_owner_id(&self) -> Option<&OwnerId> {
        self.as_movement()?.destination_owner_id()
    }

    /// The requested legs, in their order; empty for the kinds that have none.
    pub fn legs(&self) -> &[RequestedLeg] {
        match self.moved() {
            Intent::Post { legs } => legs,
            _ => &[],
        }
    }

    /// The category that was asked first on a side, of the first balance there; `None`: none was named.
    pub fn first_category_on(&self, side: Side) -> Option<&Category> {
        if let Intent::Post { legs } = self.moved() {
            let mut legs = legs.iter().filter(|leg| leg.side == side);
            let balance = legs.find_map(|leg| leg.balance.as_ref())?;
            return balance.categories.first();
        }
        match side {
            Side::Debits => self.source()?.categories.first(),
            Side::Credits => Some(&self.destination()?.category),
        }
    }

    /// The accounts that money leaves, or that it enters, in the order in which they are named; one may come twice.
    pub fn account_ids_on(&self, side: Side) -> impl Iterator<Item = &AccountId> {
        let single = match (self.moved(), side) {
            (Intent::Post { .. } | Intent::Change { .. }, _) => None,
            (_, Side::Debits) => self.source_account_id(),
            (_, Side::Credits) => self.destination_account_id(),
        };
        let legs = self.legs().iter().filter(move |leg| leg.side == side);
        single
            .into_iter()
            .chain(legs.filter_map(RequestedLeg::account_id))
    }

    /// The account that pays, if it is not the world outside; the first one, if there are several. Of a change of an account,
    /// that account.
    pub fn source_account_id(&self) -> Option<&AccountId> {
        match self.moved() {
            Intent::Move { movement, .. } => movement.source().map(|source| &source.account_id),
            Intent::Merge { source, .. } => Some(source),
            Intent::Post { .. } => self.account_ids_on(Side::Debits).next(),
            Intent::Reverse { .. } => None,
            Intent::Change { account_id, .. } => Some(account_id),
        }
    }

    /// The account that receives, if it is not the world outside; the first one, if there are several.
    pub fn destination_account_id(&self) -> Option<&AccountId> {
        match self.moved() {
            Intent::Move { movement, .. } => movement.destination().map(|key| &key.account_id),
            Intent::Merge { destination, .. } => Some(destination),
            Intent::Post { .. } => self.account_ids_on(Side::Credits).next(),
            Intent::Reverse { .. } => None,
            Intent::Change { .. } => None,
        }
    }

    /// What has to be locked and looked up before it can be decided.
    pub fn needs(&self) -> Needs<'_> {
        let mut needs = Needs {
            accounts: SmallVec::new(),
            reversals_of: self.reversed_operation_id(),
        };
        match self.moved() {
            Intent::Move { movement, .. } => {
                if let Some(source) = movement.source() {
                    needs.name(&source.account_id, &source.categories);
                }
                if let Some(BalanceKey {
                    account_id,
                    category,
                }) = movement.destination()
                {
                    needs.name(account_id, [category]);
                }
            }
            Intent::Merge {
                source,
                destination,
            } => {
                for account_id in [source, destination] {
                    let need = needs.of(account_id);
                    (need.balances, need.role) = (BalancesNeed::All, true);
                }
            }
            Intent::Post { legs } => {
                for balance in legs.iter().filter_map(|leg| leg.balance.as_ref()) {
                    needs.name(&balance.account_id, &balance.categories);
                }
            }
            // What is moved back is no reversal.
            Intent::Reverse { .. } => {}
            Intent::Change { account_id, .. } => {
                let need = needs.of(account_id);
                (need.balances, need.role) = (BalancesNeed::All, true);
            }
        }
        needs
    }

    /// The accounts that it needs, each once, in the order of their ids.
    pub fn account_ids(&self) -> impl Iterator<Item = &AccountId> {
        let accounts = self.needs().accounts.into_iter();
        accounts.map(|account| account.account_id)
    }

    /// The names of the fields in which the content of `other` differs; empty: `other` is a replay of this command.
    /// A destination that was named by its owner is compared by the owner, so a replay stays one whichever account
    /// settles for that owner by then.
    ///
    /// What a reversal moves follows from the operation that it reverses, so of two reversals that one is named instead.
    pub fn differing_fields(&self, other: &Self) -> Vec<&'static str> {
        let reversed = (self.reversed_operation_id(), other.reversed_operation_id());
        let is_told_by_reversed = |field: &str| {
            let told = field.starts_with("source") || field.starts_with("destination");
            matches!(reversed, (Some(_), Some(_))) && (told || field == "legs")
        };
        let source_categories = |command: &Self| {
            let source = command.source();
            source.map(|source| source.categories.clone())
        };
        let destination_account = |command: &Self| match command.destination_owner_id() {
            Some(_) => None,
            None => command.destination_account_id().cloned(),
        };
        let destination_category =
            |command: &Self| command.destination().map(|key| key.category.clone());
        let (conditions, others) = (self.conditions(), other.conditions());
        let sides = |command: &Self| match command.change() {
            Some(RequestedChange::Freeze(sides) | RequestedChange::Unfreeze(sides)) => Some(*sides),
            _ => None,
        };
        let update = |command: &Self| match command.change() {
            Some(RequestedChange::Update {
                limits,
                allow_breach,
            }) => Some((limits.clone(), *allow_breach)),
            _ => None,
        };
        let (limits, allow_breach) = update(self).unzip();
        let (other_limits, other_allow_breach) = update(other).unzip();
        let (own_sides, other_sides) = (sides(self), sides(other));
        let differs_in = |side: fn(Sides) -> bool| own_sides.map(side) != other_sides.map(side);
        [
            ("kind", self.kind() != other.kind()),
            ("reversed_operation_id", reversed.0 != reversed.1),
            (
                "source_account_id",
                self.source_account_id() != other.source_account_id(),
            ),
            (
                "source_categories",
                source_categories(self) != source_categories(other),
            ),
            (
                "destination_account_id",
                destination_account(self) != destination_account(other),
            ),
            (
                "destination_owner_id",
                self.destination_owner_id() != other.destination_owner_id(),
            ),
            (
                "destination_category",
                destination_category(self) != destination_category(other),
            ),
            ("legs", self.legs() != other.legs()),
            ("debits", differs_in(|sides| sides.debits)),
            ("credits", differs_in(|sides| sides.credits)),
            ("limits", limits != other_limits),
            ("allow_breach", allow_breach != other_allow_breach),
            (
                "expected_version",
                conditions.expected_version != others.expected_version,
            ),
            (
                "min_available_after_minor_units",
                conditions.min_available_after != others.min_available_after,
            ),
            ("amount.minor_units", self.amount() != other.amount()),
            ("amount.currency_code", self.currency != other.currency),
            (
                "description",
                self.note.description != other.note.description,
            ),
            ("metadata", self.note.metadata != other.note.metadata),
        ]
        .into_iter()
        .filter_map(|(field, differs)| (differs && !is_told_by_reversed(field)).then_some(field))
        .collect()
    }
}

impl<'a> Needs<'a> {
    /// The need of one account: the one that is there, or a new one in its place.
    fn of(&mut self, account_id: &'a AccountId) -> &mut AccountNeed<'a> {
        let found = self
            .accounts
            .binary_search_by(|need| need.account_id.cmp(account_id));
        let index = found.unwrap_or_else(|index| {
            let need = AccountNeed {
                account_id,
                balances: BalancesNeed::Named(SmallVec::new()),
                role: false,
            };
            self.accounts.insert(index, need);
            index
        });
        &mut self.accounts[index]
    }

    fn name(&mut self, account_id: &'a AccountId, names: impl IntoIterator<Item = &'a Category>) {
        if let BalancesNeed::Named(categories) = &mut self.of(account_id).balances {
            for category in names {
                if !categories.contains(&category) {
                    categories.push(category);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account_id(text: &str) -> AccountId {
        AccountId::from_stored(text)
    }

    fn command(intent: Intent) -> Command {
        Command {
            operation_id: OperationId::from_stored("op"),
            intent,
            currency: Currency::new("EUR").expect("a currency"),
            note: Note::default(),
        }
    }

    /// Whichever way the money goes, accounts are locked in the order of their ids, and each once.
    #[test]
    fn accounts_are_needed_once_and_in_order() {
        let categories = ["FOOD", "main"].map(Category::from_stored);
        for (from, to, expected) in [
            ("a", "b", &["a", "b"][..]),
            ("b", "a", &["a", "b"]),
            ("a", "a", &["a"]),
        ] {
            let movement = Movement::transfer(
                Source {
                    account_id: account_id(from),
                    categories: categories.to_vec(),
                },
                BalanceKey {
                    account_id: account_id(to),
                    category: Category::from_stored("CASH"),
                },
                None,
            );
            let command = command(Intent::Move {
                movement: movement.expect("several balances"),
                amount: Amount::new(1).expect("an amount"),
                conditions: Conditions::default(),
            });
            let ids: Vec<&str> = command.account_ids().map(AccountId::as_str).collect();
            assert_eq!(ids, expected, "{from} {to}");
            let count = |need: &AccountNeed| match &need.balances {
                BalancesNeed::Named(categories) => categories.len(),
                BalancesNeed::All => panic!("a transfer names its balances"),
            };
            let counts: usize = command.needs().accounts.iter().map(count).sum();
            assert_eq!(counts, 3);
        }
        let merge = command(Intent::Merge {
            source: account_id("b"),
            destination: account_id("a"),
        });
        let needs = merge.needs();
        assert!(
            needs
                .accounts
                .iter()
                .all(|need| need.role && need.balances == BalancesNeed::All)
        );
        let ids: Vec<&str> = merge.account_ids().map(AccountId::as_str).collect();
        assert_eq!(ids, ["a", "b"]);
    }
}
