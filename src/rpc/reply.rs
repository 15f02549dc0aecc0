//! Replies: the ledger's values as proto.

use std::collections::{BTreeMap, HashMap};

use super::page;
use super::problem::Problem;
use super::proto;
use crate::domain::{
    AccountId, BalanceKey, Category, Currency, Entry, Intent, Kind, LimitChange, Operation,
    Outcome, Receipt, Refusal, RequestedChange, RequestedLeg, Side, Timestamp,
};
use crate::store::{
    AccountDetails, BalanceDetails, EntryRecord, Listed, ReadAccount, UnreadableAccount,
    UnreadableEntry, UnreadableOperation,
};

pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let (seconds, micros) = (
        time.micros().div_euclid(1_000_000),
        time.micros().rem_euclid(1_000_000),
    );
    let nanos = i32::try_from(micros * 1_000).expect("less than a second");
    prost_types::Timestamp { seconds, nanos }
}

pub fn operation(operation: &Operation) -> proto::Operation {
    let Operation {
        command,
        outcome,
        create_time,
    } = operation;
    let paid = operation
        .entries()
        .iter()
        .find(|entry| !entry.is_credit())
        .map(|entry| &entry.balance);
    let first_asked = || {
        let source = command.source()?;
        let category = source.categories.first()?.clone();
        Some(BalanceKey {
            account_id: source.account_id.clone(),
            category,
        })
    };
    let kind = match command.kind() {
        Kind::Debit => proto::OperationKind::Debit,
        Kind::Credit => proto::OperationKind::Credit,
        Kind::Transfer => proto::OperationKind::Transfer,
        Kind::Merge => proto::OperationKind::Merge,
        Kind::Post => proto::OperationKind::Post,
        Kind::Reversal => proto::OperationKind::Reversal,
        Kind::Freeze => proto::OperationKind::Freeze,
        Kind::Unfreeze => proto::OperationKind::Unfreeze,
        Kind::Close => proto::OperationKind::Close,
        Kind::Reopen => proto::OperationKind::Reopen,
        Kind::Update => proto::OperationKind::Update,
    };
    let (state, refusal) = match outcome {
        Outcome::Posted(_) => (proto::OperationState::Posted, None),
        Outcome::Refused(refusal) => (proto::OperationState::Refused, Some(self::refusal(refusal))),
    };
    proto::Operation {
        operation_id: command.operation_id.to_string(),
        kind: kind.into(),
        state: state.into(),
        amount: command.amount().map(|amount| proto::Money {
            currency_code: command.currency.to_string(),
            minor_units: amount.minor_units(),
        }),
        source: match command.moved() {
            Intent::Merge { source, .. } => Some(all_of(source)),
            Intent::Post { .. } | Intent::Change { .. } => None,
            _ => paid
                .map(balance_ref)
                .or_else(|| first_asked().as_ref().map(balance_ref)),
        },
        destination: match command.moved() {
            Intent::Merge { destination, .. } => Some(all_of(destination)),
            Intent::Move { .. } => command.destination().map(balance_ref),
            Intent::Post { .. } | Intent::Reverse { .. } | Intent::Change { .. } => None,
        },
        source_categories: command
            .source()
            .map_or_else(Vec::new, |source| asked(&source.categories)),
        destination_owner_id: command
            .destination_owner_id()
            .map(ToString::to_string)
            .unwrap_or_default(),
        legs: command.legs().iter().map(leg).collect(),
        reversed_operation_id: command
            .reversed_operation_id()
            .map(ToString::to_string)
            .unwrap_or_default(),
        account_change: account_change(&command.intent),
        expected_version: command.conditions().expected_version,
        min_available_after_minor_units: command.conditions().min_available_after,
        description: command.note.description.clone(),
        metadata: string_map(&command.note.metadata),
        create_time: Some(timestamp(*create_time)),
        refusal,
        unreadable: String::new(),
    }
}

fn account_change(intent: &Intent) -> Option<proto::AccountChange> {
    let Intent::Change { account_id, change } = intent else {
        return None;
    };
    let mut reply = proto::AccountChange {
        account_id: account_id.to_string(),
        ..proto::AccountChange::default()
    };
    match change {
        RequestedChange::Freeze(sides) | RequestedChange::Unfreeze(sides) => {
            (reply.debits, reply.credits) = (sides.debits, sides.credits);
        }
        RequestedChange::Update {
            limits,
            allow_breach,
        } => {
            reply.limits = limits.iter().map(limit_change).collect();
            reply.allow_breach = *allow_breach;
        }
        RequestedChange::Close | RequestedChange::Reopen => {}
    }
    Some(reply)
}

fn limit_change(change: &LimitChange) -> proto::LimitChange {
    proto::LimitChange {
        category: change.category.to_string(),
        overdraft_limit_minor_units: change.overdraft_limit,
        balance_limit_minor_units: change.balance_limit.flatten(),
        no_balance_limit: change.balance_limit == Some(None),
    }
}

/// The categories that were asked; none if only main was.
fn asked(categories: &[Category]) -> Vec<String> {
    match categories {
        [main] if main.is_main() => Vec::new(),
        categories => categories.iter().map(ToString::to_string).collect(),
    }
}

fn leg(leg: &RequestedLeg) -> proto::PostingLeg {
    let balance = leg.balance.as_ref();
    let side = match leg.side {
        Side::Debits => proto::LegSide::Debit,
        Side::Credits => proto::LegSide::Credit,
    };
    proto::PostingLeg {
        side: side.into(),
        account_id: balance
            .map(|balance| balance.account_id.to_string())
            .unwrap_or_default(),
        categories: balance.map_or_else(Vec::new, |balance| asked(&balance.categories)),
        amount: Some(proto::Money {
            currency_code: leg.currency.to_string(),
            minor_units: leg.amount.minor_units(),
        }),
    }
}

/// An operation in a list; of one that cannot be read, its id and why.
pub fn listed_operation(listed: &Listed) -> proto::Operation {
    match &listed.operation {
        Ok(operation) => self::operation(operation),
        Err(UnreadableOperation {
            operation_id,
            cause,
        }) => proto::Operation {
            operation_id: operation_id.to_string(),
            unreadable: cause.clone(),
            ..proto::Operation::default()
        },
    }
}

/// The parts of a response to an operation that posted.
pub struct Posted {
    pub operation: proto::Operation,
    pub entries: Vec<proto::Entry>,
    pub balances: Vec<proto::BalanceSnapshot>,
    pub replayed: bool,
}

impl Posted {
    /// Leaves out the entries that an answer has no room for, with their balances. How many are left; `None`: all.
    pub fn cut(&mut self) -> Option<usize> {
        let sizes = self.entries.iter().zip(&self.balances);
        let sizes = sizes.map(|(entry, balance)| page::item_size(entry) + page::item_size(balance));
        let fitting = page::fitting(sizes, entries_size_max(&self.operation));
        let is_cut = fitting < self.entries.len();
        self.entries.truncate(fitting);
        self.balances.truncate(fitting);
        is_cut.then_some(fitting)
    }
}

/// A page of the entries of an operation, after the first `after`; and how many are before the next page, if there is one.
pub fn entry_page(
    operation: &proto::Operation,
    entries: Vec<proto::Entry>,
    after: usize,
) -> (Vec<proto::Entry>, Option<usize>) {
    let mut entries = entries;
    let mut rest = entries.split_off(after.min(entries.len()));
    let sizes = rest.iter().map(page::item_size);
    let fitting = page::fitting(sizes, entries_size_max(operation));
    let next = (fitting < rest.len()).then_some(after + fitting);
    rest.truncate(fitting);
    (rest, next)
}

/// What an answer with this operation has room for.
fn entries_size_max(operation: &proto::Operation) -> usize {
    page::ANSWER_SIZE_MAX.saturating_sub(page::item_size(operation))
}

pub fn posted(receipt: &Receipt) -> Posted {
    let posted = &receipt.operation;
    Posted {
        operation: operation(posted),
        entries: entries(posted),
        balances: snapshots(posted),
        replayed: receipt.replayed,
    }
}

pub fn posted_operation(receipt: &Receipt) -> proto::PostedOperation {
    let posted = &receipt.operation;
    proto::PostedOperation {
        create_time: Some(timestamp(posted.create_time)),
        balances: snapshots(posted),
        replayed: receipt.replayed,
    }
}

fn snapshots(posted: &Operation) -> Vec<proto::BalanceSnapshot> {
    let currency = posted.command.currency;
    posted
        .entries()
        .iter()
        .map(|entry| snapshot(entry, currency))
        .collect()
}

impl From<Problem> for proto::OperationError {
    fn from(problem: Problem) -> Self {
        let Problem {
            code,
            message,
            details,
        } = problem;
        let (reason, metadata) = details
            .error_info()
            .map(|info| (info.reason.clone(), info.metadata.clone()))
            .unwrap_or_default();
        let violations = details.bad_request().map(|bad| &bad.field_violations[..]);
        let violation = |violation: &tonic_types::FieldViolation| proto::FieldViolation {
            field: violation.field.clone(),
            description: violation.description.clone(),
        };
        let retry_delay = details.retry_info().and_then(|info| info.retry_delay);
        let retry_delay_ms = retry_delay.unwrap_or_default().as_millis();
        Self {
            code: code.into(),
            reason,
            message,
            metadata,
            field_violations: violations
                .unwrap_or_default()
                .iter()
                .map(violation)
                .collect(),
            retry_delay_ms: i64::try_from(retry_delay_ms).unwrap_or(i64::MAX),
        }
    }
}

pub fn entries(operation: &Operation) -> Vec<proto::Entry> {
    let operation_id = operation.command.operation_id.as_str();
    operation
        .entries()
        .iter()
        .map(|one| entry(one, operation_id, operation.create_time))
        .collect()
}

/// An entry in the statement of a balance; of one that cannot be read, which one it is and why.
pub fn listed_entry(
    balance: &BalanceKey,
    listed: &Result<EntryRecord, UnreadableEntry>,
) -> proto::Entry {
    match listed {
        Ok(record) => entry_record(record),
        Err(UnreadableEntry {
            version,
            operation_id,
            cause,
        }) => proto::Entry {
            account_id: balance.account_id.to_string(),
            category: balance.category.to_string(),
            version: *version,
            operation_id: operation_id.to_string(),
            unreadable: (*cause).to_owned(),
            ..proto::Entry::default()
        },
    }
}

fn entry_record(record: &EntryRecord) -> proto::Entry {
    entry(
        &record.entry,
        record.operation_id.as_str(),
        record.create_time,
    )
}

fn entry(entry: &Entry, operation_id: &str, create_time: Timestamp) -> proto::Entry {
    proto::Entry {
        account_id: entry.balance.account_id.to_string(),
        category: entry.balance.category.to_string(),
        version: entry.version,
        operation_id: operation_id.to_owned(),
        amount_minor_units: entry.amount,
        posted_after_minor_units: entry.posted_after,
        held_after_minor_units: entry.held_after,
        create_time: Some(timestamp(create_time)),
        unreadable: String::new(),
    }
}

fn snapshot(entry: &Entry, currency: Currency) -> proto::BalanceSnapshot {
    proto::BalanceSnapshot {
        account_id: entry.balance.account_id.to_string(),
        category: entry.balance.category.to_string(),
        currency_code: currency.to_string(),
        posted_minor_units: entry.posted_after,
        held_minor_units: entry.held_after,
        available_minor_units: entry.available_after,
        version: entry.version,
    }
}

/// All categories of an account.
fn all_of(account_id: &AccountId) -> proto::BalanceRef {
    proto::BalanceRef {
        account_id: account_id.to_string(),
        category: String::new(),
    }
}

fn balance_ref(key: &BalanceKey) -> proto::BalanceRef {
    proto::BalanceRef {
        account_id: key.account_id.to_string(),
        category: key.category.to_string(),
    }
}

fn refusal(refusal: &Refusal) -> proto::Refusal {
    proto::Refusal {
        reason: refusal.reason().to_owned(),
        message: refusal.to_string(),
        metadata: string_map(&refusal.facts()),
    }
}

fn string_map(map: &BTreeMap<String, String>) -> HashMap<String, String> {
    map.iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The most balances that an account shows. With the longest ids they have less than 800 KiB, so that a page always has
/// room for an account.
const BALANCE_COUNT_MAX: usize = 4_000;
/// An account; of one that cannot be read, its id, its owner and why.
pub fn read_account(account: &ReadAccount) -> proto::Account {
    match account {
        Ok(account) => self::account(account),
        Err(UnreadableAccount {
            account_id,
            owner_id,
            cause,
        }) => proto::Account {
            account_id: account_id.to_string(),
            owner_id: owner_id.to_string(),
            unreadable: cause.clone(),
            ..proto::Account::default()
        },
    }
}

pub fn account(account: &AccountDetails) -> proto::Account {
    let state = if account.closed {
        proto::AccountState::Closed
    } else {
        proto::AccountState::Open
    };
    proto::Account {
        account_id: account.account_id.to_string(),
        owner_id: account.owner_id.to_string(),
        currency_code: account.currency.to_string(),
        settlement: account.settlement,
        state: state.into(),
        debits_frozen: account.debits_frozen,
        credits_frozen: account.credits_frozen,
        labels: string_map(&account.labels),
        create_time: Some(timestamp(account.create_time)),
        more_balances: account.balances.len() > BALANCE_COUNT_MAX,
        balances: account
            .balances
            .iter()
            .take(BALANCE_COUNT_MAX)
            .map(|details| balance(account.account_id.as_str(), details))
            .collect(),
        unreadable: String::new(),
    }
}

pub fn balance(account_id: &str, details: &BalanceDetails) -> proto::Balance {
    let BalanceDetails {
        category,
        currency,
        balance,
    } = details;
    proto::Balance {
        account_id: account_id.to_owned(),
        category: category.to_string(),
        currency_code: currency.to_string(),
        posted_minor_units: balance.posted,
        held_minor_units: balance.held,
        available_minor_units: balance.available(),
        overdraft_limit_minor_units: balance.overdraft_limit,
        balance_limit_minor_units: balance.balance_limit,
        version: balance.version,
        // A time that no calendar has is one that somebody else set; no client can read it.
        update_time: (balance.version > 0 && balance.update_time.is_in_calendar())
            .then(|| timestamp(balance.update_time)),
    }
}

/// A balance as an entry left it; without an entry, as it began.
pub fn balance_at(
    account_id: &str,
    now: &BalanceDetails,
    then: Option<&EntryRecord>,
) -> proto::Balance {
    let mut balance = self::balance(account_id, now);
    match then {
        Some(EntryRecord {
            entry, create_time, ..
        }) => {
            balance.posted_minor_units = entry.posted_after;
            balance.held_minor_units = entry.held_after;
            balance.available_minor_units = entry.available_after;
            balance.version = entry.version;
            balance.update_time = Some(timestamp(*create_time));
        }
        None => {
            balance.posted_minor_units = 0;
            balance.held_minor_units = 0;
            balance.available_minor_units = now.balance.overdraft_limit;
            balance.version = 0;
            balance.update_time = None;
        }
    }
    balance
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(version: i64) -> proto::Entry {
        proto::Entry {
            account_id: "a".repeat(64),
            category: "c".repeat(32),
            operation_id: "o".repeat(64),
            version,
            ..proto::Entry::default()
        }
    }

    /// A merge of so many categories as no account has by default.
    #[test]
    fn the_entries_of_a_merge_come_in_pages_that_fit() {
        let entries: Vec<_> = (0..50_000).map(entry).collect();
        let operation = proto::Operation::default();
        let mut posted = Posted {
            operation: operation.clone(),
            entries: entries.clone(),
            balances: vec![proto::BalanceSnapshot::default(); entries.len()],
            replayed: false,
        };
        let mut next = posted.cut();
        assert_eq!(next, Some(posted.entries.len()));
        assert_eq!(posted.balances.len(), posted.entries.len());
        let mut read = posted.entries;
        let mut page_count = 1;
        while let Some(after) = next {
            assert_eq!(after, read.len());
            let page;
            (page, next) = entry_page(&operation, entries.clone(), after);
            let size: usize = page.iter().map(page::item_size).sum();
            assert!(size <= page::ANSWER_SIZE_MAX, "{size}");
            read.extend(page);
            page_count += 1;
        }
        assert_eq!((read == entries, page_count), (true, 3));
        assert_eq!(entry_page(&operation, entries, 60_000), (Vec::new(), None));
    }
}
