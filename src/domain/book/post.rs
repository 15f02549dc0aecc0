//! The rule of several changes at once: any number of debits and credits, in any number of currencies. They are applied in
//! their order, each on top of those before it; all of them or none.

use smallvec::SmallVec;

use super::checks::{check_currency, check_limit_of, check_not_frozen, check_open};
use super::movement::fund;
use super::{Account, Book};
use crate::domain::command::{BalanceKey, RequestedLeg, Side, Source};
use crate::domain::id::Category;
use crate::domain::posting::{Leg, Posting};
use crate::domain::refusal::Refusal;

/// What the legs before this one did to the balances.
#[derive(Default)]
struct Applied(Vec<Leg>);

impl Applied {
    /// What they added to posted of a balance.
    fn posted(&self, source: &Source, category: &Category) -> i128 {
        let of_balance = |leg: &&Leg| {
            leg.balance.category == *category && leg.balance.account_id == source.account_id
        };
        let legs = self.0.iter().filter(of_balance);
        legs.map(|leg| i128::from(leg.posted)).sum()
    }

    /// The categories of an account that they credited.
    fn credited<'a>(&'a self, source: &'a Source) -> impl Iterator<Item = &'a Category> {
        let of_account =
            move |leg: &&Leg| leg.balance.account_id == source.account_id && leg.posted > 0;
        self.0
            .iter()
            .filter(of_account)
            .map(|leg| &leg.balance.category)
    }
}

impl Book {
    /// The checks, in order of precedence: each goes through all legs before the next one.
    pub(super) fn decide_post(&self, legs: &[RequestedLeg]) -> Result<Posting, Refusal> {
        let mut inside: SmallVec<[(usize, &RequestedLeg, &Source, &Account); 4]> = SmallVec::new();
        for (index, leg) in legs.iter().enumerate() {
            if let Some(balance) = &leg.balance {
                let account = self.find(&balance.account_id).map_err(in_leg(index))?;
                inside.push((index, leg, balance, account));
            }
        }
        for (index, leg, balance, account) in &inside {
            check_currency(&balance.account_id, account, leg.currency).map_err(in_leg(*index))?;
        }
        for (index, _, balance, account) in &inside {
            check_open(&balance.account_id, account).map_err(in_leg(*index))?;
        }
        for (index, leg, balance, account) in &inside {
            check_not_frozen(&balance.account_id, account, leg.side).map_err(in_leg(*index))?;
        }
        let mut applied = Applied::default();
        for (index, leg, balance, account) in &inside {
            let decided = self.decide_leg(leg, balance, account, &applied);
            applied.0.push(decided.map_err(in_leg(*index))?);
        }
        let account_ids = inside.iter().map(|(_, _, balance, _)| &balance.account_id);
        Ok(Posting {
            time: self.time_of(account_ids).next(),
            legs: applied.0.into(),
            accounts: Vec::new(),
        })
    }

    fn decide_leg(
        &self,
        leg: &RequestedLeg,
        balance: &Source,
        account: &Account,
        applied: &Applied,
    ) -> Result<Leg, Refusal> {
        let minor_units = leg.amount.minor_units();
        match leg.side {
            Side::Debits => {
                let applied = |category: &Category| applied.posted(balance, category);
                let payer = fund(balance, account, leg.amount, applied)?;
                Ok(Leg::posted(payer, -minor_units))
            }
            Side::Credits => {
                let category = balance.categories.first().expect("a leg has a category");
                let key = BalanceKey {
                    account_id: balance.account_id.clone(),
                    category: category.clone(),
                };
                check_limit_of(
                    &key,
                    account,
                    applied.posted(balance, category),
                    minor_units,
                )?;
                let mut credited: Vec<&Category> = applied.credited(balance).collect();
                credited.push(category);
                credited.sort_unstable();
                credited.dedup();
                self.check_category_count(&key.account_id, account, credited)?;
                Ok(Leg::posted(key, minor_units))
            }
        }
    }
}

fn in_leg(index: usize) -> impl Fn(Refusal) -> Refusal {
    move |cause| Refusal::InLeg {
        index,
        cause: cause.into(),
    }
}
