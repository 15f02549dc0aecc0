//! An operation: a command and its final outcome, as the ledger records it.

use std::sync::Arc;

use smallvec::SmallVec;

use super::command::{BalanceKey, Command};
use super::id::OperationId;
use super::refusal::Refusal;
use super::time::Timestamp;

/// One signed change of one balance. Amounts in minor units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The balance that changed.
    pub balance: BalanceKey,
    /// Counts the entries of the balance: 1, 2, 3 ... without gaps.
    pub version: i64,
    /// The change: positive raises the balance.
    pub amount: i64,
    /// Posted after the change.
    pub posted_after: i64,
    /// Held after the change.
    pub held_after: i64,
    /// Available after the change, overdraft included.
    pub available_after: i64,
    /// The operation that made the entry before this one on the same balance; `None`: this is the first.
    pub previous_operation_id: Option<OperationId>,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It happened: one entry for each leg, in the order in which they were applied; of a movement and of each part of a
    /// merge the debit first. An operation without legs has none.
    Posted(SmallVec<[Entry; 2]>),
    /// It did not happen and never will.
    Refused(Refusal),
}

/// A command and its outcome. Immutable once recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What was asked for.
    pub command: Arc<Command>,
    /// How it ended.
    pub outcome: Outcome,
    /// When it was decided; strictly increasing within each balance that it changed.
    pub create_time: Timestamp,
}

impl Operation {
    /// Its entries, see [`Outcome::Posted`]; none if it was refused.
    pub fn entries(&self) -> &[Entry] {
        match &self.outcome {
            Outcome::Posted(entries) => entries,
            Outcome::Refused(_) => &[],
        }
    }
}

impl Entry {
    /// Whether it stands on the side that receives.
    pub fn is_credit(&self) -> bool {
        self.amount > 0
    }
}

/// The answer to a command whose money moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The posted operation.
    pub operation: Arc<Operation>,
    /// It was posted for an earlier command of the same id and content.
    pub replayed: bool,
}
