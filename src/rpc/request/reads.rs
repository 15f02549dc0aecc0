//! Reads: the requests for balances, operations and entries, and for pages of them.

use super::balance_key;
use crate::domain::{AccountId, BalanceKey, OperationId, OwnerId, Timestamp};
use crate::rpc::page::List;
use crate::rpc::proto::{self, list_operations_request::Filter};
use crate::rpc::violations::Violations;
use crate::store::{HistoryPosition, PageOrder};

/// A page of a list.
#[derive(Debug)]
pub struct Page<F, P> {
    /// What is listed.
    pub filter: F,
    /// How many items.
    pub size: i64,
    /// After which item; `None`: from the start.
    pub after: Option<P>,
}

fn page<F, P>(
    filter: Option<F>,
    size: Option<i64>,
    after: Option<Option<P>>,
) -> Option<Page<F, P>> {
    filter
        .zip(size)
        .zip(after)
        .map(|((filter, size), after)| Page {
            filter,
            size,
            after,
        })
}

/// The accounts of an owner.
pub fn list_accounts(
    request: &proto::ListAccountsRequest,
) -> Result<Page<OwnerId, AccountId>, Violations> {
    let mut violations = Violations::default();
    let owner_id = violations.owner_id("owner_id", &request.owner_id);
    let size = violations.page_size(request.page_size);
    let list = List(&["accounts", &request.owner_id]);
    let after = violations.page_token(&request.page_token, &list, |position| {
        AccountId::parse(position).ok()
    });
    violations.check(page(owner_id, size, after))
}

/// A balance to read, and the time to look back to.
pub fn get_balance(
    request: &proto::GetBalanceRequest,
) -> Result<(BalanceKey, Option<Timestamp>), Violations> {
    let mut violations = Violations::default();
    let key = balance_key(&mut violations, &request.account_id, &request.category);
    let at_time = match &request.at_time {
        None => Some(None),
        Some(time) => violations.note("at_time", timestamp(time)).map(Some),
    };
    violations.check(key.zip(at_time))
}

/// Seconds of 0001-01-01 and of 9999-12-31T23:59:59Z: the range of google.protobuf.Timestamp.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

fn timestamp(time: &prost_types::Timestamp) -> Result<Timestamp, &'static str> {
    if !TIMESTAMP_SECONDS.contains(&time.seconds) || !(0..1_000_000_000).contains(&time.nanos) {
        return Err("is not a valid google.protobuf.Timestamp");
    }
    Ok(Timestamp::from_micros(
        time.seconds * 1_000_000 + i64::from(time.nanos / 1_000),
    ))
}

/// An operation to read, and after how many of its entries.
pub fn get_operation(
    request: &proto::GetOperationRequest,
) -> Result<(OperationId, usize), Violations> {
    let mut violations = Violations::default();
    let operation_id = violations.note("operation_id", OperationId::parse(&request.operation_id));
    let after = operation_entries(&request.operation_id, |list| {
        violations.page_token(&request.page_token, list, |position| position.parse().ok())
    });
    violations.check(operation_id.zip(after.map(Option::unwrap_or_default)))
}

/// The token that continues the entries of an operation after so many.
pub fn operation_entries_token(operation_id: &str, count: usize) -> String {
    operation_entries(operation_id, |list| list.token(&count.to_string()))
}

/// Hands the list of an operation's entries to `then`.
fn operation_entries<T>(operation_id: &str, then: impl FnOnce(&List<'_>) -> T) -> T {
    then(&List(&["operation entries", operation_id]))
}

/// Whose operations are listed.
#[derive(Debug, Clone)]
pub enum HistoryFilter {
    /// Those of an account.
    Account(AccountId),
    /// Those of all accounts of an owner.
    Owner(OwnerId),
}

/// A page of a history, and the direction of its operations.
pub type HistoryPage = Page<(HistoryFilter, proto::Direction), HistoryPosition>;

/// The operations of an account or an owner.
pub fn list_operations(request: &proto::ListOperationsRequest) -> Result<HistoryPage, Violations> {
    let mut violations = Violations::default();
    let filter = match &request.filter {
        Some(Filter::AccountId(id)) => violations
            .account_id("account_id", id)
            .map(HistoryFilter::Account),
        Some(Filter::OwnerId(id)) => violations
            .owner_id("owner_id", id)
            .map(HistoryFilter::Owner),
        None => {
            violations.add("filter", "is required: account_id or owner_id");
            None
        }
    };
    let direction = proto::Direction::try_from(request.direction);
    let direction = violations.note(
        "direction",
        direction.map_err(|_| "is not a known Direction"),
    );
    let size = violations.page_size(request.page_size);
    let filter = filter.zip(direction);
    let after = match &filter {
        Some((filter, direction)) => history_list(filter, *direction, |list| {
            violations.page_token(&request.page_token, list, history_position)
        }),
        None => None,
    };
    violations.check(page(filter, size, after))
}

/// Hands the list of a history to `then`.
pub fn history_list<T>(
    filter: &HistoryFilter,
    direction: proto::Direction,
    then: impl FnOnce(&List<'_>) -> T,
) -> T {
    let (kind, id) = match filter {
        HistoryFilter::Account(id) => ("account", id.as_str()),
        HistoryFilter::Owner(id) => ("owner", id.as_str()),
    };
    then(&List(&["operations", kind, id, direction.as_str_name()]))
}

/// The text of a position in a history, for its token.
pub fn history_position_text(position: &HistoryPosition) -> String {
    format!(
        "{},{}",
        position.create_time.micros(),
        position.operation_id
    )
}

fn history_position(text: &str) -> Option<HistoryPosition> {
    let (micros, operation_id) = text.split_once(',')?;
    let micros: i64 = micros.parse().ok()?;
    let create_time = Timestamp::from_micros(micros);
    HistoryPosition::can_be_at(create_time).then_some(())?;
    Some(HistoryPosition {
        create_time,
        operation_id: OperationId::parse(operation_id).ok()?.to_string(),
    })
}

/// A page of entries and their order.
pub type EntryPage = Page<(BalanceKey, PageOrder), i64>;

/// The entries of a balance.
pub fn list_entries(request: &proto::ListEntriesRequest) -> Result<EntryPage, Violations> {
    let mut violations = Violations::default();
    let key = balance_key(&mut violations, &request.account_id, &request.category);
    let order = if request.oldest_first {
        PageOrder::OldestFirst
    } else {
        PageOrder::NewestFirst
    };
    let size = violations.page_size(request.page_size);
    let after = match &key {
        Some(key) => entry_list(key, order, |list| {
            violations.page_token(&request.page_token, list, |position| position.parse().ok())
        }),
        None => None,
    };
    violations.check(page(key.map(|key| (key, order)), size, after))
}

/// Hands the list of a balance's entries to `then`.
pub fn entry_list<T>(key: &BalanceKey, order: PageOrder, then: impl FnOnce(&List<'_>) -> T) -> T {
    let order = match order {
        PageOrder::NewestFirst => "newest first",
        PageOrder::OldestFirst => "oldest first",
    };
    then(&List(&[
        "entries",
        key.account_id.as_str(),
        key.category.as_str(),
        order,
    ]))
}
