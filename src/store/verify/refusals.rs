//! Refusals: whether what a refused operation says is what Ballast writes for it. Each reason has its facts, no more and no
//! less, and they are about the operation's own accounts, amount, currency and categories.

use std::sync::Arc;

use tokio_postgres::Row;

use super::super::{row, unreadable};
use crate::domain::refusal::Facts;
use crate::domain::{
    AccountId, Amount, BalanceKey, Category, Command, Intent, Movement, Note, Operation,
    OperationId, Outcome, Refusal, RequestedLeg, Side,
};

/// What is wrong with a row of `verify_refusals`.
pub(super) fn fault(row: &Row) -> Option<String> {
    let operation_id: &str = row.get("operation_id");
    let fault = match unreadable::operation(row) {
        Err(unreadable) => unreadable.cause,
        Ok(operation) => {
            let facts = row::from_json(row.get("refusal_facts")).unwrap_or_default();
            misfit(&operation, &facts)?
        }
    };
    Some(format!("operation {operation_id}: {fault}"))
}

fn misfit(operation: &Operation, stored: &Facts) -> Option<String> {
    let Outcome::Refused(refusal) = &operation.outcome else {
        return Some("it has a refusal reason and is not refused".to_owned());
    };
    let facts = refusal.facts();
    if facts != *stored {
        return Some("its refusal_facts are not those of its reason".to_owned());
    }
    if let Refusal::InLeg { index, cause } = refusal {
        let leg = operation.command.legs().get(*index);
        let Some(movement) = leg.and_then(alone) else {
            return Some("its refusal is about a leg that it has not".to_owned());
        };
        let alone = Operation {
            command: Arc::new(movement),
            outcome: Outcome::Refused((**cause).clone()),
            create_time: operation.create_time,
        };
        return misfit(&alone, &cause.facts());
    }
    let number = |name: &str| facts.get(name)?.parse::<i64>().ok();
    let is_right = |(name, value): (&String, &String)| match name.as_str() {
        "account_id" => is_side(operation, value, side(&facts)),
        "reversed_operation_id" => {
            let reversed = operation.command.reversed_operation_id();
            reversed.is_some_and(|id| id.as_str() == value)
        }
        // It says itself how much more than that was asked.
        "original_minor_units" => {
            let asked = number("reversed_minor_units").zip(number("amount_minor_units"));
            asked.is_some_and(|(reversed, amount)| {
                (0..number(name).unwrap_or(0)).contains(&reversed)
                    && i128::from(reversed) + i128::from(amount)
                        > number(name).map_or(i128::MAX, i128::from)
            })
        }
        "currency_code" => value == operation.command.currency.as_str(),
        "needed_minor_units" => amount(operation) == number(name),
        // Of a merge, what one category has: nothing else says it.
        "amount_minor_units" => match amount(operation) {
            Some(amount) => Some(amount) == number(name),
            None => number(name).is_some_and(|amount| amount > 0),
        },
        "categories" => *value == asked(operation),
        "category" => is_category(operation, refusal, value),
        "available_minor_units" => {
            let needed = number("needed_minor_units");
            let mut available = value.split(',').map(|text| text.parse::<i64>().ok());
            available.all(|available| available < needed)
        }
        "used_minor_units" => number(name) > number("overdraft_limit_minor_units"),
        "expected_version" => operation.command.conditions().expected_version == number(name),
        "version" => number(name) != number("expected_version"),
        "min_available_after_minor_units" => {
            operation.command.conditions().min_available_after == number(name)
        }
        "available_after_minor_units" => number(name) < number("min_available_after_minor_units"),
        "held_minor_units" => number(name) > Some(0),
        "limit_minor_units" => {
            let sum = number("posted_minor_units").zip(number("amount_minor_units"));
            sum.is_some_and(|(posted, amount)| {
                i128::from(posted) + i128::from(amount) > number(name).map_or(i128::MAX, i128::from)
            })
        }
        // Without a limit, what is below zero.
        "posted_minor_units" => {
            facts.contains_key("limit_minor_units")
                || number(name).is_some_and(|posted| match refusal {
                    Refusal::AccountNotEmpty { .. } => posted != 0,
                    Refusal::BalanceAboveLimit { limit, .. } => posted > *limit,
                    _ => posted < 0,
                })
        }
        _ => true,
    };
    let wrong = facts.iter().find(|fact| !is_right(*fact));
    wrong.map(|(name, _)| format!("its refusal_facts have another {name} than the operation"))
}

/// A leg as an operation by itself; `None`: it is about the world outside.
fn alone(leg: &RequestedLeg) -> Option<Command> {
    let source = leg.balance.clone()?;
    let movement = match leg.side {
        Side::Debits => Movement::Debit { source },
        Side::Credits => Movement::Credit {
            destination: BalanceKey {
                account_id: source.account_id,
                category: source.categories.into_iter().next()?,
            },
        },
    };
    let id = OperationId::from_stored("leg");
    let money = (leg.amount, leg.currency);
    Some(Command::of_movement(id, movement, money, Note::default()))
}

fn amount(operation: &Operation) -> Option<i64> {
    operation.command.amount().map(Amount::minor_units)
}

/// Which side of an operation these facts are about; `None`: either.
fn side(facts: &Facts) -> Option<Side> {
    let has = |name: &str| facts.contains_key(name);
    let payers = [
        "needed_minor_units",
        "held_minor_units",
        "posted_minor_units",
    ];
    match facts.get("side").map(String::as_str) {
        Some("debits") => Some(Side::Debits),
        Some(_) => Some(Side::Credits),
        None if has("limit_minor_units") => Some(Side::Credits),
        // What lacks funds, is held or is owed is on the side that pays.
        None if payers.into_iter().any(has) => Some(Side::Debits),
        None => None,
    }
}

/// Whether the operation would have moved money of this account, on this side.
fn is_side(operation: &Operation, account_id: &str, side: Option<Side>) -> bool {
    let command = &operation.command;
    let is = |id: Option<&AccountId>| id.is_some_and(|id| id.as_str() == account_id);
    match side {
        Some(Side::Debits) => is(command.source_account_id()),
        Some(Side::Credits) => is(command.destination_account_id()),
        None => is(command.source_account_id()) || is(command.destination_account_id()),
    }
}

fn asked(operation: &Operation) -> String {
    let categories = operation
        .command
        .source()
        .map_or(&[][..], |source| &source.categories[..]);
    let texts: Vec<&str> = categories.iter().map(Category::as_str).collect();
    texts.join(",")
}

/// A merge or a closure refuses for any category, an unmet condition for one that was asked to pay, another operation for that of
/// its destination.
fn is_category(operation: &Operation, refusal: &Refusal, category: &str) -> bool {
    match operation.command.moved() {
        Intent::Merge { .. } | Intent::Change { .. } => true,
        // Its refusals are those of one leg.
        Intent::Post { .. } | Intent::Reverse { .. } => false,
        Intent::Move { movement, .. } => match (movement.source(), refusal) {
            // The one that would have paid.
            (
                Some(source),
                Refusal::VersionMismatch { .. } | Refusal::MinAvailableNotMet { .. },
            ) => {
                let mut categories = source.categories.iter();
                categories.any(|asked| asked.as_str() == category)
            }
            _ => movement
                .destination()
                .is_some_and(|key| key.category.as_str() == category),
        },
    }
}
