//! Scenarios: which accounts the requests are about, and what they ask for.

use std::fmt;

use serde::Serialize;

use crate::harness::Accounts;

/// What the requests are about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scenario {
    /// Transfers between any two accounts.
    Uniform,
    /// Transfers between accounts of which few are busy: the n-th is asked for in proportion to n^-exponent.
    Zipf(f64),
    /// Transfers from any account to one and the same.
    Hot,
    /// Transfers between two accounts, in both directions.
    Mutual,
    /// Debits of any account.
    Debit,
    /// GetBalance of any account.
    Reads,
    /// Half reads, and of the rest eight transfers, one credit and one debit out of ten.
    Mixed,
    /// Transfers between any two accounts, while somebody holds the row of one of them during the second half.
    Locked,
    /// Transfers from many payers to one merchant, while somebody holds the rows of some of the payers, who go on paying.
    LockedPayers(LockedPayers),
    /// Reads of one account that has a long history, one in flight: its balance, now and at a time, and its pages.
    History,
}

/// How many payers are locked, and where the merchant's id is in the order in which rows are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LockedPayers {
    /// How many payers' rows another session holds.
    pub count: u64,
    /// Where the merchant's id sorts.
    pub merchant: Merchant,
}

/// Where the id of the account that everybody pays sorts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Merchant {
    /// Before the ids of all payers.
    First,
    /// After the ids of all payers.
    Last,
}

impl fmt::Display for Merchant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "merchant first",
            Self::Last => "merchant last",
        })
    }
}

impl LockedPayers {
    /// The fewest accounts that a ledger needs: those that are locked, the merchant, and one that pays beside them.
    pub(super) fn account_count_min(self) -> u64 {
        self.count + 2
    }

    /// The account that everybody pays.
    pub(super) fn merchant(self, accounts: &Accounts) -> u64 {
        match self.merchant {
            // No other number begins with a 0.
            Merchant::First => 0,
            Merchant::Last => last_by_id(accounts),
        }
    }

    /// The n-th account that pays. The first [`Self::count`] of them are locked.
    pub(super) fn payer(self, accounts: &Accounts, index: u64) -> u64 {
        index + u64::from(index >= self.merchant(accounts))
    }

    /// The ids of the accounts that are locked.
    pub(super) fn locked_ids(self, accounts: &Accounts) -> Vec<String> {
        let locked = 0..self.count;
        locked
            .map(|index| accounts.id(self.payer(accounts, index)))
            .collect()
    }
}

/// The account whose id is the last one, compared byte by byte: 9 of a dozen, 99 of two hundred.
fn last_by_id(accounts: &Accounts) -> u64 {
    let last = accounts.count().saturating_sub(1);
    let nines = std::iter::successors(Some(9_u64), |nines| nines.checked_mul(10)?.checked_add(9));
    let candidates = nines.take_while(|nines| *nines < last).chain([last]);
    candidates
        .max_by_key(|index| accounts.id(*index))
        .unwrap_or(last)
}

/// The names of all scenarios, for messages.
const NAMES: &str = "uniform, zipf[:EXPONENT], hot, mutual, debit, reads, mixed, locked, history";

impl Scenario {
    /// The scenario of this name, such as `hot` or `zipf:1.2`.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match (text, text.strip_prefix("zipf:")) {
            ("uniform", _) => Self::Uniform,
            ("zipf", _) => Self::Zipf(1.0),
            (_, Some(exponent)) => {
                let number: Option<f64> = exponent.parse().ok();
                let positive = number.filter(|number| number.is_finite() && *number > 0.0);
                Self::Zipf(positive.ok_or_else(|| format!("{exponent} is not a positive number"))?)
            }
            ("hot", _) => Self::Hot,
            ("mutual", _) => Self::Mutual,
            ("debit", _) => Self::Debit,
            ("reads", _) => Self::Reads,
            ("mixed", _) => Self::Mixed,
            ("locked", _) => Self::Locked,
            ("history", _) => Self::History,
            _ => return Err(format!("must be one of {NAMES}")),
        })
    }

    /// Whether every request of it is a transfer: what the baselines can do.
    pub fn only_transfers(self) -> bool {
        matches!(
            self,
            Self::Uniform
                | Self::Zipf(_)
                | Self::Hot
                | Self::Mutual
                | Self::Locked
                | Self::LockedPayers(_)
        )
    }

    /// Whether somebody holds rows locked while it runs.
    pub(super) fn locks(self) -> bool {
        matches!(self, Self::Locked | Self::LockedPayers(_))
    }

    /// How many operations are in flight in a closed loop if nothing else is asked for.
    pub(super) fn concurrency_default(self) -> usize {
        match self {
            Self::LockedPayers(_) => 24,
            _ => 256,
        }
    }

    /// Whether it reads: reads are no operations, so batches and streams do not carry them.
    pub fn reads(self) -> bool {
        matches!(self, Self::Reads | Self::Mixed | Self::History)
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf(exponent) => write!(f, "zipf:{exponent}"),
            Self::Hot => f.write_str("hot"),
            Self::Mutual => f.write_str("mutual"),
            Self::Debit => f.write_str("debit"),
            Self::Reads => f.write_str("reads"),
            Self::Mixed => f.write_str("mixed"),
            Self::Locked => f.write_str("locked"),
            Self::LockedPayers(LockedPayers { count, merchant }) => {
                write!(f, "{count} locked payers, {merchant}")
            }
            Self::History => f.write_str("history"),
        }
    }
}
