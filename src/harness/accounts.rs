//! The accounts of a run: their ids, how they are opened with money through the API, and how they are read back.

use std::future::ready;
use std::ops::Range;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use rand::RngExt;
use tonic::transport::Channel;

use super::client::{CallError, until_known};
use crate::rpc::proto::account_service_client::AccountServiceClient;
use crate::rpc::proto::balance_service_client::BalanceServiceClient;
use crate::rpc::proto::{
    Account, BatchGetAccountsRequest, CreateAccountRequest, CreditRequest, Money,
};

/// The currency of all accounts.
pub(crate) const CURRENCY: &str = "EUR";
/// The most accounts of one BatchGetAccounts.
const READ_AT_ONCE: usize = 1000;
/// How many accounts are opened at the same time.
const OPEN_AT_ONCE: usize = 64;

/// So many minor units.
pub(crate) fn eur(minor_units: i64) -> Option<Money> {
    Some(Money {
        currency_code: CURRENCY.to_owned(),
        minor_units,
    })
}

/// Accounts with one name and a number each: `NAME-0`, `NAME-1` and so on.
#[derive(Debug, Clone)]
pub(crate) struct Accounts {
    name: Arc<str>,
    count: u64,
}

impl Accounts {
    /// So many accounts of this name.
    pub(crate) fn new(name: &str, count: u64) -> Self {
        let name = name.into();
        Self { name, count }
    }

    /// So many accounts that no other run has: their name ends with a random number.
    pub(crate) fn of_new_run(tool: &str, count: u64) -> Self {
        let number: u64 = rand::rng().random();
        Self::new(&format!("{tool}-{number:016x}"), count)
    }

    /// What their ids begin with. Accounts that [`Self::open`] opened have this owner.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The id of the n-th account.
    pub(crate) fn id(&self, index: u64) -> String {
        format!("{}-{index}", self.name)
    }

    /// Opens all of them, each with so many minor units. `opened` is called after each.
    pub(crate) async fn open(
        &self,
        channel: &Channel,
        minor_units: i64,
        opened: impl Fn(),
    ) -> Result<(), CallError> {
        stream::iter(0..self.count)
            .map(|index| self.open_one(channel, index, minor_units))
            .buffer_unordered(OPEN_AT_ONCE)
            .try_for_each(|()| {
                opened();
                ready(Ok(()))
            })
            .await
    }

    async fn open_one(
        &self,
        channel: &Channel,
        index: u64,
        minor_units: i64,
    ) -> Result<(), CallError> {
        let account_id = self.id(index);
        let request = CreateAccountRequest {
            account_id: account_id.clone(),
            owner_id: self.name.to_string(),
            currency_code: CURRENCY.to_owned(),
            ..CreateAccountRequest::default()
        };
        until_known(|| {
            let (mut accounts, request) =
                (AccountServiceClient::new(channel.clone()), request.clone());
            async move { accounts.create_account(request).await }
        })
        .await?;
        let request = CreditRequest {
            operation_id: format!("{account_id}-opening"),
            account_id,
            amount: eur(minor_units),
            ..CreditRequest::default()
        };
        until_known(|| {
            let (mut balances, request) =
                (BalanceServiceClient::new(channel.clone()), request.clone());
            async move { balances.credit(request).await }
        })
        .await
        .map(drop)
    }

    /// Reads all of them, in order, and hands each to `take`.
    pub(crate) async fn read(
        &self,
        channel: &Channel,
        mut take: impl FnMut(Account),
    ) -> Result<(), CallError> {
        let mut from = 0;
        while from < self.count {
            let to = self.count.min(from + READ_AT_ONCE as u64);
            let read = self.read_some(channel, from..to).await?;
            read.into_iter().for_each(&mut take);
            from = to;
        }
        Ok(())
    }

    async fn read_some(
        &self,
        channel: &Channel,
        indexes: Range<u64>,
    ) -> Result<Vec<Account>, CallError> {
        let account_ids: Vec<String> = indexes.map(|index| self.id(index)).collect();
        let request = BatchGetAccountsRequest { account_ids };
        let response = until_known(|| {
            let (mut accounts, request) =
                (AccountServiceClient::new(channel.clone()), request.clone());
            async move { accounts.batch_get_accounts(request).await }
        });
        Ok(response.await?.into_inner().accounts)
    }
}

/// All posted money of an account, in minor units.
pub(crate) fn posted(account: &Account) -> i128 {
    let balances = account.balances.iter();
    balances
        .map(|balance| i128::from(balance.posted_minor_units))
        .sum()
}
