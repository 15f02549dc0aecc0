//! Checks: the rules that several kinds of commands share. Each is one reason to refuse.

use super::{Account, Book};
use crate::domain::command::{BalanceKey, Conditions, Side};
use crate::domain::id::{AccountId, Category};
use crate::domain::money::{Amount, Currency};
use crate::domain::refusal::Refusal;

impl Book {
    pub(super) fn find(&self, account_id: &AccountId) -> Result<&Account, Refusal> {
        let account = self.accounts.get(account_id);
        account.ok_or_else(|| Refusal::AccountNotFound {
            account_id: account_id.clone(),
        })
    }

    /// Whether the account may have all these categories: the first one beyond the limit is refused.
    pub(super) fn check_category_count<'a>(
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
}

pub(super) fn check_currency(
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

pub(super) fn check_open(account_id: &AccountId, account: &Account) -> Result<(), Refusal> {
    if account.flags.closed {
        return Err(Refusal::AccountClosed {
            account_id: account_id.clone(),
        });
    }
    Ok(())
}

pub(super) fn check_not_frozen(
    account_id: &AccountId,
    account: &Account,
    side: Side,
) -> Result<(), Refusal> {
    let frozen = match side {
        Side::Debits => account.flags.debits_frozen,
        Side::Credits => account.flags.credits_frozen,
    };
    if frozen {
        return Err(Refusal::AccountFrozen {
            account_id: account_id.clone(),
            side,
        });
    }
    Ok(())
}

pub(super) fn check_limit(key: &BalanceKey, account: &Account, amount: i64) -> Result<(), Refusal> {
    check_limit_of(key, account, 0, amount)
}

/// The same on top of what was added to posted before.
pub(super) fn check_limit_of(
    key: &BalanceKey,
    account: &Account,
    added: i128,
    amount: i64,
) -> Result<(), Refusal> {
    let balance = account.balance(&key.category);
    let posted = i128::from(balance.posted) + added;
    match i64::try_from(posted + i128::from(amount)) {
        Ok(after) if after <= balance.limit() => Ok(()),
        _ => Err(Refusal::BalanceLimitExceeded {
            balance: key.clone(),
            limit: balance.limit(),
            posted: i64::try_from(posted).expect("the changes before kept the limit"),
            amount,
            currency: account.currency,
        }),
    }
}

/// Whether the balance has the version that the caller expects, if it expects one.
pub(super) fn check_version(
    key: &BalanceKey,
    account: &Account,
    conditions: Conditions,
) -> Result<(), Refusal> {
    let version = account.balance(&key.category).version;
    match conditions.expected_version {
        Some(expected) if expected != version => Err(Refusal::VersionMismatch {
            balance: key.clone(),
            expected,
            version,
        }),
        _ => Ok(()),
    }
}

/// Whether the balance keeps available what the caller wants it to keep after paying this amount.
pub(super) fn check_available_after(
    key: &BalanceKey,
    account: &Account,
    amount: Amount,
    conditions: Conditions,
) -> Result<(), Refusal> {
    let balance = account.balance(&key.category);
    let available_after = balance.available_with(-i128::from(amount.minor_units()));
    match conditions.min_available_after {
        Some(min) if available_after < min => Err(Refusal::MinAvailableNotMet {
            balance: key.clone(),
            available_after,
            min,
            currency: account.currency,
        }),
        _ => Ok(()),
    }
}
