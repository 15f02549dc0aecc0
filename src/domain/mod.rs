//! The rules of the ledger: pure, synchronous, timeless. Uses the standard library only, and a faster hash; storage,
//! clocks and the wire are other rooms' business.

pub mod book;
pub mod card;
pub mod claim;
pub mod command;
pub mod id;
pub mod map;
pub mod money;
pub mod operation;
mod posting;
pub mod refusal;
pub mod reversal;
pub mod time;

pub use book::{
    Account, AccountChanges, AccountFlags, Balance, BalanceChange, Balances, Book, Changes,
    MemberRefused, Reversals, Role,
};
pub use claim::Claim;
pub use command::{
    AccountNeed, BalanceKey, BalancesNeed, Command, Conditions, Intent, Kind, LimitChange,
    Movement, Needs, Note, RequestedChange, RequestedLeg, SameBalance, Side, Sides, Source,
    Unbalanced,
};
pub use id::{AccountId, Category, IdError, OperationId, OwnerId};
pub use map::{Map, Set};
pub use money::{Amount, AmountError, Currency, CurrencyError};
pub use operation::{Entry, Operation, Outcome, Receipt};
pub use refusal::Refusal;
pub use reversal::{NotReversible, NotReversibleCause};
pub use time::Timestamp;
