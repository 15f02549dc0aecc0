//! Movements: the requests that move money, one by one and in batches.

use std::collections::HashMap;

use super::balance_key;
use crate::domain::{
    AccountId, Amount, BalanceKey, Category, Command, Conditions, Currency, Note, OperationId,
    OwnerId, Source,
};
use crate::rpc::proto::{self, operation_request, transfer_request::Destination};
use crate::rpc::violations::Violations;

/// What all requests that move money have in common.
#[derive(Debug)]
struct Head {
    operation_id: OperationId,
    amount: Amount,
    currency: Currency,
    note: Note,
    conditions: Conditions,
}

/// The conditions of a request.
fn conditions(
    violations: &mut Violations,
    expected_version: Option<i64>,
    min_available_after: Option<i64>,
) -> Conditions {
    for (field, value) in [
        ("expected_version", expected_version),
        ("min_available_after_minor_units", min_available_after),
    ] {
        if let Some(negative @ ..0) = value {
            violations.add(field, format!("is {negative}, must be 0 or more"));
        }
    }
    Conditions {
        expected_version,
        min_available_after,
    }
}

impl Head {
    fn parse(
        violations: &mut Violations,
        operation_id: &str,
        amount: Option<&proto::Money>,
        description: String,
        metadata: HashMap<String, String>,
    ) -> Option<Self> {
        let operation_id = violations.note("operation_id", OperationId::parse(operation_id));
        let money = violations.money(amount);
        violations.text("description", &description);
        let note = Note {
            description,
            metadata: violations.map("metadata", metadata),
        };
        let ((operation_id, (amount, currency)), note) = operation_id.zip(money).zip(Some(note))?;
        Some(Self {
            operation_id,
            amount,
            currency,
            note,
            conditions: Conditions::default(),
        })
    }

    fn with(self, conditions: Conditions) -> Self {
        Self { conditions, ..self }
    }

    fn command(self, movement: crate::domain::Movement) -> Command {
        let Self {
            operation_id,
            amount,
            currency,
            note,
            conditions,
        } = self;
        Command::of_movement(operation_id, movement, (amount, currency), note)
            .with_conditions(conditions)
    }
}

/// A debit, and the owner that its account is said to belong to.
pub fn debit(request: proto::DebitRequest) -> Result<(Command, Option<OwnerId>), Violations> {
    let mut violations = Violations::default();
    let proto::DebitRequest {
        operation_id,
        account_id,
        amount,
        categories,
        description,
        metadata,
        owner_id,
        validate_only: _,
        expected_version,
        min_available_after_minor_units,
    } = request;
    let head = Head::parse(
        &mut violations,
        &operation_id,
        amount.as_ref(),
        description,
        metadata,
    );
    let account_id = violations.account_id("account_id", &account_id);
    let owner_id = asserted_owner(&mut violations, "owner_id", &owner_id);
    let categories = violations.categories("categories", &categories);
    let conditions = conditions(
        &mut violations,
        expected_version,
        min_available_after_minor_units,
    );
    let head = head.map(|head| head.with(conditions));
    let source = account_id
        .zip(categories)
        .map(|(account_id, categories)| Source {
            account_id,
            categories,
        });
    let command = head
        .zip(source)
        .map(|(head, source)| head.command(crate::domain::Movement::Debit { source }));
    violations.check_operation(&operation_id, command.zip(owner_id))
}

/// The owner that the source is said to belong to; `Some(None)` if the request does not say.
fn asserted_owner(
    violations: &mut Violations,
    field: &str,
    owner_id: &str,
) -> Option<Option<OwnerId>> {
    match owner_id {
        "" => Some(None),
        owner_id => violations.owner_id(field, owner_id).map(Some),
    }
}

/// A credit.
pub fn credit(request: proto::CreditRequest) -> Result<Command, Violations> {
    let mut violations = Violations::default();
    let proto::CreditRequest {
        operation_id,
        account_id,
        amount,
        category,
        description,
        metadata,
        validate_only: _,
        expected_version,
    } = request;
    let head = Head::parse(
        &mut violations,
        &operation_id,
        amount.as_ref(),
        description,
        metadata,
    );
    let conditions = conditions(&mut violations, expected_version, None);
    let head = head.map(|head| head.with(conditions));
    let destination = balance_key(&mut violations, &account_id, &category);
    let credit = |(head, destination): (Head, _)| {
        head.command(crate::domain::Movement::Credit { destination })
    };
    let command = head.zip(destination).map(credit);
    violations.check_operation(&operation_id, command)
}

/// A transfer whose destination may still be an owner.
#[derive(Debug)]
pub struct Transfer {
    head: Head,
    source: Source,
    category: Category,
    /// The owner that the source is said to belong to.
    pub source_owner_id: Option<OwnerId>,
    /// Where the money goes.
    pub destination: TransferDestination,
}

/// Where the money of a transfer goes.
#[derive(Debug, Clone)]
pub enum TransferDestination {
    /// To this account.
    Account(AccountId),
    /// To the settlement account of this owner.
    Owner(OwnerId),
}

impl Transfer {
    /// Its id.
    pub fn operation_id(&self) -> &OperationId {
        &self.head.operation_id
    }

    /// The account that pays.
    pub fn source_account_id(&self) -> &AccountId {
        &self.source.account_id
    }

    /// The command, with the account that the destination stands for. Fails if source and destination are one balance.
    pub fn command(self, account_id: AccountId) -> Result<Command, crate::domain::SameBalance> {
        let owner_id = match self.destination {
            TransferDestination::Account(_) => None,
            TransferDestination::Owner(owner_id) => Some(owner_id),
        };
        let destination = BalanceKey {
            account_id,
            category: self.category,
        };
        let movement = crate::domain::Movement::transfer(self.source, destination, owner_id)?;
        Ok(self.head.command(movement))
    }
}

/// A transfer.
pub fn transfer(request: proto::TransferRequest) -> Result<Transfer, Violations> {
    let mut violations = Violations::default();
    let proto::TransferRequest {
        operation_id,
        source_account_id,
        source_categories,
        destination,
        destination_category,
        amount,
        description,
        metadata,
        source_owner_id,
        validate_only: _,
        expected_version,
        min_available_after_minor_units,
    } = request;
    let head = Head::parse(
        &mut violations,
        &operation_id,
        amount.as_ref(),
        description,
        metadata,
    );
    let account_id = violations.account_id("source_account_id", &source_account_id);
    let source_owner_id = asserted_owner(&mut violations, "source_owner_id", &source_owner_id);
    let categories = violations.categories("source_categories", &source_categories);
    let category = violations.category("destination_category", &destination_category);
    let conditions = conditions(
        &mut violations,
        expected_version,
        min_available_after_minor_units,
    );
    let head = head.map(|head| head.with(conditions));
    let destination = match destination {
        Some(Destination::DestinationAccountId(id)) => violations
            .account_id("destination_account_id", &id)
            .map(TransferDestination::Account),
        Some(Destination::DestinationOwnerId(id)) => violations
            .owner_id("destination_owner_id", &id)
            .map(TransferDestination::Owner),
        None => {
            violations.add(
                "destination",
                "is required: destination_account_id or destination_owner_id",
            );
            None
        }
    };
    let source = account_id
        .zip(categories)
        .map(|(account_id, categories)| Source {
            account_id,
            categories,
        });
    let parsed = head.zip(source.zip(source_owner_id));
    let parsed = parsed.zip(category.zip(destination));
    let parsed = parsed.map(
        |((head, (source, source_owner_id)), (category, destination))| Transfer {
            head,
            source,
            category,
            source_owner_id,
            destination,
        },
    );
    violations.check_operation(&operation_id, parsed)
}

/// A merge whose currency is not known yet: it is that of the source.
#[derive(Debug)]
pub struct Merge {
    /// Its id.
    pub operation_id: OperationId,
    note: Note,
    /// The account that is emptied and closed.
    pub source: AccountId,
    /// The account that receives.
    pub destination: AccountId,
}

impl Merge {
    /// The command, in the currency of the source.
    pub fn command(self, currency: Currency) -> Command {
        let Self {
            operation_id,
            note,
            source,
            destination,
        } = self;
        Command {
            operation_id,
            intent: crate::domain::Intent::Merge {
                source,
                destination,
            },
            currency,
            note,
        }
    }
}

/// A merge.
pub fn merge(request: proto::MergeAccountsRequest) -> Result<Merge, Violations> {
    let mut violations = Violations::default();
    let proto::MergeAccountsRequest {
        operation_id,
        source_account_id,
        destination_account_id,
        description,
        metadata,
        validate_only: _,
    } = request;
    let id = violations.note("operation_id", OperationId::parse(&operation_id));
    let source = violations.account_id("source_account_id", &source_account_id);
    let destination = violations.account_id("destination_account_id", &destination_account_id);
    violations.text("description", &description);
    let note = Note {
        description,
        metadata: violations.map("metadata", metadata),
    };
    let parsed = id.zip(source.zip(destination));
    let parsed = parsed.map(|(operation_id, (source, destination))| Merge {
        operation_id,
        note,
        source,
        destination,
    });
    violations.check_operation(&operation_id, parsed)
}

/// The most members of one ExecuteBatch: what one hot account executes in about a second.
const BATCH_MEMBER_COUNT_MAX: usize = 10_000;
/// The most members of an atomic one: all of their accounts are locked at the same time.
const ATOMIC_MEMBER_COUNT_MAX: usize = 1_000;

/// The most balances that the answer to one batch may show: two for each of the most members. More would not fit into it.
const BATCH_BALANCE_COUNT_MAX: usize = 2 * BATCH_MEMBER_COUNT_MAX;

/// How many balances the result of a member shows, at most.
fn balance_count(operation: &proto::OperationRequest) -> usize {
    match &operation.request {
        Some(operation_request::Request::Post(post)) => post.legs.len().max(2),
        _ => 2,
    }
}

/// How many members a batch has, each still to be parsed.
pub fn execute_batch(request: &proto::ExecuteBatchRequest) -> Result<usize, Violations> {
    let count = request.operations.len();
    let (count_max, of_what) = match request.atomic {
        true => (ATOMIC_MEMBER_COUNT_MAX, " if it is atomic"),
        false => (BATCH_MEMBER_COUNT_MAX, ""),
    };
    let mut violations = Violations::default();
    let balance_count: usize = request.operations.iter().map(balance_count).sum();
    if !(1..=count_max).contains(&count) {
        let rule = format!("has {count} operations, must have from 1 to {count_max}{of_what}");
        violations.add("operations", rule);
    } else if balance_count > BATCH_BALANCE_COUNT_MAX {
        let rule = format!(
            "have {balance_count} legs, two counted for each operation of another kind; at most {BATCH_BALANCE_COUNT_MAX} are allowed"
        );
        violations.add("operations", rule);
    }
    if request.validate_only && !request.atomic {
        let rule = "is only for atomic batches; validate independent operations one by one";
        violations.add("validate_only", rule);
    }
    violations.check(Some(count))
}
