//! Changes of accounts: the requests that freeze and close them, and end that.

use std::collections::HashMap;

use super::accounts::limit_specs;
use crate::domain::{
    AccountId, Command, Currency, Intent, LimitChange, Note, OperationId, RequestedChange, Sides,
};
use crate::rpc::proto;
use crate::rpc::violations::Violations;
use crate::store::LimitSpec;

/// A change of an account whose currency is not known yet.
#[derive(Debug)]
pub struct AccountChange {
    /// Its id.
    pub operation_id: OperationId,
    /// The account.
    pub account_id: AccountId,
    change: RequestedChange,
    note: Note,
}

impl AccountChange {
    /// The command, in the currency of the account.
    pub fn command(self, currency: Currency) -> Command {
        let Self {
            operation_id,
            account_id,
            change,
            note,
        } = self;
        Command {
            operation_id,
            intent: Intent::Change { account_id, change },
            currency,
            note,
        }
    }
}

/// What all requests that change an account have in common, as it was sent.
struct Sent {
    operation_id: String,
    account_id: String,
    description: String,
    metadata: HashMap<String, String>,
}

impl Sent {
    /// The change, if it is not `None`; then it has its violation.
    fn parse(
        self,
        mut violations: Violations,
        change: Option<RequestedChange>,
    ) -> Result<AccountChange, Violations> {
        let Self {
            operation_id,
            account_id,
            description,
            metadata,
        } = self;
        let id = violations.note("operation_id", OperationId::parse(&operation_id));
        let account_id = violations.account_id("account_id", &account_id);
        violations.text("description", &description);
        let note = Note {
            description,
            metadata: violations.map("metadata", metadata),
        };
        let parsed = id.zip(account_id.zip(change));
        let parsed = parsed.map(|(operation_id, (account_id, change))| AccountChange {
            operation_id,
            account_id,
            change,
            note,
        });
        violations.check_operation(&operation_id, parsed)
    }
}

fn sides(violations: &mut Violations, debits: bool, credits: bool) -> Option<Sides> {
    if !debits && !credits {
        violations.add("debits", "or credits is required");
        return None;
    }
    Some(Sides { debits, credits })
}

/// The paths of an update mask.
const OVERDRAFT_LIMIT: &str = "overdraft_limit_minor_units";
const BALANCE_LIMIT: &str = "balance_limit_minor_units";

/// New limits.
pub fn update(request: proto::UpdateAccountRequest) -> Result<AccountChange, Violations> {
    let mut violations = Violations::default();
    let paths = request.update_mask.map_or_else(Vec::new, |mask| mask.paths);
    for path in &paths {
        if ![OVERDRAFT_LIMIT, BALANCE_LIMIT].contains(&path.as_str()) {
            let path = Violations::quoted(path);
            let rule = format!("has {path}, must have only {OVERDRAFT_LIMIT} and {BALANCE_LIMIT}");
            violations.add("update_mask", rule);
            break;
        }
    }
    let is_in = |path: &str| paths.is_empty() || paths.iter().any(|one| one == path);
    if request.limits.is_empty() {
        violations.add("limits", "is required");
    }
    let limits = limit_specs(&mut violations, &request.limits);
    let change = |spec: LimitSpec| LimitChange {
        category: spec.category,
        overdraft_limit: is_in(OVERDRAFT_LIMIT).then_some(spec.overdraft_limit),
        balance_limit: is_in(BALANCE_LIMIT).then_some(spec.balance_limit),
    };
    let limits = limits.map(|specs| specs.into_iter().map(change).collect());
    let allow_breach = request.allow_breach;
    let change = limits.map(|limits| RequestedChange::Update {
        limits,
        allow_breach,
    });
    let sent = Sent {
        operation_id: request.operation_id,
        account_id: request.account_id,
        description: request.description,
        metadata: request.metadata,
    };
    sent.parse(violations, change)
}

/// A freeze.
pub fn freeze(request: proto::FreezeAccountRequest) -> Result<AccountChange, Violations> {
    let mut violations = Violations::default();
    let sides = sides(&mut violations, request.debits, request.credits);
    let sent = Sent {
        operation_id: request.operation_id,
        account_id: request.account_id,
        description: request.description,
        metadata: request.metadata,
    };
    sent.parse(violations, sides.map(RequestedChange::Freeze))
}

/// The end of a freeze.
pub fn unfreeze(request: proto::UnfreezeAccountRequest) -> Result<AccountChange, Violations> {
    let mut violations = Violations::default();
    let sides = sides(&mut violations, request.debits, request.credits);
    let sent = Sent {
        operation_id: request.operation_id,
        account_id: request.account_id,
        description: request.description,
        metadata: request.metadata,
    };
    sent.parse(violations, sides.map(RequestedChange::Unfreeze))
}

/// A closure.
pub fn close(request: proto::CloseAccountRequest) -> Result<AccountChange, Violations> {
    let sent = Sent {
        operation_id: request.operation_id,
        account_id: request.account_id,
        description: request.description,
        metadata: request.metadata,
    };
    sent.parse(Violations::default(), Some(RequestedChange::Close))
}

/// The end of a closure.
pub fn reopen(request: proto::ReopenAccountRequest) -> Result<AccountChange, Violations> {
    let sent = Sent {
        operation_id: request.operation_id,
        account_id: request.account_id,
        description: request.description,
        metadata: request.metadata,
    };
    sent.parse(Violations::default(), Some(RequestedChange::Reopen))
}
