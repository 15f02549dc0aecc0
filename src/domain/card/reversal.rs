//! Giving back a payment whose caller was answered 07: by Ballast itself, or, if the ledger refuses that, as a person decides.

use super::{Attempt, note};
use crate::domain::command::{BalanceKey, Command, Kind, Movement, Note};
use crate::domain::id::{ID_LENGTH_MAX, OperationId};
use crate::domain::operation::{Entry, Operation, Outcome};
use crate::domain::refusal::Refusal;

/// The end of every operation id that Ballast makes for an operation of its own. No caller may use a new one.
pub const REVERSAL_SUFFIX: &str = ":reversal";

const REVERSES: &str = "reverses";
const SETTLES: &str = "settles";

/// Whether an id is reserved for operations that Ballast makes by itself.
pub fn is_reserved_id(operation_id: &str) -> bool {
    operation_id.ends_with(REVERSAL_SUFFIX)
}

/// The id of the reversal of a payment: the payment's with a suffix. One that gets too long is cut, and told apart by the
/// attempt, which is unique.
pub fn reversal_id(operation_id: &OperationId, attempt: &Attempt) -> OperationId {
    let id = format!("{operation_id}{REVERSAL_SUFFIX}");
    if id.len() <= ID_LENGTH_MAX {
        return OperationId::from_stored(&id);
    }
    let rest = format!(":{attempt}{REVERSAL_SUFFIX}");
    let kept = ID_LENGTH_MAX.saturating_sub(rest.len());
    // An id is ASCII, so it can be cut anywhere.
    let head: String = operation_id.as_str().chars().take(kept).collect();
    OperationId::from_stored(&format!("{head}{rest}"))
}

/// The credit that gives a posted payment back to the category that paid; `None`: there is nothing to give back.
pub fn reversal(payment: &Operation) -> Option<Command> {
    let attempt = Attempt::of(payment)?;
    let destination = source_entry(payment)?.balance.clone();
    let payment = &payment.command;
    let operation_id = &payment.operation_id;
    Some(Command::of_movement(
        reversal_id(operation_id, &attempt),
        Movement::Credit { destination },
        (payment.amount()?, payment.currency),
        note(
            "reversal of a card payment that was answered 07",
            [(REVERSES, operation_id.as_str())],
        ),
    ))
}

/// What an operation that has the id of a payment's reversal is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reversal {
    /// The reversal: the payment is given back.
    Posted,
    /// The reversal, and it is refused.
    Refused(Refusal),
    /// An operation of a caller, as older versions allowed: the payment is not given back.
    Another,
}

impl Reversal {
    /// What this operation is to a payment. A credit that was there before the payment gave nothing back, whatever it says.
    pub fn of(payment: &Operation, operation: &Operation) -> Self {
        let is_it = reversal(payment)
            .is_some_and(|command| command.differing_fields(&operation.command).is_empty());
        let paid = source_entry(payment);
        match &operation.outcome {
            Outcome::Refused(refusal) if is_it => Self::Refused(refusal.clone()),
            Outcome::Posted(entries) if is_it => match (&entries[..], paid) {
                ([entry], Some(paid)) if paid.version < entry.version => Self::Posted,
                _ => Self::Another,
            },
            _ => Self::Another,
        }
    }
}

/// The entry of the balance that paid; `None`: it is no posted debit, so nothing was paid.
pub fn source_entry(payment: &Operation) -> Option<&Entry> {
    match payment.entries() {
        [entry] if payment.command.kind() == Kind::Debit => Some(entry),
        _ => None,
    }
}

/// How a person settles a payment whose reversal was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettlementMethod {
    /// By a credit, now.
    Credit,
    /// In a way of their own; Ballast only notes it.
    Other,
}

/// What a person decided about a payment whose reversal was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// Its identity; of a credit also the credit's.
    pub operation_id: OperationId,
    /// How.
    pub method: SettlementMethod,
    /// Which balance a credit goes to; `None`: no credit.
    pub destination: Option<BalanceKey>,
    /// What the person says about it.
    pub note: String,
}

impl Settlement {
    /// The credit that settles a payment; `None`: it is settled otherwise.
    pub fn credit(&self, payment: &Operation) -> Option<Command> {
        let destination = self.destination.clone()?;
        let payment = &payment.command;
        Some(Command::of_movement(
            self.operation_id.clone(),
            Movement::Credit { destination },
            (payment.amount()?, payment.currency),
            Note {
                description: self.note.clone(),
                ..note("", [(SETTLES, payment.operation_id.as_str())])
            },
        ))
    }

    /// The names of the fields in which another settlement of the same id differs.
    pub fn differing_fields(&self, other: &Self) -> Vec<&'static str> {
        let account = |settlement: &Self| {
            let destination = settlement.destination.as_ref();
            destination.map(|key| key.account_id.clone())
        };
        let category = |settlement: &Self| {
            let destination = settlement.destination.as_ref();
            destination.map(|key| key.category.clone())
        };
        [
            ("method", self.method != other.method),
            ("account_id", account(self) != account(other)),
            ("category", category(self) != category(other)),
            ("note", self.note != other.note),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
    }
}
