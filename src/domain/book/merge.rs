//! Merges in the book: everything that one account has goes to another of the same currency, category by category, and
//! the first one closes. All of it happens or none.

use std::sync::Arc;

use super::{Account, Book, check_currency, check_limit, check_not_frozen, check_open};
use crate::domain::command::{BalanceKey, Command};
use crate::domain::id::{AccountId, Category, OwnerId};
use crate::domain::money::Currency;
use crate::domain::operation::{Operation, Outcome};
use crate::domain::refusal::{Refusal, Side};

/// Whose an account is, and whether it receives for its owner. Known of the accounts that merges name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// The owner.
    pub owner_id: OwnerId,
    /// Whether it receives the transfers to its owner.
    pub settlement: bool,
    settled_before: bool,
}

impl Role {
    /// As it is stored.
    pub fn new(owner_id: OwnerId, settlement: bool) -> Self {
        Self {
            owner_id,
            settlement,
            settled_before: settlement,
        }
    }
}

/// What merges changed beside balances.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Closures {
    /// The accounts that closed.
    pub closed: Vec<AccountId>,
    /// The accounts that no longer receive for their owners.
    pub settled_before: Vec<AccountId>,
    /// The accounts that receive for their owners instead.
    pub settle_now: Vec<AccountId>,
}

/// A merge that was decided.
pub(super) struct Merge {
    source: AccountId,
    destination: AccountId,
    /// What each category moves, ordered by category; always positive.
    parts: Vec<(Category, i64)>,
}

impl Book {
    /// Adds what is known of an account that a merge names.
    pub fn add_role(&mut self, account_id: AccountId, role: Role) {
        self.roles.insert(account_id, role);
    }

    /// What the merges of this book changed beside balances.
    pub fn closures(&self) -> Closures {
        let changed = |settled_before: bool| {
            let roles = self.roles.iter();
            let changed = roles.filter(move |(_, role)| {
                role.settled_before == settled_before && role.settlement != settled_before
            });
            changed.map(|(account_id, _)| account_id.clone()).collect()
        };
        Closures {
            closed: self.closed.clone(),
            settled_before: changed(true),
            settle_now: changed(false),
        }
    }

    /// The rules, in order of precedence.
    pub(super) fn decide_merge(
        &self,
        source_id: &AccountId,
        destination_id: &AccountId,
        currency: Currency,
    ) -> Result<Merge, Refusal> {
        let (source, destination) = (self.find(source_id)?, self.find(destination_id)?);
        check_currency(source_id, source, currency)?;
        check_currency(destination_id, destination, currency)?;
        self.check_settlement(source_id, destination_id)?;
        check_open(source_id, source)?;
        check_open(destination_id, destination)?;
        check_not_frozen(source_id, source, Side::Debits)?;
        check_not_frozen(destination_id, destination, Side::Credits)?;
        let parts = parts(source_id, source)?;
        for (category, amount) in &parts {
            let key = key(destination_id, category);
            check_limit(&key, destination, *amount)?;
        }
        let moved = parts.iter().map(|(category, _)| category);
        self.check_category_count(destination_id, destination, moved)?;
        Ok(Merge {
            source: source_id.clone(),
            destination: destination_id.clone(),
            parts,
        })
    }

    /// An account that receives for its owner gives that to the destination, and to nobody else's account.
    fn check_settlement(&self, source: &AccountId, destination: &AccountId) -> Result<(), Refusal> {
        let (Some(role), Some(heir)) = (self.roles.get(source), self.roles.get(destination)) else {
            return Ok(());
        };
        if role.settlement && role.owner_id != heir.owner_id {
            return Err(Refusal::SettlementAccount {
                account_id: source.clone(),
                owner_id: role.owner_id.clone(),
            });
        }
        Ok(())
    }

    pub(super) fn post_merge(&mut self, command: &Arc<Command>, merge: Merge) -> Arc<Operation> {
        let Merge {
            source,
            destination,
            parts,
        } = merge;
        let keys: Vec<[BalanceKey; 2]> = parts
            .iter()
            .map(|(category, _)| [key(&source, category), key(&destination, category)])
            .collect();
        let time = self.time_of(keys.iter().flatten());
        let mut entries = Vec::with_capacity(parts.len());
        for ([from, to], (_, amount)) in keys.into_iter().zip(parts) {
            entries.push([
                self.change(from, -amount, time, &command.operation_id),
                self.change(to, amount, time, &command.operation_id),
            ]);
        }
        if let Some(account) = self.accounts.get_mut(&source) {
            account.closed = true;
        }
        let settled = self.roles.get_mut(&source);
        if settled.is_some_and(|role| std::mem::take(&mut role.settlement))
            && let Some(heir) = self.roles.get_mut(&destination)
        {
            heir.settlement = true;
        }
        self.closed.push(source);
        self.outcome(command, time, Outcome::Merged(entries))
    }
}

/// What each category has, ordered by category. Fails if something cannot move.
fn parts(account_id: &AccountId, account: &Account) -> Result<Vec<(Category, i64)>, Refusal> {
    let mut balances: Vec<_> = account.balances.iter().collect();
    balances.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    for (category, balance) in &balances {
        if balance.held != 0 {
            return Err(Refusal::HoldsOpen {
                balance: key(account_id, category),
                held: balance.held,
                currency: account.currency,
            });
        }
    }
    for (category, balance) in &balances {
        if balance.posted < 0 {
            return Err(Refusal::BalanceNegative {
                balance: key(account_id, category),
                posted: balance.posted,
                currency: account.currency,
            });
        }
    }
    let has_money = balances.into_iter().filter(|(_, b)| b.posted > 0);
    Ok(has_money
        .map(|(category, b)| (category, b.posted))
        .collect())
}

fn key(account_id: &AccountId, category: &Category) -> BalanceKey {
    BalanceKey {
        account_id: account_id.clone(),
        category: category.clone(),
    }
}
