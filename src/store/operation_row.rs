//! Operations as rows: one codec for both directions.
//!
//! An operation has one row. Its first debit and its first credit stand in it; a transfer has no more. All others are rows of
//! `operation_legs`, whose `position` is that of the entry among all entries of the operation. Columns that say what nearly every operation says are NULL:
//!
//! | column                                      | NULL means                                                        |
//! |---------------------------------------------|-------------------------------------------------------------------|
//! | `source_amount`, `destination_amount`       | what is added to posted: minus `amount`, plus `amount`            |
//! | `source_held_after`, `source_available_after` (and of the destination) | 0; posted minus held            |
//! | `source_categories`                         | main alone was asked                                              |
//! | `source_version`, `destination_version`     | no entry on this side                                             |
//! | `leg_count`                                 | no rows in `operation_legs`                                       |
//! | `intent`                                    | the other columns say all that was asked (see [`super::intent`])  |

use std::sync::Arc;

use smallvec::SmallVec;
use tokio_postgres::Row;

use super::columns::{LegRow, OperationRow, ReadRow};
use super::error::StoreError;
use super::intent;
use super::row::{self, PgTime};
use crate::domain::{
    AccountId, Amount, BalanceKey, Category, Command, Conditions, Entry, Intent, Kind, Movement,
    Note, Operation, OperationId, Outcome, OwnerId, Refusal, RequestedChange, Side, Source,
};

/// The columns of one entry in an operation's row.
#[derive(Debug, Clone, Copy, Default)]
struct RowSide<'a> {
    account_id: Option<&'a str>,
    category: Option<&'a str>,
    amount: Option<i64>,
    version: Option<i64>,
    posted_after: Option<i64>,
    held_after: Option<i64>,
    available_after: Option<i64>,
    previous_id: Option<&'a str>,
}

impl<'a> RowSide<'a> {
    /// Of an entry; without one, of what the command says. `usual` is what the column `amount` already says.
    fn of(
        entry: Option<&'a Entry>,
        usual: Option<i64>,
        account_id: Option<&'a AccountId>,
        category: Option<&'a Category>,
    ) -> Self {
        let Some(entry) = entry else {
            return Self {
                account_id: account_id.map(AccountId::as_str),
                category: category.map(Category::as_str),
                ..Self::default()
            };
        };
        let (held_after, available_after) = row::after_columns(entry);
        Self {
            account_id: Some(entry.balance.account_id.as_str()),
            category: Some(entry.balance.category.as_str()),
            amount: (Some(entry.amount) != usual).then_some(entry.amount),
            version: Some(entry.version),
            posted_after: Some(entry.posted_after),
            held_after,
            available_after,
            previous_id: entry
                .previous_operation_id
                .as_ref()
                .map(OperationId::as_str),
        }
    }

    /// The entry; `None`: there is none on this side.
    fn entry(&self, usual: Option<i64>) -> Result<Option<Entry>, String> {
        let Some(version) = self.version else {
            return Ok(None);
        };
        let balance = self.balance().ok_or("an entry has no balance")?;
        let missing = || format!("the entry of {balance:?} is missing");
        let amount = self.amount.or(usual).ok_or_else(missing)?;
        let posted_after = self.posted_after.ok_or_else(missing)?;
        let (held_after, available_after) =
            row::after(posted_after, self.held_after, self.available_after);
        Ok(Some(Entry {
            amount,
            version,
            posted_after,
            held_after,
            available_after,
            previous_operation_id: row::operation_id(self.previous_id),
            balance,
        }))
    }

    fn balance(&self) -> Option<BalanceKey> {
        Some(BalanceKey {
            account_id: AccountId::from_stored(self.account_id?),
            category: Category::from_stored(self.category?),
        })
    }

    /// Whether there is nothing in the columns that nearly every entry leaves out.
    fn is_plain(&self) -> bool {
        self.amount.is_none() && self.held_after.is_none() && self.available_after.is_none()
    }
}

/// An operation as it is written.
#[derive(Debug)]
pub(super) struct Written<'a> {
    pub(super) row: OperationRow<'a>,
    pub(super) legs: Vec<LegRow<'a>>,
    /// It has nothing in the columns that a plain operation leaves out.
    pub(super) is_plain: bool,
}

impl<'a> Written<'a> {
    pub(super) fn of(operation: &'a Operation) -> Self {
        let Operation {
            command,
            outcome,
            create_time,
        } = operation;
        let (entries, refusal) = match outcome {
            Outcome::Posted(entries) => (&entries[..], None),
            Outcome::Refused(refusal) => (&[][..], Some(refusal)),
        };
        let source_entry = entries.iter().find(|entry| !entry.is_credit());
        let destination_entry = entries.iter().find(|entry| entry.is_credit());
        let asked = command.source();
        let amount = command.amount().map(Amount::minor_units);
        let source = RowSide::of(
            source_entry,
            amount.map(|amount| -amount),
            command.source_account_id(),
            command.first_category_on(Side::Debits),
        );
        let destination = RowSide::of(
            destination_entry,
            amount,
            command.destination_account_id(),
            command.first_category_on(Side::Credits),
        );
        let operation_id = command.operation_id.as_str();
        let is_in_row = |entry: &Entry| {
            let in_row = source_entry.into_iter().chain(destination_entry);
            in_row.into_iter().any(|in_row| std::ptr::eq(in_row, entry))
        };
        let mut legs: Vec<LegRow<'a>> = entries
            .iter()
            .zip(0..)
            .filter(|(entry, _)| !is_in_row(entry))
            .map(|(entry, position)| LegRow::of(operation_id, entry, position))
            .collect();
        if refusal.is_some() {
            legs.extend(refused_legs(
                operation,
                [source.account_id, destination.account_id],
            ));
        }
        let description = command.note.description.as_str();
        let row = OperationRow {
            operation_id,
            kind: command.kind().as_str(),
            amount,
            currency_code: command.currency.as_str(),
            create_time: PgTime(*create_time),
            source_account_id: source.account_id,
            source_category: source.category,
            source_categories: asked.and_then(row::join_categories),
            source_amount: source.amount,
            source_version: source.version,
            source_posted_after: source.posted_after,
            source_held_after: source.held_after,
            source_available_after: source.available_after,
            source_previous_id: source.previous_id,
            destination_account_id: destination.account_id,
            destination_category: destination.category,
            destination_owner_id: command.destination_owner_id().map(OwnerId::as_str),
            destination_amount: destination.amount,
            destination_version: destination.version,
            destination_posted_after: destination.posted_after,
            destination_held_after: destination.held_after,
            destination_available_after: destination.available_after,
            destination_previous_id: destination.previous_id,
            leg_count: (!legs.is_empty()).then(|| {
                i32::try_from(legs.len()).expect("an operation has thousands of legs at most")
            }),
            hold_id: None,
            reversed_operation_id: command.reversed_operation_id().map(OperationId::as_str),
            intent: intent::to_json(command),
            description: (!description.is_empty()).then_some(description),
            metadata: row::to_json(&command.note.metadata),
            refusal_reason: refusal.map(Refusal::reason),
            refusal_facts: refusal.and_then(|refusal| row::to_json(&refusal.facts())),
        };
        let is_plain = source.is_plain()
            && destination.is_plain()
            && legs.is_empty()
            && row.source_categories.is_none()
            && row.destination_owner_id.is_none()
            && row.description.is_none()
            && row.metadata.is_none()
            && row.intent.is_none()
            && row.reversed_operation_id.is_none()
            && row.refusal_reason.is_none();
        Self {
            row,
            legs,
            is_plain,
        }
    }
}

/// A refused operation is listed for each account that it named: beyond its two sides, by a leg without an entry.
fn refused_legs<'a>(
    operation: &'a Operation,
    sides: [Option<&'a str>; 2],
) -> impl Iterator<Item = LegRow<'a>> {
    let command = &operation.command;
    let others = command
        .account_ids()
        .map(AccountId::as_str)
        .filter(move |account_id| !sides.contains(&Some(*account_id)));
    others.zip(0..).map(|(account_id, position)| LegRow {
        operation_id: command.operation_id.as_str(),
        account_id,
        category: Category::MAIN,
        position,
        amount: None,
        version: None,
        posted_after: None,
        held_after: None,
        available_after: None,
        previous_id: None,
        refuse_time: Some(PgTime(operation.create_time)),
    })
}

impl<'a> LegRow<'a> {
    fn of(operation_id: &'a str, entry: &'a Entry, position: i32) -> Self {
        let side = RowSide::of(Some(entry), None, None, None);
        Self {
            operation_id,
            account_id: entry.balance.account_id.as_str(),
            category: entry.balance.category.as_str(),
            position,
            amount: side.amount,
            version: side.version,
            posted_after: side.posted_after,
            held_after: side.held_after,
            available_after: side.available_after,
            previous_id: side.previous_id,
            refuse_time: None,
        }
    }

    /// Its entry; `None`: it has none.
    pub(super) fn entry(&self) -> Result<Option<Entry>, StoreError> {
        let side = RowSide {
            account_id: Some(self.account_id),
            category: Some(self.category),
            amount: self.amount,
            version: self.version,
            posted_after: self.posted_after,
            held_after: self.held_after,
            available_after: self.available_after,
            previous_id: self.previous_id,
        };
        side.entry(None)
            .map_err(|what| StoreError::Corrupt(format!("operation {}: {what}", self.operation_id)))
    }
}

/// Puts the entries of the legs, each with its position, where they belong among those of the row.
pub(super) fn add_legs(operation: &mut Operation, legs: Vec<(usize, Entry)>) {
    let credit_first = operation
        .command
        .legs()
        .iter()
        .find(|leg| leg.balance.is_some())
        .is_some_and(|leg| leg.side == Side::Credits);
    let Outcome::Posted(entries) = &mut operation.outcome else {
        return;
    };
    if credit_first {
        entries.reverse();
    }
    // In the order of their positions, each finds all before it in place.
    for (position, entry) in legs {
        entries.insert(position.min(entries.len()), entry);
    }
}

/// The operation of a row, without the entries of its legs.
pub(super) fn operation(row: &Row) -> Result<Operation, StoreError> {
    let operation_id: &str = row.get("operation_id");
    read(row).map_err(|what| StoreError::Corrupt(format!("operation {operation_id}: {what}")))
}

fn read(row: &Row) -> Result<Operation, String> {
    let row = OperationRow::read(row).map_err(|error| error.to_string())?;
    let source = RowSide {
        account_id: row.source_account_id,
        category: row.source_category,
        amount: row.source_amount,
        version: row.source_version,
        posted_after: row.source_posted_after,
        held_after: row.source_held_after,
        available_after: row.source_available_after,
        previous_id: row.source_previous_id,
    };
    let destination = RowSide {
        account_id: row.destination_account_id,
        category: row.destination_category,
        amount: row.destination_amount,
        version: row.destination_version,
        posted_after: row.destination_posted_after,
        held_after: row.destination_held_after,
        available_after: row.destination_available_after,
        previous_id: row.destination_previous_id,
    };
    let outcome = match row.refusal_reason {
        Some(reason) => {
            let facts = row::from_json(row.refusal_facts.as_deref())
                .map_err(|_unreadable| "refusal_facts")?;
            Outcome::Refused(Refusal::from_facts(reason, &facts).ok_or("refusal")?)
        }
        None => {
            let mut entries = SmallVec::new();
            entries.extend(source.entry(row.amount.and_then(i64::checked_neg))?);
            entries.extend(destination.entry(row.amount)?);
            Outcome::Posted(entries)
        }
    };
    let intent = read_intent(&row, &source, &destination)?;
    let command = Command {
        operation_id: OperationId::from_stored(row.operation_id),
        intent,
        currency: row::currency_of(row.currency_code)
            .map_err(|_unknown| format!("currency_code {:?}", row.currency_code))?,
        note: Note {
            description: row.description.unwrap_or_default().to_owned(),
            metadata: row::from_json(row.metadata.as_deref()).map_err(|_unreadable| "metadata")?,
        },
    };
    if let (Outcome::Posted(entries), Some(movement)) = (&outcome, command.as_movement()) {
        let sides = usize::from(movement.source().is_some())
            + usize::from(movement.destination().is_some());
        if entries.len() != sides {
            return Err("an entry is missing".to_owned());
        }
    }
    Ok(Operation {
        command: Arc::new(command),
        outcome,
        create_time: row.create_time.0,
    })
}

fn read_amount(row: &OperationRow<'_>) -> Result<Amount, &'static str> {
    let amount = row.amount.ok_or("no amount")?;
    Amount::new(amount).map_err(|_invalid| "amount")
}

/// What was asked for.
fn read_intent(
    row: &OperationRow<'_>,
    source: &RowSide<'_>,
    destination: &RowSide<'_>,
) -> Result<Intent, String> {
    const KIND: &str = "kind and sides";
    let mut kinds = Kind::ALL.into_iter();
    let kind = kinds.find(|kind| kind.as_str() == row.kind);
    let payer = || {
        let account_id = AccountId::from_stored(source.account_id?);
        let categories = match row.source_categories.as_deref() {
            Some(joined) => joined.split(',').map(Category::from_stored).collect(),
            None => vec![Category::main()],
        };
        Some(Source {
            account_id,
            categories,
        })
    };
    if kind == Some(Kind::Merge) {
        let account_id = |side: &RowSide<'_>| side.account_id.map(AccountId::from_stored);
        let accounts = account_id(source).zip(account_id(destination));
        let (source, destination) = accounts.ok_or(KIND)?;
        return Ok(Intent::Merge {
            source,
            destination,
        });
    }
    if kind == Some(Kind::Reversal) {
        let original_id = row
            .reversed_operation_id
            .ok_or("no reversed_operation_id")?;
        let back = match row.intent.as_deref() {
            Some(json) => intent::post_from_json(json).ok_or("intent")?,
            None => Intent::Move {
                amount: read_amount(row)?,
                conditions: Conditions::default(),
                movement: match (payer(), destination.balance()) {
                    (Some(source), None) => Movement::Debit { source },
                    (None, Some(destination)) => Movement::Credit { destination },
                    (Some(source), Some(destination)) => Movement::Transfer {
                        source,
                        destination,
                        owner_id: None,
                    },
                    (None, None) => return Err(KIND.to_owned()),
                },
            },
        };
        return Ok(Intent::Reverse {
            original_id: OperationId::from_stored(original_id),
            back: Box::new(back),
        });
    }
    if kind == Some(Kind::Post) {
        let json = row.intent.as_deref().ok_or("no intent")?;
        return Ok(intent::post_from_json(json).ok_or("intent")?);
    }
    if let Some(change) = read_change(kind, row)? {
        let account_id = source.account_id.map(AccountId::from_stored).ok_or(KIND)?;
        return Ok(Intent::Change { account_id, change });
    }
    let amount = read_amount(row)?;
    let movement = match (kind, payer(), destination.balance()) {
        (Some(Kind::Debit), Some(source), None) => Movement::Debit { source },
        (Some(Kind::Credit), None, Some(destination)) => Movement::Credit { destination },
        (Some(Kind::Transfer), Some(source), Some(destination)) => Movement::Transfer {
            source,
            destination,
            owner_id: row.destination_owner_id.map(OwnerId::from_stored),
        },
        _ => return Err(KIND.to_owned()),
    };
    let conditions = match row.intent.as_deref() {
        None => Conditions::default(),
        Some(json) => intent::conditions_from_json(json).ok_or("intent")?,
    };
    if movement.source().is_none() && conditions.min_available_after.is_some() {
        return Err("intent".to_owned());
    }
    Ok(Intent::Move {
        movement,
        amount,
        conditions,
    })
}

/// The change of an account that was asked for; `None`: it is of another kind.
fn read_change(
    kind: Option<Kind>,
    row: &OperationRow<'_>,
) -> Result<Option<RequestedChange>, String> {
    let sides = || {
        let json = row.intent.as_deref().ok_or("no intent")?;
        intent::sides_from_json(json).ok_or("intent")
    };
    Ok(match kind {
        Some(Kind::Freeze) => Some(RequestedChange::Freeze(sides()?)),
        Some(Kind::Unfreeze) => Some(RequestedChange::Unfreeze(sides()?)),
        Some(Kind::Close) => Some(RequestedChange::Close),
        Some(Kind::Reopen) => Some(RequestedChange::Reopen),
        Some(Kind::Update) => {
            let json = row.intent.as_deref().ok_or("no intent")?;
            Some(intent::update_from_json(json).ok_or("intent")?)
        }
        _ => None,
    })
}
