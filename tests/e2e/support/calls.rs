//! Short words for requests.

use ballast::rpc::proto::operation_request::Request as Kind;
use ballast::rpc::proto::operation_result::Outcome;
use ballast::rpc::proto::transfer_request::Destination;
use ballast::rpc::proto::{
    Account, Balance, CreateAccountRequest, CreditRequest, DebitRequest, ExecuteBatchRequest,
    GetBalanceRequest, LegSide, MergeAccountsRequest, Money, OperationError, OperationRequest,
    OperationResult, PostOperationRequest, PostedOperation, PostingLeg, ReverseOperationRequest,
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

/// A leg of PostOperation: of the account `name`, or of its category in `name/category`, or of the world outside if it is empty.
pub fn leg(side: LegSide, name: &str, minor_units: i64) -> PostingLeg {
    let (account_id, category) = name.split_once('/').unwrap_or((name, ""));
    let categories = match category {
        "" => Vec::new(),
        category => vec![category.to_owned()],
    };
    PostingLeg {
        side: side.into(),
        account_id: account_id.to_owned(),
        categories,
        amount: eur(minor_units),
    }
}

pub fn post(
    operation_id: &str,
    debits: &[(&str, i64)],
    credits: &[(&str, i64)],
) -> PostOperationRequest {
    let legs = |side, legs: &[(&str, i64)]| -> Vec<PostingLeg> {
        let leg = |(name, amount): &(&str, i64)| leg(side, name, *amount);
        legs.iter().map(leg).collect()
    };
    let mut all = legs(LegSide::Debit, debits);
    all.extend(legs(LegSide::Credit, credits));
    PostOperationRequest {
        operation_id: operation_id.to_owned(),
        legs: all,
        ..PostOperationRequest::default()
    }
}

/// A reversal of a whole operation.
pub fn reverse(operation_id: &str, reversed_operation_id: &str) -> ReverseOperationRequest {
    ReverseOperationRequest {
        operation_id: operation_id.to_owned(),
        reversed_operation_id: reversed_operation_id.to_owned(),
        ..ReverseOperationRequest::default()
    }
}

/// A reversal of a part of an operation.
pub fn reverse_part(
    operation_id: &str,
    reversed_operation_id: &str,
    minor_units: i64,
) -> ReverseOperationRequest {
    ReverseOperationRequest {
        amount: eur(minor_units),
        ..reverse(operation_id, reversed_operation_id)
    }
}

/// A merge of one account into another.
pub fn merge(operation_id: &str, from: &str, to: &str) -> MergeAccountsRequest {
    MergeAccountsRequest {
        operation_id: operation_id.to_owned(),
        source_account_id: from.to_owned(),
        destination_account_id: to.to_owned(),
        ..MergeAccountsRequest::default()
    }
}

/// One operation of several.
pub fn member(kind: Kind) -> OperationRequest {
    OperationRequest {
        request: Some(kind),
    }
}

/// A credit as one operation of several.
pub fn credit_member(operation_id: &str, account_id: &str, minor_units: i64) -> OperationRequest {
    member(Kind::from(credit(operation_id, account_id, minor_units)))
}

/// A debit as one operation of several.
pub fn debit_member(operation_id: &str, account_id: &str, minor_units: i64) -> OperationRequest {
    member(Kind::from(debit(operation_id, account_id, minor_units)))
}

pub fn batch(operations: Vec<OperationRequest>) -> ExecuteBatchRequest {
    ExecuteBatchRequest {
        operations,
        ..ExecuteBatchRequest::default()
    }
}

/// A batch that happens as a whole or not at all.
pub fn atomic(operations: Vec<OperationRequest>) -> ExecuteBatchRequest {
    ExecuteBatchRequest {
        atomic: true,
        ..batch(operations)
    }
}

/// The results of a batch that is expected to be answered.
pub async fn execute(
    balances: &mut Balances,
    operations: Vec<OperationRequest>,
) -> Vec<OperationResult> {
    let answered = balances.execute_batch(batch(operations)).await;
    answered.expect("a batch is answered").into_inner().results
}

pub fn posted_of(result: &OperationResult) -> &PostedOperation {
    match &result.outcome {
        Some(Outcome::Posted(posted)) => posted,
        other => panic!("not posted: {other:?}"),
    }
}

pub fn error_of(result: &OperationResult) -> &OperationError {
    match &result.outcome {
        Some(Outcome::Error(error)) => error,
        other => panic!("no error: {other:?}"),
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
