//! A reversal: what a posted operation moved, moved back. It is an operation of its own, and names the one that it reverses.
//!
//! It takes from the balances that received and gives to those that paid, not to others that the original asked. So it follows
//! from the original, which never changes, and from the amount; only how much of the original is left is known under its locks.

use super::card;
use super::command::{Conditions, Intent, Kind, Movement, RequestedLeg, Side, Source};
use super::id::OperationId;
use super::money::{Amount, Currency};
use super::operation::{Entry, Operation, Outcome};

/// Why an operation cannot be reversed, whoever asks and whenever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReversibleCause {
    /// It was refused, and moved nothing.
    Refused,
    /// It is a card payment: what may be given back of it is known to the card authorizer alone.
    CardPayment,
    /// It is of a kind that cannot be reversed; the stable name of the kind.
    Kind(&'static str),
}

impl NotReversibleCause {
    /// Its stable name, in UPPER_SNAKE: `REFUSED`, `CARD_PAYMENT`, or that of the kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "REFUSED",
            Self::CardPayment => "CARD_PAYMENT",
            Self::Kind(kind) => kind,
        }
    }
}

/// An operation that cannot be reversed, or not so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReversible {
    /// The operation cannot be reversed.
    Never {
        /// The operation.
        original_id: OperationId,
        /// Why.
        cause: NotReversibleCause,
    },
    /// An operation of several legs is reversed as a whole; the request has an amount.
    OnlyAsAWhole,
}

impl Intent {
    /// The reversal of an operation, and its currency: of this amount, or of the whole operation. Whether the amount is in the
    /// currency of the original, and how much of that is left, is not looked at.
    pub fn reverse(
        original: &Operation,
        amount: Option<(Amount, Currency)>,
    ) -> Result<(Self, Currency), NotReversible> {
        let command = &original.command;
        let never = |cause| NotReversible::Never {
            original_id: command.operation_id.clone(),
            cause,
        };
        let entries = match &original.outcome {
            Outcome::Posted(entries) => &entries[..],
            Outcome::Refused(_) => return Err(never(NotReversibleCause::Refused)),
        };
        if command.kind() == Kind::Debit && card::Attempt::of(original).is_some() {
            return Err(never(NotReversibleCause::CardPayment));
        }
        let (back, currency) = match &command.intent {
            Self::Move { amount: whole, .. } => {
                let (amount, currency) = amount.unwrap_or((*whole, command.currency));
                let movement = movement_back(entries)
                    .ok_or(never(NotReversibleCause::Kind(command.kind().as_str())))?;
                let back = Self::Move {
                    movement,
                    amount,
                    conditions: Conditions::default(),
                };
                (back, currency)
            }
            Self::Post { .. } if amount.is_some() => return Err(NotReversible::OnlyAsAWhole),
            Self::Post { legs } => {
                let legs = legs_back(legs, entries);
                let currency = legs.first().map_or(command.currency, |leg| leg.currency);
                (Self::Post { legs }, currency)
            }
            _ => return Err(never(NotReversibleCause::Kind(command.kind().as_str()))),
        };
        let intent = Self::Reverse {
            original_id: command.operation_id.clone(),
            back: Box::new(back),
        };
        Ok((intent, currency))
    }
}

fn source(entry: &Entry) -> Source {
    Source {
        account_id: entry.balance.account_id.clone(),
        categories: vec![entry.balance.category.clone()],
    }
}

/// The movement that takes back what these entries of a movement did; `None`: they are not those of one.
fn movement_back(entries: &[Entry]) -> Option<Movement> {
    let paid = entries.iter().find(|entry| !entry.is_credit());
    let received = entries.iter().find(|entry| entry.is_credit());
    match (paid, received) {
        (Some(paid), Some(received)) => Some(Movement::Transfer {
            source: source(received),
            destination: paid.balance.clone(),
            owner_id: None,
        }),
        (Some(paid), None) => Some(Movement::Credit {
            destination: paid.balance.clone(),
        }),
        (None, Some(received)) => Some(Movement::Debit {
            source: source(received),
        }),
        (None, None) => None,
    }
}

/// The legs turned round, the last one first. Each that has a balance has an entry, which says which category it was.
fn legs_back(legs: &[RequestedLeg], entries: &[Entry]) -> Vec<RequestedLeg> {
    let mut entries = entries.iter();
    let mut back: Vec<RequestedLeg> = legs
        .iter()
        .map(|leg| RequestedLeg {
            side: match leg.side {
                Side::Debits => Side::Credits,
                Side::Credits => Side::Debits,
            },
            balance: leg
                .balance
                .as_ref()
                .and_then(|_| entries.next().map(source)),
            amount: leg.amount,
            currency: leg.currency,
        })
        .collect();
    back.reverse();
    back
}
