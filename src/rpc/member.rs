//! A member: one operation of several, from its request to its result.

use std::collections::HashMap;

use tokio::time::Instant;

use super::proto::{self, operation_request, operation_result::Outcome};
use super::reply;
use super::request::{self, Transfer, TransferDestination};
use super::status::{Problem, RpcError};
use super::violations::Violations;
use crate::batcher::{Answer, Failure};
use crate::domain::{AccountId, Command, OwnerId, Receipt};
use crate::store::Store;

/// An operation that keeps all rules.
#[derive(Debug)]
pub enum Member {
    /// Ready to be executed.
    Command(Box<Command>),
    /// A transfer to an owner whose settlement account has to be found.
    ToOwner(OwnerId, Box<Transfer>),
}

/// The settlement accounts of some owners, or why they are not known.
pub type Settlements = Result<HashMap<OwnerId, AccountId>, Failure>;

impl Member {
    /// A transfer.
    pub fn of_transfer(transfer: Transfer) -> Result<Self, RpcError> {
        match transfer.destination.clone() {
            TransferDestination::Account(account_id) => {
                let command = transfer
                    .command(account_id)
                    .map_err(RpcError::SameBalance)?;
                Ok(Self::Command(command.into()))
            }
            TransferDestination::Owner(owner_id) => Ok(Self::ToOwner(owner_id, transfer.into())),
        }
    }
}

/// The operation of a request, and its id as it was sent, cut to what is echoed.
pub fn parse(request: proto::OperationRequest) -> (String, Result<Member, RpcError>) {
    use operation_request::Request;
    let Some(request) = request.request else {
        let rule = "is required: debit, credit or transfer";
        let violations = Violations::one("request", rule);
        return (String::new(), Err(violations.into()));
    };
    let sent = match &request {
        Request::Debit(debit) => &debit.operation_id,
        Request::Credit(credit) => &credit.operation_id,
        Request::Transfer(transfer) => &transfer.operation_id,
    };
    let operation_id = Violations::echo(sent);
    let command = |command| Member::Command(Box::new(command));
    let member = match request {
        Request::Debit(debit) => request::debit(debit).map(command).map_err(RpcError::from),
        Request::Credit(credit) => request::credit(credit).map(command).map_err(RpcError::from),
        Request::Transfer(transfer) => request::transfer(transfer)
            .map_err(RpcError::from)
            .and_then(Member::of_transfer),
    };
    (operation_id, member)
}

/// The settlement accounts of owners. Asked before the operation id is looked at: an owner without a settlement account
/// is not found, whatever the id.
pub async fn settlements(store: &Store, owner_ids: Vec<OwnerId>, deadline: Instant) -> Settlements {
    let found = store.before(deadline).settlement_accounts(owner_ids).await;
    found.map_err(Failure::from)
}

/// The command of a transfer to an owner.
pub fn settle(
    owner_id: OwnerId,
    transfer: Transfer,
    settlements: &Settlements,
) -> Result<Command, RpcError> {
    let settlements = settlements
        .as_ref()
        .map_err(|failure| RpcError::Failure(failure.clone()))?;
    let account_id = settlements
        .get(&owner_id)
        .cloned()
        .ok_or(RpcError::SettlementAccountNotFound(owner_id))?;
    transfer.command(account_id).map_err(RpcError::SameBalance)
}

/// What an answer says.
pub fn outcome(answer: Answer) -> Result<Receipt, RpcError> {
    match answer {
        Answer::Decided(decision) => decision.map_err(RpcError::Refusal),
        Answer::Failed(failure) => Err(RpcError::Failure(failure)),
    }
}

/// The result of an operation.
pub fn result(operation_id: String, outcome: Result<Receipt, RpcError>) -> proto::OperationResult {
    let outcome = match outcome {
        Ok(receipt) => Outcome::Posted(reply::posted_operation(&receipt)),
        Err(error) => Outcome::Error(Problem::from(error).into()),
    };
    proto::OperationResult {
        operation_id,
        outcome: Some(outcome),
    }
}
