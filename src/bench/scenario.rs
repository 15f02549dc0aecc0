//! Scenarios: which accounts the requests are about, and what they ask for.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rand::RngExt;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Zipf};
use serde::Serialize;

use super::BenchError;
use crate::rpc::proto::operation_request::Request;
use crate::rpc::proto::transfer_request::Destination;
use crate::rpc::proto::{
    CreditRequest, DebitRequest, GetBalanceRequest, Money, OperationRequest, TransferRequest,
};

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
    fn merchant(self, accounts: &Accounts) -> u64 {
        match self.merchant {
            // No other number begins with a 0.
            Merchant::First => 0,
            Merchant::Last => accounts.last_by_id(),
        }
    }

    /// The n-th account that pays. The first [`Self::count`] of them are locked.
    fn payer(self, accounts: &Accounts, index: u64) -> u64 {
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

/// The account whose row is held in [`Scenario::Locked`].
pub(super) const LOCKED_ACCOUNT: u64 = 0;

/// The accounts of a ledger: `PREFIX0`, `PREFIX1` and so on.
#[derive(Debug, Clone)]
pub(super) struct Accounts {
    pub(super) prefix: Arc<str>,
    pub(super) count: u64,
}

impl Accounts {
    /// The id of the n-th account.
    pub(super) fn id(&self, index: u64) -> String {
        format!("{}{index}", self.prefix)
    }

    /// The account whose id is the last one, compared byte by byte: 9 of a dozen, 99 of two hundred.
    fn last_by_id(&self) -> u64 {
        let last = self.count.saturating_sub(1);
        let nines =
            std::iter::successors(Some(9_u64), |nines| nines.checked_mul(10)?.checked_add(9));
        let candidates = nines.take_while(|nines| *nines < last).chain([last]);
        candidates
            .max_by_key(|index| self.id(*index))
            .unwrap_or(last)
    }
}

/// One request.
pub(super) enum Call {
    Operation(OperationRequest),
    GetBalance(GetBalanceRequest),
}

/// What is to be known of a request when its answer comes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Facts {
    /// How much money it brings into the ledger.
    pub(super) net_minor_units: i64,
    /// It is about an account that somebody locks; its figures are kept apart.
    pub(super) is_apart: bool,
}

/// Makes the requests of one scenario.
pub(super) struct Calls {
    scenario: Scenario,
    accounts: Accounts,
    operation_ids: OperationIds,
    zipf: Option<Zipf<f64>>,
    random: SmallRng,
    payers: Payers,
}

/// Who pays in [`Scenario::LockedPayers`].
#[derive(Debug, Clone, Copy)]
enum Payers {
    /// Any account that is not locked.
    AnyOther,
    /// In turn so many of those that are not locked, from this one on, counted from the last one; `sent` is how many paid.
    Others { first: u64, count: u64, sent: u64 },
    /// This one, which is locked.
    Locked(u64),
}

impl Calls {
    pub(super) fn new(
        scenario: Scenario,
        accounts: Accounts,
        operation_ids: OperationIds,
    ) -> Result<Self, BenchError> {
        let zipf = match scenario {
            Scenario::Zipf(exponent) => {
                let zipf = Zipf::new(accounts.count as f64, exponent);
                Some(zipf.map_err(|_| BenchError::Exponent(exponent))?)
            }
            _ => None,
        };
        Ok(Self {
            scenario,
            accounts,
            operation_ids,
            zipf,
            random: rand::make_rng(),
            payers: Payers::AnyOther,
        })
    }

    /// In [`Scenario::LockedPayers`]: only these pay, in turn, so that none has two calls in flight. They are counted from the
    /// last account on, so they are the same however many are locked, if there are accounts enough.
    pub(super) fn of_others(self, first: usize, count: usize) -> Self {
        let payers = Payers::Others {
            first: first as u64,
            count: count as u64,
            sent: 0,
        };
        Self { payers, ..self }
    }

    /// In [`Scenario::LockedPayers`]: only this locked one pays.
    pub(super) fn of_locked(self, index: u64) -> Self {
        let payers = Payers::Locked(index);
        Self { payers, ..self }
    }

    pub(super) fn next(&mut self) -> (Call, Facts) {
        match self.scenario {
            Scenario::Reads | Scenario::History => self.read(),
            Scenario::Mixed if self.random.random() => self.read(),
            _ => {
                let (operation, facts) = self.operation();
                (Call::Operation(operation), facts)
            }
        }
    }

    /// The next request of a scenario that does not read; of one that does, the next of those that change something.
    pub(super) fn operation(&mut self) -> (OperationRequest, Facts) {
        let (request, facts) = match self.scenario {
            Scenario::Hot => {
                let from = self.random.random_range(1..self.accounts.count);
                self.transfer_of(from, 0)
            }
            Scenario::Mutual => {
                let from = self.random.random_range(0..2);
                self.transfer_of(from, 1 - from)
            }
            Scenario::LockedPayers(locked) => {
                let from = self.payer(locked);
                self.transfer_of(from, locked.merchant(&self.accounts))
            }
            Scenario::Debit => self.debit(),
            Scenario::Mixed => match self.random.random_range(0..10) {
                0..8 => self.transfer(),
                8 => self.credit(),
                _ => self.debit(),
            },
            _ => self.transfer(),
        };
        let request = Some(request);
        (OperationRequest { request }, facts)
    }

    fn transfer(&mut self) -> (Request, Facts) {
        let (from, to) = (self.account(), self.account());
        // The next one instead of the same one.
        let to = if from == to {
            (to + 1) % self.accounts.count
        } else {
            to
        };
        self.transfer_of(from, to)
    }

    fn payer(&mut self, locked: LockedPayers) -> u64 {
        // The merchant pays nobody.
        let payer_count = self.accounts.count - 1;
        let index = match &mut self.payers {
            Payers::Locked(index) => *index,
            Payers::AnyOther => self.random.random_range(locked.count..payer_count),
            Payers::Others { first, count, sent } => {
                let next = *first + *sent % (*count).max(1);
                *sent += 1;
                payer_count - 1 - next % (payer_count - locked.count)
            }
        };
        locked.payer(&self.accounts, index)
    }

    fn transfer_of(&mut self, from: u64, to: u64) -> (Request, Facts) {
        let request = TransferRequest {
            operation_id: self.operation_id(),
            source_account_id: self.accounts.id(from),
            destination: Some(Destination::DestinationAccountId(self.accounts.id(to))),
            amount: one_cent(),
            ..TransferRequest::default()
        };
        let facts = Facts {
            net_minor_units: 0,
            is_apart: match self.scenario {
                Scenario::Locked => [from, to].contains(&LOCKED_ACCOUNT),
                Scenario::LockedPayers(_) => matches!(self.payers, Payers::Locked(_)),
                _ => false,
            },
        };
        (request.into(), facts)
    }

    fn debit(&mut self) -> (Request, Facts) {
        let request = DebitRequest {
            operation_id: self.operation_id(),
            account_id: self.any_id(),
            amount: one_cent(),
            ..DebitRequest::default()
        };
        let facts = Facts {
            net_minor_units: -1,
            is_apart: false,
        };
        (request.into(), facts)
    }

    fn credit(&mut self) -> (Request, Facts) {
        let request = CreditRequest {
            operation_id: self.operation_id(),
            account_id: self.any_id(),
            amount: one_cent(),
            ..CreditRequest::default()
        };
        let facts = Facts {
            net_minor_units: 1,
            is_apart: false,
        };
        (request.into(), facts)
    }

    fn read(&mut self) -> (Call, Facts) {
        let request = GetBalanceRequest {
            account_id: self.any_id(),
            ..GetBalanceRequest::default()
        };
        (Call::GetBalance(request), Facts::default())
    }

    fn any_id(&mut self) -> String {
        let index = self.account();
        self.accounts.id(index)
    }

    fn account(&mut self) -> u64 {
        match &self.zipf {
            Some(zipf) => (zipf.sample(&mut self.random) as u64 - 1).min(self.accounts.count - 1),
            None => self.random.random_range(0..self.accounts.count),
        }
    }

    fn operation_id(&mut self) -> String {
        self.operation_ids.next(&mut self.random)
    }
}

/// What operation ids look like: 36 characters, hexadecimal digits in the groups of a UUID.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OperationIds {
    /// Random, as UUIDs of version 4: what most callers send, and the hardest for an index, which is written everywhere.
    #[default]
    Random,
    /// They begin with the time in milliseconds, as UUIDs of version 7: an index is written at its end.
    TimeOrdered,
}

impl OperationIds {
    /// How the report calls them.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::TimeOrdered => "time-ordered",
        }
    }

    /// An id that nobody had before.
    pub(super) fn next(self, random: &mut impl RngExt) -> String {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = since_epoch.map_or(0, |passed| passed.as_millis());
        self.made_of(millis, random.random())
    }

    fn made_of(self, millis: u128, number: u128) -> String {
        match self {
            Self::Random => hyphenated(number),
            // Six bytes, which last for eight thousand years.
            Self::TimeOrdered => hyphenated((millis << 80) | (number >> 48)),
        }
    }
}

fn hyphenated(number: u128) -> String {
    let hex = format!("{number:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

fn one_cent() -> Option<Money> {
    Some(Money {
        currency_code: "EUR".to_owned(),
        minor_units: 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who pays whom in so many calls.
    fn paid(mut calls: Calls, count: usize) -> Vec<(String, String)> {
        let pair = |(operation, _): (OperationRequest, Facts)| match operation.request {
            Some(Request::Transfer(transfer)) => match transfer.destination {
                Some(Destination::DestinationAccountId(to)) => (transfer.source_account_id, to),
                _ => panic!("it pays an account"),
            },
            _ => panic!("it transfers"),
        };
        (0..count).map(|_| pair(calls.operation())).collect()
    }

    #[test]
    fn everybody_pays_a_merchant_that_sorts_first_or_last_and_nobody_who_is_not_locked_pays_for_who_is()
     {
        let accounts = |count| Accounts {
            prefix: "a-".into(),
            count,
        };
        for account_count in [4, 9, 10, 11, 100, 5_000, 10_000] {
            for merchant in [Merchant::First, Merchant::Last] {
                let locked = LockedPayers { count: 2, merchant };
                let calls = || {
                    let scenario = Scenario::LockedPayers(locked);
                    Calls::new(scenario, accounts(account_count), OperationIds::Random)
                        .expect("calls")
                };
                let locked_ids = locked.locked_ids(&accounts(account_count));
                let others = [calls(), calls().of_others(1, 3)].map(|calls| paid(calls, 50));
                for (payer, paid) in others.iter().flatten() {
                    assert!(!locked_ids.contains(payer), "{payer}");
                    let all: Vec<String> = (0..account_count)
                        .map(|n| accounts(account_count).id(n))
                        .collect();
                    let expected = match merchant {
                        Merchant::First => all.iter().min(),
                        Merchant::Last => all.iter().max(),
                    };
                    assert_eq!(Some(paid), expected);
                    assert_ne!(payer, paid);
                }
                for (index, id) in locked_ids.iter().enumerate() {
                    let payments = paid(calls().of_locked(index as u64), 2);
                    assert!(
                        payments.iter().all(|(payer, _)| payer == id),
                        "{payments:?}"
                    );
                }
            }
        }
        // Three callers' payers take turns, and are no others' payers.
        let scenario = |count| {
            Scenario::LockedPayers(LockedPayers {
                count,
                merchant: Merchant::First,
            })
        };
        let payers = |count, first| -> Vec<String> {
            let calls =
                Calls::new(scenario(count), accounts(10), OperationIds::Random).expect("calls");
            let payments = paid(calls.of_others(first, 2), 3);
            payments.into_iter().map(|(payer, _)| payer).collect()
        };
        assert_eq!(payers(0, 0), ["a-9", "a-8", "a-9"]);
        assert_eq!(payers(4, 2), ["a-7", "a-6", "a-7"]);
    }

    #[test]
    fn ids_have_the_shape_of_a_uuid_and_may_begin_with_the_time() {
        let number = 0xffee_ddcc_bbaa_9988_7766_5544_3322_1100;
        assert_eq!(
            OperationIds::Random.made_of(1, number),
            "ffeeddcc-bbaa-9988-7766-554433221100"
        );
        let id_at = |millis| OperationIds::TimeOrdered.made_of(millis, number);
        assert_eq!(id_at(0x1_2345), "00000001-2345-ffee-ddcc-bbaa99887766");
        assert!(id_at(1_800_000_000_000) < id_at(1_800_000_000_001));
    }
}
