//! Calls: the requests of a scenario, one after the other.

use rand::RngExt;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Zipf};
use tonic::transport::Channel;

use crate::bench::error::BenchError;
use crate::bench::operation_ids::OperationIds;
use crate::bench::scenario::{LockedPayers, Scenario};
use crate::harness::{Accounts, eur};
use crate::rpc::proto::balance_service_client::BalanceServiceClient;
use crate::rpc::proto::operation_request::Request;
use crate::rpc::proto::transfer_request::Destination;
use crate::rpc::proto::{
    CreditRequest, DebitRequest, GetBalanceRequest, OperationRequest, TransferRequest,
};

/// The account whose row is held in [`Scenario::Locked`].
pub(in crate::bench) const LOCKED_ACCOUNT: u64 = 0;

/// Where calls are sent.
pub(in crate::bench) type Client = BalanceServiceClient<Channel>;

/// One request.
pub(super) enum Call {
    Operation(OperationRequest),
    GetBalance(GetBalanceRequest),
}

/// What is to be known of a request when its answer comes.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::bench) struct Facts {
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
                let zipf = Zipf::new(accounts.count() as f64, exponent);
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
                let from = self.random.random_range(1..self.accounts.count());
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
            (to + 1) % self.accounts.count()
        } else {
            to
        };
        self.transfer_of(from, to)
    }

    fn payer(&mut self, locked: LockedPayers) -> u64 {
        // The merchant pays nobody.
        let payer_count = self.accounts.count() - 1;
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
            amount: eur(1),
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
            amount: eur(1),
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
            amount: eur(1),
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
            Some(zipf) => (zipf.sample(&mut self.random) as u64 - 1).min(self.accounts.count() - 1),
            None => self.random.random_range(0..self.accounts.count()),
        }
    }

    fn operation_id(&mut self) -> String {
        self.operation_ids.next(&mut self.random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::scenario::Merchant;

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
        let accounts = |count| Accounts::new("a", count);
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
}
