//! Scenarios: which accounts the requests are about, and what they ask for.

use std::fmt;

use rand::RngExt;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Zipf};

use super::BenchError;
use crate::rpc::proto::transfer_request::Destination;
use crate::rpc::proto::{CreditRequest, DebitRequest, GetBalanceRequest, Money, TransferRequest};

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
}

impl Scenario {
    /// The scenario of this name, such as `hot` or `zipf:1.2`.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text.split_once(':').unwrap_or((text, "1.0")) {
            ("uniform", _) => Self::Uniform,
            ("zipf", exponent) => {
                let exponent = exponent
                    .parse()
                    .map_err(|_| format!("{exponent} is not a number"))?;
                Self::Zipf(exponent)
            }
            ("hot", _) => Self::Hot,
            ("mutual", _) => Self::Mutual,
            ("debit", _) => Self::Debit,
            ("reads", _) => Self::Reads,
            ("mixed", _) => Self::Mixed,
            _ => {
                return Err(
                    "one of uniform, zipf[:EXPONENT], hot, mutual, debit, reads, mixed".to_owned(),
                );
            }
        })
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
        }
    }
}

/// One request.
pub(super) enum Call {
    Transfer(TransferRequest),
    Debit(DebitRequest),
    Credit(CreditRequest),
    GetBalance(GetBalanceRequest),
}

/// Makes the requests of one scenario.
pub(super) struct Calls {
    scenario: Scenario,
    account_count: u64,
    zipf: Option<Zipf<f64>>,
    random: SmallRng,
}

impl Calls {
    pub(super) fn new(scenario: Scenario, account_count: u64) -> Result<Self, BenchError> {
        let zipf = match scenario {
            Scenario::Zipf(exponent) => {
                let zipf = Zipf::new(account_count as f64, exponent);
                Some(zipf.map_err(|_| BenchError::Exponent(exponent))?)
            }
            _ => None,
        };
        Ok(Self {
            scenario,
            account_count,
            zipf,
            random: rand::make_rng(),
        })
    }

    pub(super) fn next(&mut self) -> Call {
        match self.scenario {
            Scenario::Uniform | Scenario::Zipf(_) => self.transfer(),
            Scenario::Hot => Call::Transfer(self.transfer_between(1, 0)),
            Scenario::Mutual => {
                let from = self.random.random_range(0..2);
                Call::Transfer(self.transfer_of(from, 1 - from))
            }
            Scenario::Debit => self.debit(),
            Scenario::Reads => self.read(),
            Scenario::Mixed => match self.random.random_range(0..20) {
                0..10 => self.read(),
                10..18 => self.transfer(),
                18 => self.credit(),
                _ => self.debit(),
            },
        }
    }

    fn transfer(&mut self) -> Call {
        let (from, to) = (self.account(), self.account());
        // The next one instead of the same one.
        let to = if from == to {
            (to + 1) % self.account_count
        } else {
            to
        };
        Call::Transfer(self.transfer_of(from, to))
    }

    /// From any account at or above `from_min`.
    fn transfer_between(&mut self, from_min: u64, to: u64) -> TransferRequest {
        let from = self.random.random_range(from_min..self.account_count);
        self.transfer_of(from, to)
    }

    fn transfer_of(&mut self, from: u64, to: u64) -> TransferRequest {
        TransferRequest {
            operation_id: self.operation_id(),
            source_account_id: account_id(from),
            destination: Some(Destination::DestinationAccountId(account_id(to))),
            amount: one_cent(),
            ..TransferRequest::default()
        }
    }

    fn debit(&mut self) -> Call {
        let account_id = account_id(self.account());
        let operation_id = self.operation_id();
        Call::Debit(DebitRequest {
            operation_id,
            account_id,
            amount: one_cent(),
            ..DebitRequest::default()
        })
    }

    fn credit(&mut self) -> Call {
        let account_id = account_id(self.account());
        let operation_id = self.operation_id();
        Call::Credit(CreditRequest {
            operation_id,
            account_id,
            amount: one_cent(),
            ..CreditRequest::default()
        })
    }

    fn read(&mut self) -> Call {
        Call::GetBalance(GetBalanceRequest {
            account_id: account_id(self.account()),
            ..GetBalanceRequest::default()
        })
    }

    fn account(&mut self) -> u64 {
        match &self.zipf {
            Some(zipf) => (zipf.sample(&mut self.random) as u64 - 1).min(self.account_count - 1),
            None => self.random.random_range(0..self.account_count),
        }
    }

    /// Random and 36 characters long, as a UUID of version 4: what most callers send, and the hardest for an index.
    fn operation_id(&mut self) -> String {
        let random: u128 = self.random.random();
        let hex = format!("{random:032x}");
        format!(
            "{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        )
    }
}

/// The id of the n-th account, as the ledger is preloaded with it.
fn account_id(index: u64) -> String {
    format!("account-{index}")
}

fn one_cent() -> Option<Money> {
    Some(Money {
        currency_code: "EUR".to_owned(),
        minor_units: 1,
    })
}
