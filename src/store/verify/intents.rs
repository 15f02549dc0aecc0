//! Intents: whether an operation did what it says was asked.

use tokio_postgres::Row;

use super::super::unreadable;
use crate::domain::{
    Conditions, LimitChange, Operation, Outcome, RequestedChange, RequestedLeg, Side,
};

/// An entry of a row of `verify_intents`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found<'a> {
    account_id: Option<&'a str>,
    amount: Option<i64>,
    category: Option<&'a str>,
    currency_code: Option<&'a str>,
    overdraft: Option<&'a str>,
}

/// What is wrong with a row of `verify_intents`.
pub(super) fn fault(row: &Row) -> Option<String> {
    let operation_id: &str = row.get("operation_id");
    let fault = match unreadable::operation(row) {
        Err(unreadable) => unreadable.cause,
        Ok(operation) => misfit(&operation, found(row))?.to_owned(),
    };
    Some(format!("operation {operation_id}: {fault}"))
}

fn found(row: &Row) -> Vec<Found<'_>> {
    let texts = |column| -> Vec<Option<&str>> { row.get(column) };
    let amounts: Vec<Option<i64>> = row.get("amounts");
    let balances = texts("account_ids").into_iter().zip(texts("categories"));
    let money = amounts.into_iter().zip(texts("currency_codes"));
    let found = balances.zip(money).zip(texts("overdrafts"));
    let found = found.map(
        |(((account_id, category), (amount, currency_code)), overdraft)| Found {
            account_id,
            amount,
            category,
            currency_code,
            overdraft,
        },
    );
    found.collect()
}

/// Each requested leg has an entry, and each entry was requested.
fn misfit(operation: &Operation, mut found: Vec<Found<'_>>) -> Option<&'static str> {
    if let Some(RequestedChange::Update { limits, .. }) = operation.command.change() {
        return match operation.outcome {
            Outcome::Posted(_) => other_limits(limits, &found),
            Outcome::Refused(_) => None,
        };
    }
    if operation.command.change().is_some() {
        return (!found.is_empty()).then_some("it has an entry that was not asked for");
    }
    let conditions = operation.command.conditions();
    if conditions != Conditions::default() {
        return broken_condition(operation, conditions);
    }
    let legs = operation.command.legs();
    if legs.first().map(|leg| leg.currency) != Some(operation.command.currency) {
        return Some("its currency is not that of its first leg");
    }
    if matches!(operation.outcome, Outcome::Refused(_)) {
        return None;
    }
    let inside = legs.iter().filter(|leg| leg.balance.is_some());
    for leg in inside {
        let Some(index) = found.iter().position(|entry| is_of(leg, entry)) else {
            return Some("a leg has no entry");
        };
        found.swap_remove(index);
    }
    (!found.is_empty()).then_some("it has an entry that was not asked for")
}

/// Each balance that got limits has an entry of zero under the new overdraft limit, and there is no other entry.
fn other_limits(limits: &[LimitChange], found: &[Found<'_>]) -> Option<&'static str> {
    for change in limits {
        let is_of = |entry: &&Found| entry.category == Some(change.category.as_str());
        let Some(entry) = found.iter().find(is_of) else {
            return Some("a balance whose limits changed has no entry");
        };
        let overdraft = change.overdraft_limit.map(|limit| limit.to_string());
        if entry.amount != Some(0) || overdraft.is_some() && entry.overdraft != overdraft.as_deref()
        {
            return Some("an entry does not have the limits that were asked for");
        }
    }
    (found.len() != limits.len()).then_some("it has an entry that was not asked for")
}

/// What posted kept its conditions, as its first entry says: the payer's, or of a credit the receiver's.
fn broken_condition(operation: &Operation, conditions: Conditions) -> Option<&'static str> {
    let entry = operation.entries().first()?;
    let expected = conditions.expected_version;
    if expected.is_some_and(|expected| entry.version.checked_sub(1) != Some(expected)) {
        return Some("it changed another version than the expected one");
    }
    let min = conditions.min_available_after;
    min.is_some_and(|min| entry.available_after < min)
        .then_some("less is available after it than was to stay")
}

fn is_of(leg: &RequestedLeg, entry: &Found<'_>) -> bool {
    let minor_units = leg.amount.minor_units();
    let amount = match leg.side {
        Side::Debits => -minor_units,
        Side::Credits => minor_units,
    };
    leg.balance.as_ref().is_some_and(|balance| {
        let mut categories = balance.categories.iter();
        Some(balance.account_id.as_str()) == entry.account_id
            && categories.any(|category| Some(category.as_str()) == entry.category)
    }) && entry.amount == Some(amount)
        && entry.currency_code == Some(leg.currency.as_str())
}
