//! The rule of changes of an account: freezing, closing and their ends, and limits. They move no money. A change that is in force
//! already is posted and changes nothing. A change of limits makes an entry of zero on each balance that it names, because it
//! changes what is available there.

use smallvec::SmallVec;

use super::checks::{check_currency, check_open};
use super::{Account, AccountFlags, Book};
use crate::domain::command::{BalanceKey, LimitChange, RequestedChange};
use crate::domain::id::AccountId;
use crate::domain::money::Currency;
use crate::domain::posting::{AccountChange, Leg, Posting};
use crate::domain::refusal::Refusal;
use crate::domain::time::Timestamp;

impl Book {
    /// The checks, in order of precedence.
    pub(super) fn decide_change(
        &self,
        account_id: &AccountId,
        change: &RequestedChange,
        currency: Currency,
    ) -> Result<Posting, Refusal> {
        let account = self.find(account_id)?;
        check_currency(account_id, account, currency)?;
        let before = account.flags;
        let after = match change {
            RequestedChange::Freeze(sides) => {
                check_open(account_id, account)?;
                AccountFlags {
                    debits_frozen: before.debits_frozen || sides.debits,
                    credits_frozen: before.credits_frozen || sides.credits,
                    ..before
                }
            }
            RequestedChange::Unfreeze(sides) => {
                check_open(account_id, account)?;
                AccountFlags {
                    debits_frozen: before.debits_frozen && !sides.debits,
                    credits_frozen: before.credits_frozen && !sides.credits,
                    ..before
                }
            }
            RequestedChange::Close => {
                if !before.closed {
                    self.check_no_settlement(account_id)?;
                    check_empty(account_id, account)?;
                }
                AccountFlags {
                    closed: true,
                    ..before
                }
            }
            RequestedChange::Update {
                limits,
                allow_breach,
            } => return self.decide_limits(account_id, account, limits, *allow_breach),
            RequestedChange::Reopen => {
                self.check_not_merged(account_id)?;
                AccountFlags {
                    closed: false,
                    ..before
                }
            }
        };
        let mut accounts = vec![AccountChange::Touch(account_id.clone())];
        if after != before {
            accounts.push(AccountChange::Refuse(account_id.clone(), after));
        }
        Ok(Posting {
            time: self.time_of_change(account_id),
            legs: SmallVec::new(),
            accounts,
        })
    }

    /// Changes of one account have different times, so that the last one is known.
    fn time_of_change(&self, account_id: &AccountId) -> Timestamp {
        let last = self.roles.get(account_id).map(|role| role.change_time);
        let time = self.time_of(std::iter::once(account_id));
        time.max(last.unwrap_or_default()).next()
    }

    /// The checks, in order of precedence: each balance is checked before the next one.
    fn decide_limits(
        &self,
        account_id: &AccountId,
        account: &Account,
        limits: &[LimitChange],
        allow_breach: bool,
    ) -> Result<Posting, Refusal> {
        check_open(account_id, account)?;
        let mut legs = SmallVec::new();
        let mut accounts = Vec::with_capacity(limits.len());
        for change in limits {
            let key = BalanceKey {
                account_id: account_id.clone(),
                category: change.category.clone(),
            };
            let balance = account.balance(&change.category);
            if !allow_breach {
                check_limits(&key, account, change)?;
            }
            accounts.push(AccountChange::Limit {
                overdraft_limit: change.overdraft_limit.unwrap_or(balance.overdraft_limit),
                balance_limit: change.balance_limit.unwrap_or(balance.balance_limit),
                balance: key.clone(),
            });
            legs.push(Leg::posted(key, 0));
        }
        let categories = limits.iter().map(|change| &change.category);
        self.check_category_count(account_id, account, categories)?;
        Ok(Posting {
            time: self.time_of_change(account_id),
            legs,
            accounts,
        })
    }

    /// Who receives for an owner has to go on, or nobody could pay the owner by name.
    fn check_no_settlement(&self, account_id: &AccountId) -> Result<(), Refusal> {
        match self.roles.get(account_id) {
            Some(role) if role.settlement => Err(Refusal::SettlementAccount {
                account_id: account_id.clone(),
                owner_id: role.owner_id.clone(),
            }),
            _ => Ok(()),
        }
    }

    fn check_not_merged(&self, account_id: &AccountId) -> Result<(), Refusal> {
        let role = self.roles.get(account_id);
        match role.and_then(|role| role.merged_into.as_ref()) {
            Some(destination_id) => Err(Refusal::AccountMerged {
                account_id: account_id.clone(),
                destination_account_id: destination_id.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// Whether the balance keeps the limits that it is to get.
fn check_limits(key: &BalanceKey, account: &Account, change: &LimitChange) -> Result<(), Refusal> {
    let balance = account.balance(&key.category);
    let used = i128::from(balance.held) - i128::from(balance.posted);
    if let Some(limit) = change.overdraft_limit
        && used > i128::from(limit)
    {
        return Err(Refusal::OverdraftInUse {
            balance: key.clone(),
            limit,
            used: i64::try_from(used).unwrap_or(i64::MAX),
            currency: account.currency,
        });
    }
    if let Some(Some(limit)) = change.balance_limit
        && balance.posted > limit
    {
        return Err(Refusal::BalanceAboveLimit {
            balance: key.clone(),
            limit,
            posted: balance.posted,
            currency: account.currency,
        });
    }
    Ok(())
}

/// Nothing is held and nothing is there, in any category; the first one in the order of their names is named.
fn check_empty(account_id: &AccountId, account: &Account) -> Result<(), Refusal> {
    let mut balances: Vec<_> = account.balances.iter().collect();
    balances.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let key = |category| BalanceKey {
        account_id: account_id.clone(),
        category,
    };
    if let Some((category, balance)) = balances.iter().find(|(_, balance)| balance.held != 0) {
        return Err(Refusal::HoldsOpen {
            balance: key(category.clone()),
            held: balance.held,
            currency: account.currency,
        });
    }
    match balances
        .into_iter()
        .find(|(_, balance)| balance.posted != 0)
    {
        None => Ok(()),
        Some((category, balance)) => Err(Refusal::AccountNotEmpty {
            balance: key(category),
            posted: balance.posted,
            currency: account.currency,
        }),
    }
}
