//! The rule of merges: everything that one account has goes to another of the same currency, category by category, and
//! the first one closes.

use smallvec::SmallVec;

use super::checks::{check_currency, check_limit, check_not_frozen, check_open};
use super::{Account, AccountFlags, Book};
use crate::domain::command::{BalanceKey, Side};
use crate::domain::id::{AccountId, Category};
use crate::domain::money::Currency;
use crate::domain::posting::{AccountChange, Leg, Posting};
use crate::domain::refusal::Refusal;

impl Book {
    /// The checks, in order of precedence.
    pub(super) fn decide_merge(
        &self,
        source_id: &AccountId,
        destination_id: &AccountId,
        currency: Currency,
    ) -> Result<Posting, Refusal> {
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
        let mut legs = SmallVec::with_capacity(2 * parts.len());
        for (category, amount) in &parts {
            legs.push(Leg::posted(key(source_id, category), -amount));
            legs.push(Leg::posted(key(destination_id, category), *amount));
        }
        let refused = AccountFlags {
            closed: true,
            ..source.flags
        };
        let mut accounts = vec![
            AccountChange::Refuse(source_id.clone(), refused),
            AccountChange::MergeInto {
                from: source_id.clone(),
                to: destination_id.clone(),
            },
        ];
        if self
            .roles
            .get(source_id)
            .is_some_and(|role| role.settlement)
        {
            accounts.push(AccountChange::PassSettlement {
                from: source_id.clone(),
                to: destination_id.clone(),
            });
        }
        Ok(Posting {
            time: self.time_of([source_id, destination_id].into_iter()).next(),
            legs,
            accounts,
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
