//! A target: a server that runs somewhere, of which nothing is known but its address. Its accounts are made through
//! gRPC, under a prefix of this run, and the money in them is counted through gRPC afterwards.

use std::sync::Arc;

use indicatif::ProgressBar;
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use super::BenchError;
use super::measured::Measured;
use super::preload::OPENING_MINOR_UNITS;
use super::scenario::{Accounts, OperationIds};
use crate::rpc::proto::account_service_client::AccountServiceClient;
use crate::rpc::proto::balance_service_client::BalanceServiceClient;
use crate::rpc::proto::{BatchGetAccountsRequest, CreateAccountRequest, CreditRequest, Money};

/// How many accounts are made at a time.
const MAKER_COUNT: u64 = 64;
/// How many accounts are read in one call.
const PAGE_SIZE: u64 = 1000;

/// A server that runs somewhere.
pub(super) struct Target {
    endpoint: Endpoint,
    channel: Channel,
    accounts: Accounts,
    net_minor_units: i64,
    uncertain_count: u64,
}

impl Target {
    /// Connects and makes the accounts.
    pub(super) async fn prepare(
        address: &str,
        account_count: u64,
        bar: &ProgressBar,
    ) -> Result<Self, BenchError> {
        let failed = |cause: String| BenchError::Server {
            name: address.to_owned(),
            cause,
        };
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| failed("write it as HOST:PORT, such as 127.0.0.1:50051".to_owned()))?;
        let connected = endpoint.connect().await;
        let channel = connected.map_err(|error| failed(crate::store::with_source(&error)))?;
        let mut random: SmallRng = rand::make_rng();
        let run: u32 = random.random();
        let accounts = Accounts {
            prefix: format!("bench-{run:08x}-").into(),
            count: account_count,
        };
        let mut makers = JoinSet::new();
        for maker in 0..MAKER_COUNT.min(account_count) {
            let (channel, accounts, bar) = (channel.clone(), accounts.clone(), bar.clone());
            makers.spawn(async move {
                let indexes = (maker..accounts.count).step_by(MAKER_COUNT as usize);
                for index in indexes {
                    make(&channel, &accounts.id(index)).await?;
                    bar.inc(1);
                }
                Ok::<(), tonic::Status>(())
            });
        }
        while let Some(made) = makers.join_next().await {
            let made = made.map_err(|panic| failed(panic.to_string()))?;
            made.map_err(|status| {
                failed(format!(
                    "it made no account: {:?}, {}",
                    status.code(),
                    status.message()
                ))
            })?;
        }
        Ok(Self {
            endpoint,
            channel,
            accounts,
            net_minor_units: 0,
            uncertain_count: 0,
        })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Books what a turn moved across the edge of these accounts.
    pub(super) fn book(&mut self, measured: &Measured) {
        self.net_minor_units += measured.net_minor_units;
        self.uncertain_count += measured.uncertain_count;
    }

    /// Counts the money: what was there at first, and what came in since, not a cent more or less.
    pub(super) async fn verify(&self, name: &str) -> Result<(), BenchError> {
        let mut client = AccountServiceClient::new(self.channel.clone());
        let mut found: i128 = 0;
        let mut from = 0;
        while from < self.accounts.count {
            let to = self.accounts.count.min(from + PAGE_SIZE);
            let account_ids: Arc<[String]> =
                (from..to).map(|index| self.accounts.id(index)).collect();
            let request = BatchGetAccountsRequest {
                account_ids: account_ids.to_vec(),
            };
            let answered = client.batch_get_accounts(request).await;
            let accounts = answered
                .map_err(|status| BenchError::Server {
                    name: name.to_owned(),
                    cause: format!("{:?}, {}", status.code(), status.message()),
                })?
                .into_inner()
                .accounts;
            if accounts.len() as u64 != to - from {
                return Err(self.finding(name, "accounts are missing".to_owned()));
            }
            let balances = accounts.iter().flat_map(|account| &account.balances);
            found += balances
                .map(|balance| i128::from(balance.posted_minor_units))
                .sum::<i128>();
            from = to;
        }
        let opened = i128::from(OPENING_MINOR_UNITS) * i128::from(self.accounts.count);
        let expected = opened + i128::from(self.net_minor_units);
        // Debits and credits that failed may have happened.
        match found.abs_diff(expected) <= u128::from(self.uncertain_count) {
            true => Ok(()),
            false => Err(self.finding(
                name,
                format!("its accounts hold {found} minor units, {expected} were brought in"),
            )),
        }
    }

    fn finding(&self, name: &str, finding: String) -> BenchError {
        BenchError::NotInOrder {
            name: name.to_owned(),
            finding,
        }
    }
}

/// Opens one account with money.
async fn make(channel: &Channel, account_id: &str) -> Result<(), tonic::Status> {
    let request = CreateAccountRequest {
        account_id: account_id.to_owned(),
        owner_id: account_id.to_owned(),
        currency_code: "EUR".to_owned(),
        ..CreateAccountRequest::default()
    };
    AccountServiceClient::new(channel.clone())
        .create_account(request)
        .await?;
    let request = CreditRequest {
        operation_id: OperationIds::Random.next(&mut rand::make_rng::<SmallRng>()),
        account_id: account_id.to_owned(),
        amount: Some(Money {
            currency_code: "EUR".to_owned(),
            minor_units: OPENING_MINOR_UNITS,
        }),
        ..CreditRequest::default()
    };
    BalanceServiceClient::new(channel.clone())
        .credit(request)
        .await
        .map(drop)
}
