//! The book: the locked accounts of one batch, in memory. It decides commands one after the other, each on top of the
//! changes of those before it, and remembers what has to be written. Pure: the same book and the same commands give
//! the same answers, in one batch or in many.
//!
//! Each kind of command has a rule: a function from the book to a [`Posting`]. One function, [`Book::post`], applies any
//! posting, and one journal can take it back.

mod account;
mod balances;
mod checks;
mod journal;
mod merge;
mod movement;
mod post;
mod reverse;

use std::sync::Arc;

use super::command::{BalanceKey, Command, Intent};
use super::id::{AccountId, OperationId, OwnerId};
use super::map::Map;
use super::money::{Amount, Currency};
use super::operation::{Entry, Operation, Outcome, Receipt};
use super::posting::{AccountChange, Leg, Posting};
use super::refusal::Refusal;
use super::time::Timestamp;

use balances::Pocket;
pub use balances::{Account, AccountFlags, Balance, Balances};
use journal::{Journal, Undo};
pub use reverse::Reversals;

/// The new state of one balance that a batch changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceChange {
    /// The balance.
    pub key: BalanceKey,
    /// The currency of its account.
    pub currency: Currency,
    /// Its state after the batch.
    pub balance: Balance,
    /// Its limits changed, and then it was so far beyond its overdraft limit, in minor units; `None`: they did not change.
    pub breach: Option<i64>,
}

/// Whose an account is, whether it receives for its owner, and what became of it. Known of the accounts whose commands need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// The owner.
    pub owner_id: OwnerId,
    /// Whether it receives the transfers to its owner.
    pub settlement: bool,
    /// The account that a merge moved it into; `None`: no merge emptied it.
    pub merged_into: Option<AccountId>,
    /// When it was changed or refused last without an entry; the epoch if it never was.
    pub change_time: Timestamp,
    settled_before: bool,
}

impl Role {
    /// As it is stored.
    pub fn new(owner_id: OwnerId, settlement: bool) -> Self {
        Self {
            owner_id,
            settlement,
            merged_into: None,
            change_time: Timestamp::default(),
            settled_before: settlement,
        }
    }
}

/// What a batch changed of accounts, besides their balances.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct AccountChanges {
    /// The accounts that refuse something else than before, and what they refuse now.
    pub flags: Vec<(AccountId, AccountFlags)>,
    /// The accounts that no longer receive for their owners.
    pub settled_before: Vec<AccountId>,
    /// The accounts that receive for their owners instead.
    pub settle_now: Vec<AccountId>,
}

/// What a batch has to write.
#[derive(Debug)]
pub struct Changes {
    /// The operations, in the order of their decisions.
    pub operations: Vec<Arc<Operation>>,
    /// The balances that changed, in no order.
    pub balances: Vec<BalanceChange>,
    /// What else changed.
    pub accounts: AccountChanges,
}

/// One member of a group was refused, and with it the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRefused {
    /// Which one, from 0.
    pub index: usize,
    /// Why.
    pub refusal: Refusal,
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
    /// Of the operations that commands reverse.
    reversals: Map<OperationId, Reversals>,
    /// The accounts whose flags changed.
    flagged: Vec<AccountId>,
    /// What can take back the group that is being decided; `None`: no group is.
    journal: Option<Journal>,
}

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
            reversals: Map::default(),
            flagged: Vec::new(),
            journal: None,
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

    /// Adds what is known of an account whose command needs its role.
    pub fn add_role(&mut self, account_id: AccountId, role: Role) {
        self.roles.insert(account_id, role);
    }

    /// Adds what is known, under its locks, of an operation that a command reverses.
    pub fn add_reversals(&mut self, original_id: OperationId, reversals: Reversals) {
        self.reversals.insert(original_id, reversals);
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
        match self.decide(command) {
            Ok(posting) => Ok(Receipt {
                operation: self.post(command, posting),
                replayed: false,
            }),
            Err(refusal) => {
                if refusal.is_recorded() {
                    self.refuse(command, &refusal);
                }
                Err(refusal)
            }
        }
    }

    /// Decides a group: all of its commands happen, each on top of those before it, or none does.
    ///
    /// If one is refused, nothing of the others is recorded, and their ids stay free. The refused one itself is recorded as
    /// it would be alone, decided on top of the others: when the group is sent again, it gets the same answer.
    pub fn apply_group(
        &mut self,
        commands: &[Arc<Command>],
    ) -> Result<Vec<Receipt>, MemberRefused> {
        self.check_known(commands)?;
        self.begin_group();
        let applied = self.apply_members(commands);
        let Err(MemberRefused { index, .. }) = &applied else {
            self.journal = None;
            return applied;
        };
        let refused = self.decided.last().cloned().filter(|last| {
            last.command.operation_id == commands[*index].operation_id
                && matches!(last.outcome, Outcome::Refused(_))
        });
        self.undo();
        if let Some(refused) = refused {
            self.record(refused);
        }
        applied
    }

    /// What [`Book::apply`] would answer now. Changes and records nothing.
    pub fn validate(&mut self, command: &Arc<Command>) -> Result<Receipt, Refusal> {
        self.begin_group();
        let answer = self.apply(command);
        self.undo();
        answer
    }

    /// What [`Book::apply_group`] would answer now. Changes and records nothing.
    pub fn validate_group(
        &mut self,
        commands: &[Arc<Command>],
    ) -> Result<Vec<Receipt>, MemberRefused> {
        self.check_known(commands)?;
        self.begin_group();
        let answer = self.apply_members(commands);
        self.undo();
        answer
    }

    /// What was refused once is refused for ever, before anything else changes.
    fn check_known(&self, commands: &[Arc<Command>]) -> Result<(), MemberRefused> {
        for (index, command) in commands.iter().enumerate() {
            if let Some(first) = self.known.get(&command.operation_id) {
                replay(first, command).map_err(|refusal| MemberRefused { index, refusal })?;
            }
        }
        Ok(())
    }

    /// Applies commands one after the other, up to the first that is refused.
    fn apply_members(&mut self, commands: &[Arc<Command>]) -> Result<Vec<Receipt>, MemberRefused> {
        let members = commands.iter().enumerate();
        members
            .map(|(index, command)| {
                self.apply(command)
                    .map_err(|refusal| MemberRefused { index, refusal })
            })
            .collect()
    }

    /// What the batch has to write.
    pub fn into_changes(self) -> Changes {
        let Self {
            accounts,
            decided,
            roles,
            mut flagged,
            ..
        } = self;
        flagged.sort_unstable();
        flagged.dedup();
        let flags = flagged
            .into_iter()
            .filter_map(|id| accounts.get(&id).map(|account| (id, account.flags)))
            .collect();
        let moved = |settled_before: bool| {
            let roles = roles.iter();
            let moved = roles.filter(move |(_, role)| {
                role.settled_before == settled_before && role.settlement != settled_before
            });
            moved.map(|(account_id, _)| account_id.clone()).collect()
        };
        let account_changes = AccountChanges {
            flags,
            settled_before: moved(true),
            settle_now: moved(false),
        };
        let mut balances = Vec::with_capacity(accounts.len());
        for (account_id, account) in accounts {
            let currency = account.currency;
            let changed = account.balances.into_changed();
            balances.extend(changed.map(|(category, pocket)| BalanceChange {
                key: BalanceKey {
                    account_id: account_id.clone(),
                    category,
                },
                currency,
                balance: pocket.balance,
                breach: pocket.breach,
            }));
        }
        Changes {
            operations: decided,
            balances,
            accounts: account_changes,
        }
    }

    /// The rule of the command's kind: what it changes, or why it does not happen.
    fn decide(&self, command: &Command) -> Result<Posting, Refusal> {
        match &command.intent {
            Intent::Move {
                movement,
                amount,
                conditions,
            } => self.decide_movement(movement, (*amount, command.currency), *conditions),
            Intent::Merge {
                source,
                destination,
            } => self.decide_merge(source, destination, command.currency),
            Intent::Post { legs } => self.decide_post(legs),
            Intent::Reverse { original_id, back } => {
                self.decide_reversal(original_id, back, command.currency)
            }
            Intent::Change { account_id, change } => {
                self.decide_change(account_id, change, command.currency)
            }
        }
    }

    /// Applies what a rule decided.
    fn post(&mut self, command: &Arc<Command>, posting: Posting) -> Arc<Operation> {
        let Posting {
            time,
            legs,
            accounts,
        } = posting;
        // Limits first: an entry says what is available under those that it comes with.
        for change in accounts {
            self.change_account(change, time);
        }
        let change = |leg| self.change(leg, time, &command.operation_id);
        let entries = legs.into_iter().map(change).collect();
        if let Some(original_id) = command.reversed_operation_id() {
            self.note_reversal(original_id, command.amount().map(Amount::minor_units));
        }
        let operation = Arc::new(Operation {
            command: command.clone(),
            outcome: Outcome::Posted(entries),
            create_time: time,
        });
        self.record(operation.clone());
        operation
    }

    fn refuse(&mut self, command: &Arc<Command>, refusal: &Refusal) {
        self.record(Arc::new(Operation {
            command: command.clone(),
            outcome: Outcome::Refused(refusal.clone()),
            create_time: self.time_of(command.account_ids()),
        }));
    }

    /// The time of an operation on these accounts: after all that changed their balances, also when the clock was set back,
    /// so an account's history is in the order in which it happened. A refused operation leaves no time on a balance: of
    /// several between two changes, the clock alone says which came first.
    ///
    /// This is the time of one that is refused. One that changes the accounts is a microsecond later, and so comes after what
    /// was refused since the change before it.
    fn time_of<'a>(&self, account_ids: impl Iterator<Item = &'a AccountId>) -> Timestamp {
        let accounts = account_ids.filter_map(|id| self.accounts.get(id));
        let after_last = accounts.map(|account| account.balances.last_time().next());
        after_last.fold(self.now, Timestamp::max)
    }

    fn change(&mut self, leg: Leg, time: Timestamp, operation_id: &OperationId) -> Entry {
        let Leg {
            balance: key,
            posted,
            held,
        } = leg;
        let pocket = self.pocket_to_change(&key);
        pocket.is_changed = true;
        let balance = &mut pocket.balance;
        let add = |value: i64, change: i64| {
            value
                .checked_add(change)
                .expect("the rule checked funds and limits")
        };
        balance.posted = add(balance.posted, posted);
        balance.held = add(balance.held, held);
        balance.version += 1;
        balance.update_time = time;
        let previous_operation_id = balance.last_operation_id.replace(operation_id.clone());
        Entry {
            balance: key,
            version: balance.version,
            amount: posted,
            posted_after: balance.posted,
            held_after: balance.held,
            available_after: balance.available(),
            previous_operation_id,
        }
    }

    /// A balance that is about to change; the journal notes what it was.
    fn pocket_to_change(&mut self, key: &BalanceKey) -> &mut Pocket {
        let account = self
            .accounts
            .get_mut(&key.account_id)
            .expect("the rule found the account");
        if let Some(journal) = &mut self.journal {
            let before = account.balances.pocket_if_there(&key.category).cloned();
            journal.note(Undo::Balance(key.clone(), before));
        }
        account.balances.pocket(&key.category)
    }

    fn change_account(&mut self, change: AccountChange, time: Timestamp) {
        match change {
            AccountChange::Refuse(account_id, flags) => {
                let account = self
                    .accounts
                    .get_mut(&account_id)
                    .expect("the rule found the account");
                if let Some(journal) = &mut self.journal {
                    journal.note(Undo::Flags(account_id.clone(), account.flags));
                }
                account.flags = flags;
                self.flagged.push(account_id);
            }
            AccountChange::PassSettlement { from, to } => {
                for (account_id, settlement) in [(from, false), (to, true)] {
                    self.change_role(account_id, |role| role.settlement = settlement);
                }
            }
            AccountChange::MergeInto { from, to } => {
                self.change_role(from, |role| role.merged_into = Some(to));
            }
            AccountChange::Limit {
                balance: key,
                overdraft_limit,
                balance_limit,
            } => {
                let pocket = self.pocket_to_change(&key);
                let balance = &mut pocket.balance;
                (balance.overdraft_limit, balance.balance_limit) = (overdraft_limit, balance_limit);
                pocket.breach = Some(balance.available().saturating_neg().max(0));
            }
            AccountChange::Touch(account_id) => {
                self.change_role(account_id, |role| role.change_time = time);
            }
        }
    }

    /// So much less of an operation is left to reverse.
    fn note_reversal(&mut self, original_id: &OperationId, amount: Option<i64>) {
        let Some(reversals) = self.reversals.get_mut(original_id) else {
            return;
        };
        if let Some(journal) = &mut self.journal {
            journal.note(Undo::Reversals(original_id.clone(), *reversals));
        }
        *reversals = reversals.with(amount);
    }

    fn change_role(&mut self, account_id: AccountId, change: impl FnOnce(&mut Role)) {
        let Some(role) = self.roles.get_mut(&account_id) else {
            return;
        };
        if let Some(journal) = &mut self.journal {
            journal.note(Undo::Role(account_id, role.clone()));
        }
        change(role);
    }

    fn record(&mut self, operation: Arc<Operation>) {
        self.known
            .insert(operation.command.operation_id.clone(), operation.clone());
        self.decided.push(operation);
    }
}

/// The answer to a command whose id is known.
fn replay(first: &Arc<Operation>, command: &Command) -> Result<Receipt, Refusal> {
    let fields = first.command.differing_fields(command);
    if !fields.is_empty() {
        return Err(Refusal::OperationIdReused {
            operation_id: command.operation_id.clone(),
            fields,
        });
    }
    match &first.outcome {
        Outcome::Posted(_) => Ok(Receipt {
            operation: first.clone(),
            replayed: true,
        }),
        Outcome::Refused(refusal) => Err(refusal.clone()),
    }
}

#[cfg(test)]
mod tests;
