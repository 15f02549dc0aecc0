//! A member: one operation of several, from its request to its result.

use std::collections::{HashMap, HashSet};

use super::context::Context;
use super::problem::Problem;
use super::proto::{self, operation_request, operation_result::Outcome};
use super::reply;
use super::request::{self, Reverse, Transfer, TransferDestination};
use super::status::RpcError;
use super::violations::Violations;
use crate::batcher::{Answer, Failure};
use crate::domain::{self, AccountId, Command, Currency, OperationId, OwnerId, Receipt, card};
use crate::store::{Store, StoreError, UnreadableOperation, account_id_of};

/// An operation that keeps all rules.
#[derive(Debug)]
pub enum Member {
    /// Ready to be executed.
    Command(Box<Command>),
    /// Its accounts or its id have to be looked up first.
    Unresolved(Box<Unresolved>),
}

/// An operation that cannot be executed before something was looked up: whose account pays, if the caller says whose it
/// is, which account settles for an owner, what an operation did that is to be reversed, and whether an operation of a
/// reserved id is known.
#[derive(Debug)]
pub struct Unresolved {
    operation: Operation,
    /// Whose the account that pays is said to be.
    source_owner_id: Option<OwnerId>,
}

#[derive(Debug)]
enum Operation {
    Command(Command),
    ToOwner(OwnerId, Transfer),
    Reverse(Reverse),
}

/// What was looked up for unresolved operations.
#[derive(Debug)]
pub struct Resolved {
    settlements: HashMap<OwnerId, AccountId>,
    owners: HashMap<AccountId, OwnerId>,
    /// Which of the reserved ids have an operation.
    recorded: HashSet<OperationId>,
    /// The operations that are reversed.
    originals: HashMap<OperationId, Result<domain::Operation, UnreadableOperation>>,
}

impl Member {
    /// A debit, and the owner that its account is said to belong to.
    pub fn of_debit((command, owner_id): (Command, Option<OwnerId>)) -> Self {
        Self::new(Operation::Command(command), owner_id)
    }

    /// A command whose request says all that it needs.
    pub fn of_command(command: Command) -> Self {
        Self::new(Operation::Command(command), None)
    }

    /// A transfer.
    pub fn of_transfer(transfer: Transfer) -> Result<Self, RpcError> {
        let source_owner_id = transfer.source_owner_id.clone();
        let operation = match transfer.destination.clone() {
            TransferDestination::Account(account_id) => {
                let command = transfer.command(account_id);
                Operation::Command(command.map_err(RpcError::SameBalance)?)
            }
            TransferDestination::Owner(owner_id) => Operation::ToOwner(owner_id, transfer),
        };
        Ok(Self::new(operation, source_owner_id))
    }

    /// A reversal.
    pub fn of_reverse(reverse: Reverse) -> Self {
        Self::new(Operation::Reverse(reverse), None)
    }

    fn new(operation: Operation, source_owner_id: Option<OwnerId>) -> Self {
        match (operation, source_owner_id) {
            (Operation::Command(command), None)
                if !card::is_reserved_id(command.operation_id.as_str()) =>
            {
                Self::Command(command.into())
            }
            (operation, source_owner_id) => Self::Unresolved(Box::new(Unresolved {
                operation,
                source_owner_id,
            })),
        }
    }
}

impl Unresolved {
    /// The owner whose settlement account is wanted.
    fn settlement_of(&self) -> Option<&OwnerId> {
        match &self.operation {
            Operation::Command(_) | Operation::Reverse(_) => None,
            Operation::ToOwner(owner_id, _) => Some(owner_id),
        }
    }

    /// The account whose owner is wanted.
    fn owner_of(&self) -> Option<&AccountId> {
        self.source_owner_id.as_ref()?;
        match &self.operation {
            Operation::Command(command) => command.source_account_id(),
            Operation::ToOwner(_, transfer) => Some(transfer.source_account_id()),
            Operation::Reverse(_) => None,
        }
    }

    /// The operation that it reverses.
    fn original_id(&self) -> Option<&OperationId> {
        match &self.operation {
            Operation::Reverse(reverse) => Some(&reverse.original_id),
            Operation::Command(_) | Operation::ToOwner(..) => None,
        }
    }

    /// The id, if it is reserved. An operation of an older version may have it, and a replay of that is answered as ever.
    fn reserved_id(&self) -> Option<&OperationId> {
        let operation_id = match &self.operation {
            Operation::Command(command) => &command.operation_id,
            Operation::ToOwner(_, transfer) => transfer.operation_id(),
            // No older version has made any.
            Operation::Reverse(_) => return None,
        };
        card::is_reserved_id(operation_id.as_str()).then_some(operation_id)
    }

    /// The command. Fails if a new id is reserved, or an account is not there, or not the one that the caller takes it for.
    pub fn command(self, resolved: &Result<Resolved, Failure>) -> Result<Command, RpcError> {
        let resolved = resolved
            .as_ref()
            .map_err(|failure| RpcError::Failure(failure.clone()))?;
        if let Some(operation_id) = self.reserved_id()
            && !resolved.recorded.contains(operation_id)
        {
            let mut violations = Violations::default();
            violations.reserved("operation_id");
            return Err(violations.into());
        }
        let command = match self.operation {
            Operation::Command(command) => command,
            Operation::ToOwner(owner_id, transfer) => {
                let account_id = resolved.settlements.get(&owner_id).cloned();
                let account_id = account_id.ok_or(RpcError::SettlementAccountNotFound(owner_id))?;
                transfer
                    .command(account_id)
                    .map_err(RpcError::SameBalance)?
            }
            Operation::Reverse(reverse) => {
                let original = match resolved.originals.get(&reverse.original_id) {
                    Some(Ok(original)) => original,
                    Some(Err(unreadable)) => {
                        return Err(StoreError::from(unreadable.clone()).into());
                    }
                    None => return Err(RpcError::OperationNotFound(reverse.original_id)),
                };
                reverse.command(original)?
            }
        };
        if let (Some(owner_id), Some(source)) = (self.source_owner_id, command.source()) {
            let account_id = source.account_id.clone();
            match resolved.owners.get(&account_id) {
                None => return Err(RpcError::AccountNotFound(account_id)),
                Some(found) if *found != owner_id => {
                    return Err(RpcError::OwnerMismatch {
                        account_id,
                        owner_id,
                    });
                }
                Some(_) => {}
            }
        }
        Ok(command)
    }
}

/// Looks up what these operations need, before anyone looks at their ids: an owner without a settlement account is
/// not found, whatever the id. An owner never changes, so the answer holds for the decision later; an account that is
/// not there yet is not found here, because it might be anyone's a moment later. Nor does an operation ever change that is to be
/// reversed: only what was reversed of it does, and that is looked up under the locks.
pub async fn resolve(
    store: &Store,
    operations: impl IntoIterator<Item = &Unresolved>,
    context: &Context,
) -> Result<Resolved, Failure> {
    let (mut owner_ids, mut account_ids) = (HashSet::new(), HashSet::new());
    let (mut operation_ids, mut original_ids) = (HashSet::new(), HashSet::new());
    for operation in operations {
        original_ids.extend(operation.original_id().cloned());
        operation_ids.extend(operation.reserved_id().cloned());
        owner_ids.extend(operation.settlement_of().cloned());
        account_ids.extend(operation.owner_of().cloned());
    }
    let mut resolved = Resolved {
        settlements: HashMap::new(),
        owners: HashMap::new(),
        recorded: HashSet::new(),
        originals: HashMap::new(),
    };
    if !original_ids.is_empty() {
        let original_ids = original_ids.into_iter().collect();
        let store = store.before(context.deadline());
        resolved.originals = store.get_operations(original_ids).await?;
    }
    if !operation_ids.is_empty() {
        let operation_ids = operation_ids.into_iter().collect();
        let store = store.before(context.deadline());
        resolved.recorded = store.recorded_operations(operation_ids).await?;
    }
    if !owner_ids.is_empty() {
        let owner_ids = owner_ids.into_iter().collect();
        resolved.settlements = store
            .before(context.deadline())
            .settlement_accounts(owner_ids)
            .await?;
    }
    if !account_ids.is_empty() {
        let account_ids = account_ids.into_iter().collect();
        resolved.owners = store
            .before(context.deadline())
            .account_owners(account_ids)
            .await?;
    }
    Ok(resolved)
}

/// The currency of the first of these accounts, all of which have to be there. Accounts stay and keep their currency, so what is
/// read here holds for the decision later. Fails too if the id is new and reserved.
pub async fn currency_of<const N: usize>(
    store: &Store,
    operation_id: &OperationId,
    account_ids: [&AccountId; N],
    context: &Context,
) -> Result<Currency, RpcError> {
    if card::is_reserved_id(operation_id.as_str()) {
        let ids = vec![operation_id.clone()];
        let store = store.before(context.deadline());
        if store.recorded_operations(ids).await?.is_empty() {
            let mut violations = Violations::default();
            violations.reserved("operation_id");
            return Err(violations.into());
        }
    }
    let found = store
        .before(context.deadline())
        .get_accounts(account_ids.map(AccountId::clone).into())
        .await?;
    let mut currencies = Vec::with_capacity(N);
    for account_id in account_ids {
        let mut found = found.iter();
        match found.find(|account| account_id_of(account) == account_id) {
            Some(Ok(account)) => currencies.push(account.currency),
            Some(Err(unreadable)) => return Err(StoreError::from(unreadable.clone()).into()),
            None => return Err(RpcError::AccountNotFound(account_id.clone())),
        }
    }
    Ok(*currencies.first().expect("at least one account is named"))
}

/// The operation of a request, and its id as it was sent, cut to what is echoed.
pub fn parse(request: proto::OperationRequest) -> (String, Result<Member, RpcError>) {
    use operation_request::Request;
    let Some(request) = request.request else {
        let rule = "is required: debit, credit, transfer, post or reverse";
        let violations = Violations::one("request", rule);
        return (String::new(), Err(violations.into()));
    };
    let (sent, validate_only) = match &request {
        Request::Debit(debit) => (&debit.operation_id, debit.validate_only),
        Request::Credit(credit) => (&credit.operation_id, credit.validate_only),
        Request::Transfer(transfer) => (&transfer.operation_id, transfer.validate_only),
        Request::Post(post) => (&post.operation_id, post.validate_only),
        Request::Reverse(reverse) => (&reverse.operation_id, reverse.validate_only),
    };
    let operation_id = Violations::echo(sent);
    if validate_only {
        let rule = "is not for one of several operations; an atomic batch is validated as a whole";
        let violations = Violations::one("validate_only", rule);
        return (operation_id, Err(violations.into()));
    }
    let member = match request {
        Request::Debit(debit) => request::debit(*debit)
            .map(Member::of_debit)
            .map_err(RpcError::from),
        Request::Credit(credit) => request::credit(*credit)
            .map(Member::of_command)
            .map_err(RpcError::from),
        Request::Transfer(transfer) => request::transfer(*transfer)
            .map_err(RpcError::from)
            .and_then(Member::of_transfer),
        Request::Post(post) => request::post(*post)
            .map(Member::of_command)
            .map_err(RpcError::from),
        Request::Reverse(reverse) => request::reverse(*reverse)
            .map(Member::of_reverse)
            .map_err(RpcError::from),
    };
    (operation_id, member)
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

impl From<proto::DebitRequest> for operation_request::Request {
    fn from(debit: proto::DebitRequest) -> Self {
        Self::Debit(debit.into())
    }
}

impl From<proto::CreditRequest> for operation_request::Request {
    fn from(credit: proto::CreditRequest) -> Self {
        Self::Credit(credit.into())
    }
}

impl From<proto::PostOperationRequest> for operation_request::Request {
    fn from(post: proto::PostOperationRequest) -> Self {
        Self::Post(post.into())
    }
}

impl From<proto::ReverseOperationRequest> for operation_request::Request {
    fn from(reverse: proto::ReverseOperationRequest) -> Self {
        Self::Reverse(reverse.into())
    }
}

impl From<proto::TransferRequest> for operation_request::Request {
    fn from(transfer: proto::TransferRequest) -> Self {
        Self::Transfer(transfer.into())
    }
}
