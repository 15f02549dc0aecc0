//! A posting: what a decided command changes. Each rule is a pure function from the book to a posting; one function applies
//! it, and one journal can undo it.

use smallvec::SmallVec;

use super::book::AccountFlags;
use super::command::BalanceKey;
use super::id::AccountId;
use super::time::Timestamp;

/// All that one operation changes. All of it happens or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Posting {
    /// The time of the operation: after all that happened to these accounts.
    pub(super) time: Timestamp,
    /// The changes of balances, in the order in which they are applied.
    pub(super) legs: SmallVec<[Leg; 2]>,
    /// What else changes.
    pub(super) accounts: Vec<AccountChange>,
}

/// A change of one balance, in minor units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leg {
    /// The balance.
    pub(super) balance: BalanceKey,
    /// What is added to posted.
    pub(super) posted: i64,
    /// What is added to held.
    pub(super) held: i64,
}

impl Leg {
    /// A leg that moves money, and holds none.
    pub(super) fn posted(balance: BalanceKey, posted: i64) -> Self {
        Self {
            balance,
            posted,
            held: 0,
        }
    }
}

/// A change of an account that is not one of a balance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AccountChange {
    /// What it refuses from now on.
    Refuse(AccountId, AccountFlags),
    /// All that it had went to another one, and it is closed for good.
    MergeInto {
        /// The account.
        from: AccountId,
        /// The other one.
        to: AccountId,
    },
    /// The limits of one of its balances from now on. A leg of zero on the same balance says when.
    Limit {
        /// The balance.
        balance: BalanceKey,
        /// How far `posted - held` may go below zero.
        overdraft_limit: i64,
        /// The most that credits may raise `posted` to.
        balance_limit: Option<i64>,
    },
    /// It was changed at the time of the posting.
    Touch(AccountId),
    /// If the one received for its owner, the other does from now on.
    PassSettlement {
        /// The account that did.
        from: AccountId,
        /// The account that does.
        to: AccountId,
    },
}
