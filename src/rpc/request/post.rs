//! The request of several legs as one operation.

use crate::domain::{Command, Intent, Note, OperationId, RequestedLeg, Side, Source};
use crate::rpc::proto::{self, LegSide};
use crate::rpc::violations::Violations;

/// The fewest legs of an operation: what leaves one balance enters another.
const LEG_COUNT_MIN: usize = 2;
/// The most legs of an operation. Each is a row and a lock, for as long as the batch runs that it is in.
const LEG_COUNT_MAX: usize = 100;

/// Several legs as one operation.
pub fn post(request: proto::PostOperationRequest) -> Result<Command, Violations> {
    let mut violations = Violations::default();
    let proto::PostOperationRequest {
        operation_id,
        legs,
        description,
        metadata,
        validate_only: _,
    } = request;
    let id = violations.note("operation_id", OperationId::parse(&operation_id));
    let intent = intent(&mut violations, &legs);
    violations.text("description", &description);
    let note = Note {
        description,
        metadata: violations.map("metadata", metadata),
    };
    let command = id
        .zip(intent)
        .map(|(operation_id, (intent, currency))| Command {
            operation_id,
            intent,
            currency,
            note,
        });
    violations.check_operation(&operation_id, command)
}

fn intent(
    violations: &mut Violations,
    legs: &[proto::PostingLeg],
) -> Option<(Intent, crate::domain::Currency)> {
    let count = legs.len();
    if !(LEG_COUNT_MIN..=LEG_COUNT_MAX).contains(&count) {
        let rule = format!("has {count} legs, must have from {LEG_COUNT_MIN} to {LEG_COUNT_MAX}");
        violations.add("legs", rule);
        return None;
    }
    if legs.iter().all(|leg| leg.account_id.is_empty()) {
        violations.add("legs", "name no account; at least one leg needs account_id");
        return None;
    }
    let parsed: Vec<_> = legs
        .iter()
        .enumerate()
        .map(|(index, leg)| self::leg(violations, &format!("legs[{index}]"), leg))
        .collect();
    let legs: Vec<RequestedLeg> = parsed.into_iter().collect::<Option<_>>()?;
    let currency = legs.first()?.currency;
    let intent = violations.note("legs", Intent::post(legs))?;
    Some((intent, currency))
}

fn leg(violations: &mut Violations, field: &str, leg: &proto::PostingLeg) -> Option<RequestedLeg> {
    let side = match leg.side() {
        LegSide::Debit => Some(Side::Debits),
        LegSide::Credit => Some(Side::Credits),
        LegSide::Unspecified => {
            let rule = "is required: LEG_SIDE_DEBIT or LEG_SIDE_CREDIT";
            violations.add(format!("{field}.side"), rule);
            None
        }
    };
    let categories_field = format!("{field}.categories");
    let categories = violations.categories(&categories_field, &leg.categories);
    let account_id = match leg.account_id.as_str() {
        "" => {
            if !leg.categories.is_empty() {
                violations.add(categories_field, "of the world outside must be empty");
            }
            Some(None)
        }
        account_id => {
            if side == Some(Side::Credits) && leg.categories.len() > 1 {
                let rule = format!("has {} categories, a credit has one", leg.categories.len());
                violations.add(categories_field, rule);
            }
            violations
                .account_id(&format!("{field}.account_id"), account_id)
                .map(Some)
        }
    };
    let money = violations.money_in(&format!("{field}.amount"), leg.amount.as_ref());
    let ((side, (amount, currency)), (account_id, categories)) =
        side.zip(money).zip(account_id.zip(categories))?;
    let balance = account_id.map(|account_id| Source {
        account_id,
        categories,
    });
    Some(RequestedLeg {
        side,
        balance,
        amount,
        currency,
    })
}
