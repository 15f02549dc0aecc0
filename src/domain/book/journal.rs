//! The journal of a group: what was there before each change, so that all of them can be taken back.

use super::balances::Pocket;
use super::{AccountFlags, Book, Reversals, Role};
use crate::domain::command::BalanceKey;
use crate::domain::id::{AccountId, OperationId};

/// What one change is taken back to.
#[derive(Debug)]
pub(super) enum Undo {
    /// This balance; `None`: it was not there.
    Balance(BalanceKey, Option<Pocket>),
    /// What this account refused.
    Flags(AccountId, AccountFlags),
    /// The role of this account.
    Role(AccountId, Role),
    /// The reversals of this operation.
    Reversals(OperationId, Reversals),
}

/// The changes of a group so far, the oldest first.
#[derive(Debug)]
pub(super) struct Journal {
    changes: Vec<Undo>,
    /// How many operations were decided before the group.
    decided_count: usize,
    /// How many accounts had other flags before the group.
    flagged_count: usize,
}

impl Journal {
    fn new(book: &Book) -> Self {
        Self {
            changes: Vec::new(),
            decided_count: book.decided.len(),
            flagged_count: book.flagged.len(),
        }
    }

    pub(super) fn note(&mut self, undo: Undo) {
        self.changes.push(undo);
    }
}

impl Book {
    /// From now on all changes can be taken back.
    pub(super) fn begin_group(&mut self) {
        self.journal = Some(Journal::new(self));
    }

    /// Takes back all that the group changed, the newest first. The book is as it was before the group.
    pub(super) fn undo(&mut self) {
        let Some(Journal {
            changes,
            decided_count,
            flagged_count,
        }) = self.journal.take()
        else {
            return;
        };
        for undo in changes.into_iter().rev() {
            match undo {
                Undo::Balance(key, before) => {
                    let Some(account) = self.accounts.get_mut(&key.account_id) else {
                        continue;
                    };
                    match before {
                        Some(before) => *account.balances.pocket(&key.category) = before,
                        None => account.balances.remove(&key.category),
                    }
                }
                Undo::Flags(account_id, before) => {
                    if let Some(account) = self.accounts.get_mut(&account_id) {
                        account.flags = before;
                    }
                }
                Undo::Role(account_id, before) => {
                    self.roles.insert(account_id, before);
                }
                Undo::Reversals(original_id, before) => {
                    self.reversals.insert(original_id, before);
                }
            }
        }
        self.flagged.truncate(flagged_count);
        for operation in self.decided.drain(decided_count..) {
            self.known.remove(&operation.command.operation_id);
        }
    }
}
