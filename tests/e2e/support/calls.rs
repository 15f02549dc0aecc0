//! Short words for requests.

use ballast::rpc::proto::transfer_request::Destination;
use ballast::rpc::proto::{
    Account, Balance, CreateAccountRequest, CreditRequest, DebitRequest, GetBalanceRequest, Money,
    TransferRequest,
};

use super::instance::{Accounts, Balances};

pub fn eur(minor_units: i64) -> Option<Money> {
    Some(Money {
        currency_code: "EUR".to_owned(),
        minor_units,
    })
}

pub fn strings<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).into()
}

pub fn account(account_id: &str) -> CreateAccountRequest {
    CreateAccountRequest {
        account_id: account_id.to_owned(),
        owner_id: format!("{account_id}-owner"),
        currency_code: "EUR".to_owned(),
        ..CreateAccountRequest::default()
    }
}

pub fn credit(operation_id: &str, account_id: &str, minor_units: i64) -> CreditRequest {
    CreditRequest {
        operation_id: operation_id.to_owned(),
        account_id: account_id.to_owned(),
        amount: eur(minor_units),
        ..CreditRequest::default()
    }
}

pub fn debit(operation_id: &str, account_id: &str, minor_units: i64) -> DebitRequest {
    DebitRequest {
        operation_id: operation_id.to_owned(),
        account_id: account_id.to_owned(),
        amount: eur(minor_units),
        ..DebitRequest::default()
    }
}

pub fn transfer(operation_id: &str, from: &str, to: &str, minor_units: i64) -> TransferRequest {
    TransferRequest {
        operation_id: operation_id.to_owned(),
        source_account_id: from.to_owned(),
        destination: Some(Destination::DestinationAccountId(to.to_owned())),
        amount: eur(minor_units),
        ..TransferRequest::default()
    }
}

/// Opens an account and gives it money.
pub async fn open(ballast: &mut super::Ballast, account_id: &str, minor_units: i64) -> Account {
    let opened = ballast
        .accounts
        .create_account(account(account_id))
        .await
        .expect("an account is opened");
    if minor_units > 0 {
        let opening = credit(&format!("{account_id}-opening"), account_id, minor_units);
        ballast
            .balances
            .credit(opening)
            .await
            .expect("an account is credited");
    }
    opened
        .into_inner()
        .account
        .expect("an opened account is returned")
}

pub async fn balance_of(balances: &mut Balances, account_id: &str, category: &str) -> Balance {
    let request = GetBalanceRequest {
        account_id: account_id.to_owned(),
        category: category.to_owned(),
        at_time: None,
    };
    let response = balances
        .get_balance(request)
        .await
        .expect("the balance of an account that exists");
    response.into_inner().balance.expect("a balance")
}

pub async fn posted(balances: &mut Balances, account_id: &str) -> i64 {
    balance_of(balances, account_id, "")
        .await
        .posted_minor_units
}

pub async fn account_of(accounts: &mut Accounts, account_id: &str) -> Account {
    let request = ballast::rpc::proto::GetAccountRequest {
        account_id: account_id.to_owned(),
    };
    let response = accounts
        .get_account(request)
        .await
        .expect("an account that exists");
    response.into_inner().account.expect("an account")
}
