//! The rule of debits, credits and transfers: an amount moves between balances that the caller names.

use smallvec::SmallVec;

use super::checks::{
    check_available_after, check_currency, check_limit, check_not_frozen, check_open, check_version,
};
use super::{Account, Book};
use crate::domain::command::{BalanceKey, Conditions, Movement, Side, Source};
use crate::domain::id::Category;
use crate::domain::money::{Amount, Currency};
use crate::domain::posting::{Leg, Posting};
use crate::domain::refusal::Refusal;

impl Book {
    /// The checks, in order of precedence; for each, the source comes before the destination.
    pub(super) fn decide_movement(
        &self,
        movement: &Movement,
        (amount, currency): (Amount, Currency),
        conditions: Conditions,
    ) -> Result<Posting, Refusal> {
        let source = movement
            .source()
            .map(|source| Ok((source, self.find(&source.account_id)?)))
            .transpose()?;
        let destination = movement
            .destination()
            .map(|key| Ok((key, self.find(&key.account_id)?)))
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
            check_currency(account_id, account, currency)?;
        }
        for (account_id, account, _) in sides() {
            check_open(account_id, account)?;
        }
        for (account_id, account, side) in sides() {
            check_not_frozen(account_id, account, side)?;
        }
        let minor_units = amount.minor_units();
        let mut time = self.now;
        let mut legs = SmallVec::new();
        if let Some((source, account)) = source {
            time = time.max(account.balances.last_time().next());
            let payer = fund(source, account, amount, |_| 0)?;
            check_version(&payer, account, conditions)?;
            check_available_after(&payer, account, amount, conditions)?;
            legs.push(Leg::posted(payer, -minor_units));
        }
        if let Some((key, account)) = destination {
            if source.is_none() {
                check_version(key, account, conditions)?;
            }
            check_limit(key, account, minor_units)?;
            let category = std::slice::from_ref(&key.category);
            self.check_category_count(&key.account_id, account, category)?;
            time = time.max(account.balances.last_time().next());
            legs.push(Leg::posted(key.clone(), minor_units));
        }
        Ok(Posting {
            time: time.next(),
            legs,
            accounts: Vec::new(),
        })
    }
}

/// Ordered funding: the first category that covers the whole amount pays. `added` says what was added to posted of a category
/// before.
pub(super) fn fund(
    source: &Source,
    account: &Account,
    needed: Amount,
    added: impl Fn(&Category) -> i128,
) -> Result<BalanceKey, Refusal> {
    let account_id = source.account_id.clone();
    let available = |category: &Category| {
        let balance = account.balance(category);
        balance.available_with(added(category))
    };
    let covers = |category: &&Category| available(category) >= needed.minor_units();
    match source.categories.iter().find(covers) {
        Some(category) => Ok(BalanceKey {
            account_id,
            category: category.clone(),
        }),
        None => {
            let categories = source.categories.iter();
            let available = categories.map(|category| (category.clone(), available(category)));
            Err(Refusal::InsufficientFunds {
                account_id,
                available: available.collect(),
                needed,
                currency: account.currency,
            })
        }
    }
}
