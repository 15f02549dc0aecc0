//! Accounts: opening them, and reading them with their balances.

use std::collections::{BTreeMap, HashMap};

use deadpool_postgres::Client;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::error::StoreError;
use super::requests::{Requests, Writes};
use super::row;
use super::unreadable::{self, UnreadableAccount};
use crate::domain::{AccountId, Balance, Category, Currency, OwnerId, Timestamp};

/// The limits of one balance, in minor units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSpec {
    /// The category.
    pub category: Category,
    /// How far the balance may go below zero.
    pub overdraft_limit: i64,
    /// The most that posted may reach; `None`: what an `i64` holds.
    pub balance_limit: Option<i64>,
}

/// An account as a caller wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountSpec {
    /// Its id.
    pub account_id: AccountId,
    /// Whose it is.
    pub owner_id: OwnerId,
    /// The currency of all its balances.
    pub currency: Currency,
    /// Whether it receives the transfers to its owner.
    pub settlement: bool,
    /// Free facts.
    pub labels: BTreeMap<String, String>,
    /// Each category at most once.
    pub limits: Vec<LimitSpec>,
}

/// One balance of an account, as it is stored.
#[derive(Debug, Clone)]
pub struct BalanceDetails {
    /// The category.
    pub category: Category,
    /// Its currency.
    pub currency: Currency,
    /// Its state.
    pub balance: Balance,
}

/// An account as it is stored.
#[derive(Debug, Clone)]
pub struct AccountDetails {
    /// Its id.
    pub account_id: AccountId,
    /// Whose it is.
    pub owner_id: OwnerId,
    /// The currency of all its balances.
    pub currency: Currency,
    /// Whether it receives the transfers to its owner.
    pub settlement: bool,
    /// Free facts.
    pub labels: BTreeMap<String, String>,
    /// When it was opened.
    pub create_time: Timestamp,
    /// Every operation on it is refused.
    pub closed: bool,
    /// Debits are refused.
    pub debits_frozen: bool,
    /// Credits are refused.
    pub credits_frozen: bool,
    /// Its balances, ordered by category.
    pub balances: Vec<BalanceDetails>,
}

/// An account as it was read. One that cannot be read hides no other.
pub type ReadAccount = Result<AccountDetails, UnreadableAccount>;

/// What became of the wish for an account.
#[derive(Debug)]
pub enum Created {
    /// It is there; `created` if this call opened it.
    Account {
        /// As it is now.
        account: Box<AccountDetails>,
        /// Whether this call opened it.
        created: bool,
    },
    /// It is there with other content, in these fields.
    Different(Vec<&'static str>),
    /// Its owner has this other settlement account.
    OtherSettlement(AccountId),
}

const INSERT_ACCOUNT: &str = include_str!("sql/insert_account.sql");
const GET_ACCOUNTS: &str = include_str!("sql/get_accounts.sql");
const LIST_ACCOUNT_IDS: &str = include_str!("sql/list_account_ids.sql");
const SETTLEMENT_ACCOUNTS: &str = include_str!("sql/settlement_accounts.sql");
const ACCOUNT_OWNERS: &str = include_str!("sql/account_owners.sql");

impl Requests {
    /// Opens the account unless it is there. Two at once: one opens it, the other finds it.
    pub async fn create_account(&self, spec: AccountSpec) -> Result<Created, StoreError> {
        self.write(
            move |client, writes| async move { create_account(&client, &spec, &writes).await },
        )
        .await
    }

    /// The accounts of these ids that exist, ordered by id, in one snapshot.
    pub async fn get_accounts(
        &self,
        account_ids: Vec<AccountId>,
    ) -> Result<Vec<ReadAccount>, StoreError> {
        self.request(move |client| async move {
            let account_ids: Vec<&str> = account_ids.iter().map(AccountId::as_str).collect();
            get_accounts(&client, &account_ids).await
        })
        .await
    }

    /// At most `limit` accounts of an owner after the given one, ordered by id.
    pub async fn list_accounts(
        &self,
        owner_id: OwnerId,
        after: Option<AccountId>,
        limit: i64,
    ) -> Result<Vec<ReadAccount>, StoreError> {
        self.request(move |client| async move {
            let account_ids = list_account_ids(&client, &owner_id, after.as_ref(), limit).await?;
            get_accounts(
                &client,
                &account_ids.iter().map(String::as_str).collect::<Vec<_>>(),
            )
            .await
        })
        .await
    }

    /// Whether there is any account at all.
    pub async fn has_accounts(&self) -> Result<bool, StoreError> {
        self.request(|client| async move {
            Ok(client
                .query_opt("SELECT 1 FROM accounts LIMIT 1", &[])
                .await?
                .is_some())
        })
        .await
    }

    /// The settlement accounts of those of the owners that have one.
    pub async fn settlement_accounts(
        &self,
        owner_ids: Vec<OwnerId>,
    ) -> Result<HashMap<OwnerId, AccountId>, StoreError> {
        self.request(move |client| async move { settlement_accounts(&client, &owner_ids).await })
            .await
    }

    /// The owners of those of the accounts that exist.
    pub async fn account_owners(
        &self,
        account_ids: Vec<AccountId>,
    ) -> Result<HashMap<AccountId, OwnerId>, StoreError> {
        self.request(move |client| async move {
            let account_ids: Vec<&str> = account_ids.iter().map(AccountId::as_str).collect();
            let statement = client.prepare_cached(ACCOUNT_OWNERS).await?;
            let rows = client.query(&statement, &[&account_ids]).await?;
            let owner = |row: &Row| {
                let account_id = AccountId::from_stored(row.get("account_id"));
                (account_id, OwnerId::from_stored(row.get("owner_id")))
            };
            Ok(rows.iter().map(owner).collect())
        })
        .await
    }
}

async fn create_account(
    client: &Client,
    spec: &AccountSpec,
    writes: &Writes,
) -> Result<Created, StoreError> {
    match insert_account(client, spec, writes).await {
        Ok(Some(account)) => {
            return Ok(Created::Account {
                account: Box::new(account),
                created: true,
            });
        }
        Ok(None) => writes.wrote_nothing(),
        Err(StoreError::Duplicate { .. }) => {}
        Err(error) => return Err(error),
    }
    // What follows only reads.
    if let Some(account) = get_accounts(client, &[spec.account_id.as_str()])
        .await?
        .pop()
        .transpose()?
    {
        let fields = differing_fields(spec, &account);
        return Ok(match fields.is_empty() {
            true => Created::Account {
                account: Box::new(account),
                created: false,
            },
            false => Created::Different(fields),
        });
    }
    let owner_id = &spec.owner_id;
    let other = settlement_accounts(client, std::slice::from_ref(owner_id))
        .await?
        .remove(owner_id);
    let lost = || {
        StoreError::Corrupt(format!(
            "account {} was neither inserted nor found",
            spec.account_id
        ))
    };
    other.map(Created::OtherSettlement).ok_or_else(lost)
}

/// The account if this opened it; `None` if there is one of its id.
async fn insert_account(
    client: &Client,
    spec: &AccountSpec,
    writes: &Writes,
) -> Result<Option<AccountDetails>, StoreError> {
    let mut limits: Vec<&LimitSpec> = spec.limits.iter().collect();
    let main = LimitSpec {
        category: Category::main(),
        overdraft_limit: 0,
        balance_limit: None,
    };
    if !limits.iter().any(|limit| limit.category.is_main()) {
        limits.push(&main);
    }
    let categories: Vec<&str> = limits.iter().map(|limit| limit.category.as_str()).collect();
    let overdraft_limits: Vec<i64> = limits.iter().map(|limit| limit.overdraft_limit).collect();
    let balance_limits: Vec<Option<i64>> = limits.iter().map(|limit| limit.balance_limit).collect();
    let (account_id, owner_id, currency) = (
        spec.account_id.as_str(),
        spec.owner_id.as_str(),
        spec.currency.as_str(),
    );
    let labels = row::to_json(&spec.labels);
    let params: [&(dyn ToSql + Sync); 8] = [
        &account_id,
        &owner_id,
        &currency,
        &spec.settlement,
        &labels,
        &categories,
        &overdraft_limits,
        &balance_limits,
    ];
    let rows = writes.run(client, INSERT_ACCOUNT, &params).await?;
    Ok(accounts(&rows).pop().transpose()?)
}

fn differing_fields(spec: &AccountSpec, account: &AccountDetails) -> Vec<&'static str> {
    let limits_of = |category: &Category| {
        let spec = spec.limits.iter().find(|limit| limit.category == *category);
        spec.map_or((0, None), |limit| {
            (limit.overdraft_limit, limit.balance_limit)
        })
    };
    let has = |category: &Category| {
        account
            .balances
            .iter()
            .any(|balance| balance.category == *category)
    };
    let same_limits = account.balances.iter().all(
        |BalanceDetails {
             category, balance, ..
         }| { (balance.overdraft_limit, balance.balance_limit) == limits_of(category) },
    ) && spec.limits.iter().all(|limit| has(&limit.category));
    [
        ("owner_id", account.owner_id != spec.owner_id),
        ("currency_code", account.currency != spec.currency),
        ("settlement", account.settlement != spec.settlement),
        ("labels", account.labels != spec.labels),
        ("limits", !same_limits),
    ]
    .into_iter()
    .filter_map(|(field, differs)| differs.then_some(field))
    .collect()
}

async fn get_accounts(
    client: &Client,
    account_ids: &[&str],
) -> Result<Vec<ReadAccount>, StoreError> {
    let statement = client.prepare_cached(GET_ACCOUNTS).await?;
    Ok(accounts(&client.query(&statement, &[&account_ids]).await?))
}

/// The accounts of rows that are ordered by them.
fn accounts(rows: &[Row]) -> Vec<ReadAccount> {
    let mut accounts: Vec<ReadAccount> = Vec::new();
    for row in rows {
        let account_id: &str = row.get("account_id");
        let known = accounts
            .last()
            .is_some_and(|account| account_id_of(account).as_str() == account_id);
        if !known {
            accounts.push(account(row));
        }
        let category = Category::from_stored(row.get("category"));
        if let Some(Ok(account)) = accounts.last_mut() {
            let currency = account.currency;
            account.balances.push(BalanceDetails {
                category,
                currency,
                balance: row::balance(row),
            });
            if row.get::<_, &str>("category") == Category::MAIN {
                account.closed = row.get("closed");
                account.debits_frozen = row.get("debits_frozen");
                account.credits_frozen = row.get("credits_frozen");
            }
        }
    }
    accounts
}

/// The id of an account, whether it can be read or not.
pub fn account_id_of(account: &ReadAccount) -> &AccountId {
    match account {
        Ok(account) => &account.account_id,
        Err(unreadable) => &unreadable.account_id,
    }
}

fn account(row: &Row) -> ReadAccount {
    let account_id = AccountId::from_stored(row.get("account_id"));
    let owner_id = OwnerId::from_stored(row.get("owner_id"));
    let unreadable = |cause: String| {
        let unreadable = UnreadableAccount {
            account_id: account_id.clone(),
            owner_id: owner_id.clone(),
            cause,
        };
        unreadable.log();
        unreadable
    };
    let broken = |column: &str, error| format!("{column}: {}", unreadable::cause(error, ""));
    let create_time = row::time(row, "create_time");
    if !create_time.is_in_calendar() {
        return Err(unreadable("create_time".to_owned()));
    }
    let currency =
        row::currency(row).map_err(|error| unreadable(broken("currency_code", error)))?;
    let labels = row::from_json(row.get("labels"));
    let labels = labels.map_err(|error| unreadable(broken("labels", error)))?;
    Ok(AccountDetails {
        account_id,
        owner_id,
        currency,
        settlement: row.get("settlement"),
        labels,
        create_time,
        closed: false,
        debits_frozen: false,
        credits_frozen: false,
        balances: Vec::new(),
    })
}

async fn list_account_ids(
    client: &Client,
    owner_id: &OwnerId,
    after: Option<&AccountId>,
    limit: i64,
) -> Result<Vec<String>, StoreError> {
    let statement = client.prepare_cached(LIST_ACCOUNT_IDS).await?;
    let after = after.map_or("", AccountId::as_str);
    let rows = client
        .query(&statement, &[&owner_id.as_str(), &after, &limit])
        .await?;
    Ok(rows.iter().map(|row| row.get("account_id")).collect())
}

async fn settlement_accounts(
    client: &Client,
    owner_ids: &[OwnerId],
) -> Result<HashMap<OwnerId, AccountId>, StoreError> {
    let statement = client.prepare_cached(SETTLEMENT_ACCOUNTS).await?;
    let owner_ids: Vec<&str> = owner_ids.iter().map(OwnerId::as_str).collect();
    let rows = client.query(&statement, &[&owner_ids]).await?;
    let pair = |row: &Row| {
        (
            OwnerId::from_stored(row.get("owner_id")),
            AccountId::from_stored(row.get("account_id")),
        )
    };
    Ok(rows.iter().map(pair).collect())
}
