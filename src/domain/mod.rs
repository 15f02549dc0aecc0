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
pub mod refusal;
pub mod time;

pub use book::{Account, Balance, BalanceChange, Balances, Book, Closures, Role};
pub use claim::Claim;
pub use command::{BalanceKey, Command, Movement, Note, SameBalance, Source};
pub use id::{AccountId, Category, IdError, OperationId, OwnerId};
pub use map::{Map, Set};
pub use money::{Amount, AmountError, Currency, CurrencyError};
pub use operation::{Entry, Operation, Outcome, Receipt};
pub use refusal::Refusal;
pub use time::Timestamp;
