//! The request of a reversal.

use crate::domain::{
    Amount, Command, Currency, Intent, NotReversible, Note, Operation, OperationId,
};
use crate::rpc::proto;
use crate::rpc::status::RpcError;
use crate::rpc::violations::Violations;

/// A reversal of an operation that is not known yet.
#[derive(Debug)]
pub struct Reverse {
    operation_id: OperationId,
    /// The operation that is reversed.
    pub original_id: OperationId,
    amount: Option<(Amount, Currency)>,
    note: Note,
}

impl Reverse {
    /// The command. Fails if the original cannot be reversed, or not so.
    pub fn command(self, original: &Operation) -> Result<Command, RpcError> {
        let (intent, currency) =
            Intent::reverse(original, self.amount).map_err(|reason| match reason {
                NotReversible::Never { original_id, cause } => {
                    RpcError::NotReversible { original_id, cause }
                }
                NotReversible::OnlyAsAWhole => {
                    let rule =
                        "must be absent: an operation of several legs is reversed as a whole";
                    Violations::one("amount", rule).into()
                }
            })?;
        Ok(Command {
            operation_id: self.operation_id,
            intent,
            currency,
            note: self.note,
        })
    }
}

/// A reversal.
pub fn reverse(request: proto::ReverseOperationRequest) -> Result<Reverse, Violations> {
    let mut violations = Violations::default();
    let proto::ReverseOperationRequest {
        operation_id,
        reversed_operation_id,
        amount,
        description,
        metadata,
        validate_only: _,
    } = request;
    let id = violations.new_operation_id("operation_id", &operation_id);
    let original_id = violations.note(
        "reversed_operation_id",
        OperationId::parse(&reversed_operation_id),
    );
    let amount = match amount {
        None => Some(None),
        amount => violations.money(amount.as_ref()).map(Some),
    };
    violations.text("description", &description);
    let note = Note {
        description,
        metadata: violations.map("metadata", metadata),
    };
    let parsed = id.zip(original_id).zip(amount);
    let parsed = parsed.map(|((operation_id, original_id), amount)| Reverse {
        operation_id,
        original_id,
        amount,
        note,
    });
    violations.check(parsed)
}
