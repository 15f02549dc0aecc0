//! What a batch writes of accounts, besides their balances: what they refuse, and which of them receive for their owners.

use std::sync::LazyLock;

use deadpool_postgres::Client;
use futures_util::future::try_join3;

use super::columns::{AccountFlagsColumns, AccountFlagsRow};
use super::error::StoreError;
use super::statement::{Columns, Statement};
use crate::domain::{AccountChanges, AccountId};

pub(super) static SET_ACCOUNT_FLAGS: LazyLock<Statement> =
    LazyLock::new(|| Statement::new(include_str!("sql/set_account_flags.sql")));
pub(super) const SET_SETTLEMENT: &str = include_str!("sql/set_settlement.sql");

/// The changes, with the statements that write them; nothing for nearly all batches.
pub(super) struct AccountWrites<'a> {
    statements: Option<[tokio_postgres::Statement; 2]>,
    flags: AccountFlagsColumns<'a>,
    settled_before: Vec<&'a str>,
    settle_now: Vec<&'a str>,
}

impl<'a> AccountWrites<'a> {
    /// Prepares what these changes need.
    pub(super) async fn prepare(
        client: &Client,
        changes: &'a AccountChanges,
    ) -> Result<Self, StoreError> {
        let texts = |ids: &'a [AccountId]| {
            let mut texts: Vec<&str> = ids.iter().map(AccountId::as_str).collect();
            texts.sort_unstable();
            texts
        };
        let mut flags = AccountFlagsColumns::default();
        for change in &changes.flags {
            flags.push(AccountFlagsRow::of(change));
        }
        let mut writes = Self {
            statements: None,
            flags,
            settled_before: texts(&changes.settled_before),
            settle_now: texts(&changes.settle_now),
        };
        if *changes != AccountChanges::default() {
            writes.statements = Some([
                client.prepare_cached(SET_ACCOUNT_FLAGS.text()).await?,
                client.prepare_cached(SET_SETTLEMENT).await?,
            ]);
        }
        Ok(writes)
    }

    /// Sends all of it when it is first polled, so that a COMMIT behind it in the same pipeline comes last.
    pub(super) async fn execute(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let Some([flag, settle]) = &self.statements else {
            return Ok(());
        };
        let flag_params = SET_ACCOUNT_FLAGS.bind(&[&self.flags]);
        let set_flags = async {
            match self.flags.is_empty() {
                true => Ok(0),
                false => client.execute(flag, &flag_params).await,
            }
        };
        try_join3(
            set_flags,
            client.execute(settle, &[&self.settled_before, &false]),
            client.execute(settle, &[&self.settle_now, &true]),
        )
        .await
        .map(drop)
    }
}
