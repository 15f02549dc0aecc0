//! A target: a server that runs somewhere, of which nothing is known but its address. Its accounts are made through
//! gRPC, under a prefix of this run, and the money in them is counted through gRPC afterwards.

use indicatif::ProgressBar;
use tonic::transport::{Channel, Endpoint};

use super::error::BenchError;
use super::ledger::OPENING_MINOR_UNITS;
use super::load::Measured;
use crate::harness::{Accounts, posted};

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
        let failed = |cause: String| BenchError::server(address, cause);
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| failed("write it as HOST:PORT, such as 127.0.0.1:50051".to_owned()))?;
        let connected = endpoint.connect().await;
        let channel = connected.map_err(|error| failed(crate::store::with_source(&error)))?;
        let accounts = Accounts::of_new_run("bench", account_count);
        let opened = accounts.open(&channel, OPENING_MINOR_UNITS, || bar.inc(1));
        opened
            .await
            .map_err(|error| failed(format!("it made no account: {error}")))?;
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

    /// Books what a round moved across the edge of these accounts.
    pub(super) fn book(&mut self, measured: &Measured) {
        self.net_minor_units += measured.net_minor_units;
        self.uncertain_count += measured.uncertain_count;
    }

    /// Counts the money: what was there at first, and what came in since, not a cent more or less.
    pub(super) async fn verify(&self, name: &str) -> Result<(), BenchError> {
        let (mut found, mut read_count) = (0, 0);
        let take = |account| {
            found += posted(&account);
            read_count += 1;
        };
        let read = self.accounts.read(&self.channel, take).await;
        read.map_err(|error| BenchError::server(name, error.to_string()))?;
        if read_count != self.accounts.count() {
            return Err(self.finding(name, "accounts are missing".to_owned()));
        }
        let opened = i128::from(OPENING_MINOR_UNITS) * i128::from(self.accounts.count());
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
