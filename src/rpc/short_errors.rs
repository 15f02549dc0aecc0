//! Short errors: what is left of the errors of a large batch, so that all results together fit into one answer.
//!
//! A result that posted has less than 400 bytes, so it always fits. An error may have some kilobytes, and 10,000 of them
//! would not. A shortened error keeps its code, reason and retry delay; its message becomes shorter and long metadata is left out.

use prost::Message;

use super::page;
use super::proto::{FieldViolation, OperationError, OperationResult, operation_result::Outcome};

/// The fact that says that others are left out, or cut.
const SHORTENED: &str = "shortened";
/// What an error takes in its result beyond its own bytes, and the result in its list.
const ERROR_OVERHEAD: usize = 12;
/// The fewest bytes of a message that is cut.
const MESSAGE_SIZE_MIN: usize = 60;

/// How many bytes each of so many results may have.
pub fn size_max(count: usize) -> usize {
    page::ANSWER_SIZE_MAX / count.max(1)
}

/// Makes results fit into one answer together.
pub fn shorten_all(results: &mut Vec<OperationResult>) {
    let total: usize = results.iter().map(page::item_size).sum();
    if total <= page::ANSWER_SIZE_MAX {
        return;
    }
    let size_max = size_max(results.len());
    for result in results {
        shorten(result, size_max);
    }
}

/// Makes a result fit into so many bytes of a list, if it is an error.
pub fn shorten(result: &mut OperationResult, size_max: usize) {
    let around = page::item_size(&result.operation_id) + ERROR_OVERHEAD;
    if let Some(Outcome::Error(error)) = &mut result.outcome {
        shorten_error(error, size_max.saturating_sub(around));
    }
}

/// Removes what is said twice, then shortens the message, then removes the longest metadata.
fn shorten_error(error: &mut OperationError, size_max: usize) {
    let excess = |error: &OperationError| error.encoded_len().saturating_sub(size_max);
    if excess(error) == 0 {
        return;
    }
    error
        .metadata
        .insert(SHORTENED.to_owned(), "true".to_owned());
    if error.field_violations.len() > 1 {
        // The violations name them, too.
        error.metadata.remove("fields");
        keep_first_violations(error, excess(error));
    }
    let kept = error.message.len().saturating_sub(excess(error));
    error.message = cut(&error.message, kept.max(MESSAGE_SIZE_MIN));
    while excess(error) > 0 && leave_out_longest_fact(error) {}
    if excess(error) > 0 {
        error.field_violations.clear();
    }
}

/// Leaves out the last violations, and says so.
fn keep_first_violations(error: &mut OperationError, excess: usize) {
    let note = FieldViolation {
        field: "...".to_owned(),
        description: "more violations, which are left out here".to_owned(),
    };
    let (mut freed, excess) = (0, excess + page::item_size(&note));
    while freed < excess && error.field_violations.len() > 1 {
        let last = error.field_violations.pop();
        freed += last.as_ref().map_or(0, page::item_size);
    }
    error.field_violations.push(note);
}

/// Whether there was one.
fn leave_out_longest_fact(error: &mut OperationError) -> bool {
    let facts = error.metadata.iter();
    let facts = facts.filter(|(name, _)| *name != SHORTENED);
    let longest = facts.max_by_key(|(name, value)| (value.len(), *name));
    let name = longest.map(|(name, _)| name.clone());
    name.is_some_and(|name| error.metadata.remove(&name).is_some())
}

/// A text of at most so many bytes; one that is cut ends with three dots.
pub fn cut(text: &str, size_max: usize) -> String {
    match text.len() <= size_max {
        true => text.to_owned(),
        false => {
            let end = text.floor_char_boundary(size_max.saturating_sub(3));
            format!("{}...", &text[..end])
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::rpc::proto::{BalanceSnapshot, PostedOperation};

    /// How many members a batch may have.
    const MEMBER_COUNT_MAX: usize = 10_000;

    #[test]
    fn the_largest_result_that_posted_fits_so_often() {
        let balance = BalanceSnapshot {
            account_id: "a".repeat(64),
            category: "c".repeat(32),
            currency_code: "EUR".to_owned(),
            posted_minor_units: -1,
            held_minor_units: -1,
            available_minor_units: -1,
            version: -1,
        };
        let posted = PostedOperation {
            create_time: Some(prost_types::Timestamp {
                seconds: 253_402_300_799,
                nanos: 999_999_999,
            }),
            balances: vec![balance; 2],
            replayed: true,
        };
        let result = OperationResult {
            operation_id: "o".repeat(64),
            outcome: Some(Outcome::Posted(posted)),
        };
        let size = page::item_size(&result);
        assert!(size <= size_max(MEMBER_COUNT_MAX), "{size}");
    }

    #[test]
    fn an_error_keeps_its_reason_and_fits() {
        let fact = |name: &str, size| (name.to_owned(), "v".repeat(size));
        let refused = OperationError {
            code: 9,
            reason: "INSUFFICIENT_FUNDS".to_owned(),
            message: "\u{1F4B6} ".repeat(500),
            metadata: HashMap::from([
                fact("account_id", 64),
                fact("categories", 16 * 33),
                fact("available_minor_units", 16 * 20),
                fact("needed_minor_units", 19),
            ]),
            field_violations: Vec::new(),
            retry_delay_ms: 0,
        };
        let violation = |index| FieldViolation {
            field: format!("metadata[{index}]"),
            description: "has control characters, none are allowed".to_owned(),
        };
        let invalid = OperationError {
            reason: "INVALID_ARGUMENT".to_owned(),
            metadata: HashMap::from([fact("fields", 2_000)]),
            field_violations: (0..30).map(violation).collect(),
            ..refused.clone()
        };
        for (error, fact) in [(refused, "account_id"), (invalid, SHORTENED)] {
            let mut result = OperationResult {
                operation_id: "o".repeat(64),
                outcome: Some(Outcome::Error(error.clone())),
            };
            let whole = page::item_size(&result) + ERROR_OVERHEAD;
            shorten(&mut result, whole);
            assert_eq!(
                result.outcome,
                Some(Outcome::Error(error.clone())),
                "as it was"
            );
            shorten(&mut result, size_max(MEMBER_COUNT_MAX));
            let size = page::item_size(&result);
            assert!(size <= size_max(MEMBER_COUNT_MAX), "{size}: {result:?}");
            let Some(Outcome::Error(shortened)) = result.outcome else {
                panic!("still an error")
            };
            assert_eq!((shortened.code, &shortened.reason), (9, &error.reason));
            assert!(!shortened.message.is_empty());
            assert!(shortened.metadata.contains_key(fact), "{shortened:?}");
            assert_eq!(shortened.metadata[SHORTENED], "true");
        }
    }
}
