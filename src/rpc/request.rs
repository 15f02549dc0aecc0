//! Requests: proto in, valid values out. All violations of a request are found before any is reported.

use std::collections::HashMap;

use super::page::List;
use super::proto::{self, list_operations_request::Filter, transfer_request::Destination};
use super::violations::{CATEGORY_COUNT_MAX, Violations};
use crate::domain::{
    AccountId, Amount, BalanceKey, Category, Command, Currency, Note, OperationId, OwnerId, Source,
    Timestamp,
};
use crate::store::{AccountSpec, HistoryPosition, LimitSpec, PageOrder};

/// The most ids of one BatchGetAccounts.
const BATCH_GET_MAX: usize = 1000;
/// The largest overdraft limit, in minor units: that of an amount.
const OVERDRAFT_MAX_MINOR_UNITS: i64 = crate::domain::money::AMOUNT_MAX_MINOR_UNITS;

/// What all requests that move money have in common.
#[derive(Debug)]
struct Head {
    operation_id: OperationId,
    amount: Amount,
    currency: Currency,
    note: Note,
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
        })
    }

    fn command(self, movement: crate::domain::Movement) -> Command {
        let Self {
            operation_id,
            amount,
            currency,
            note,
        } = self;
        Command {
            operation_id,
            movement,
            amount: Some(amount),
            currency,
            note,
        }
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
    let source = account_id
        .zip(categories)
        .map(|(account_id, categories)| Source {
            account_id,
            categories,
        });
    let command = head
        .zip(source)
        .map(|(head, source)| head.command(crate::domain::Movement::Debit { source }));
    violations.check(command.zip(owner_id))
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
    } = request;
    let head = Head::parse(
        &mut violations,
        &operation_id,
        amount.as_ref(),
        description,
        metadata,
    );
    let destination = balance_key(&mut violations, &account_id, &category);
    let credit = |(head, destination): (Head, _)| {
        head.command(crate::domain::Movement::Credit { destination })
    };
    let command = head.zip(destination).map(credit);
    violations.check(command)
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
    violations.check(parsed.map(
        |((head, (source, source_owner_id)), (category, destination))| Transfer {
            head,
            source,
            category,
            source_owner_id,
            destination,
        },
    ))
}

/// A merge whose currency is not known yet: it is that of the source.
#[derive(Debug)]
pub struct Merge {
    operation_id: OperationId,
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
            movement: crate::domain::Movement::Merge {
                source,
                destination,
            },
            amount: None,
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
    } = request;
    let operation_id = violations.note("operation_id", OperationId::parse(&operation_id));
    let source = violations.account_id("source_account_id", &source_account_id);
    let destination = violations.account_id("destination_account_id", &destination_account_id);
    if source.is_some() && source == destination {
        let rule = format!("is the source, {source_account_id}, too; name another account");
        violations.add("destination_account_id", rule);
    }
    violations.text("description", &description);
    let note = Note {
        description,
        metadata: violations.map("metadata", metadata),
    };
    let parsed = operation_id.zip(source.zip(destination));
    violations.check(parsed.map(|(operation_id, (source, destination))| Merge {
        operation_id,
        note,
        source,
        destination,
    }))
}

fn balance_key(
    violations: &mut Violations,
    account_id: &str,
    category: &str,
) -> Option<BalanceKey> {
    let account_id = violations.account_id("account_id", account_id);
    let category = violations.category("category", category);
    account_id
        .zip(category)
        .map(|(account_id, category)| BalanceKey {
            account_id,
            category,
        })
}

/// The most members of one ExecuteBatch: what one hot account executes in about a second.
const BATCH_MEMBER_COUNT_MAX: usize = 10_000;

/// The members of a batch, each still to be parsed.
pub fn execute_batch(
    request: proto::ExecuteBatchRequest,
) -> Result<Vec<proto::OperationRequest>, Violations> {
    let count = request.operations.len();
    if !(1..=BATCH_MEMBER_COUNT_MAX).contains(&count) {
        let rule = format!("has {count} operations, must have from 1 to {BATCH_MEMBER_COUNT_MAX}");
        return Err(Violations::one("operations", rule));
    }
    Ok(request.operations)
}

/// An account to open.
pub fn create_account(request: proto::CreateAccountRequest) -> Result<AccountSpec, Violations> {
    let mut violations = Violations::default();
    let proto::CreateAccountRequest {
        account_id,
        owner_id,
        currency_code,
        settlement,
        labels,
        limits,
    } = request;
    let account_id = violations.account_id("account_id", &account_id);
    let owner_id = violations.owner_id("owner_id", &owner_id);
    let currency = violations.currency("currency_code", &currency_code);
    let labels = violations.map("labels", labels);
    let limits = limit_specs(&mut violations, &limits);
    let parsed = account_id.zip(owner_id).zip(currency.zip(limits));
    violations.check(
        parsed.map(|((account_id, owner_id), (currency, limits))| AccountSpec {
            account_id,
            owner_id,
            currency,
            settlement,
            labels,
            limits,
        }),
    )
}

fn limit_specs(
    violations: &mut Violations,
    limits: &[proto::BalanceLimits],
) -> Option<Vec<LimitSpec>> {
    if limits.len() > CATEGORY_COUNT_MAX {
        violations.add(
            "limits",
            format!(
                "has {} items, at most {CATEGORY_COUNT_MAX} are allowed",
                limits.len()
            ),
        );
        return None;
    }
    let mut specs: Vec<LimitSpec> = Vec::with_capacity(limits.len());
    for (index, limit) in limits.iter().enumerate() {
        let field = format!("limits[{index}]");
        let category = violations.category(&format!("{field}.category"), &limit.category);
        let (overdraft_limit, balance_limit) = (
            limit.overdraft_limit_minor_units,
            limit.balance_limit_minor_units,
        );
        if !(0..=OVERDRAFT_MAX_MINOR_UNITS).contains(&overdraft_limit) {
            let rule =
                format!("is {overdraft_limit}, must be from 0 to {OVERDRAFT_MAX_MINOR_UNITS}");
            violations.add(format!("{field}.overdraft_limit_minor_units"), rule);
        }
        if let Some(negative @ ..0) = balance_limit {
            let rule = format!("is {negative}, must be 0 or more");
            violations.add(format!("{field}.balance_limit_minor_units"), rule);
        }
        if let Some(category) = category {
            if specs.iter().any(|spec| spec.category == category) {
                violations.add(
                    format!("{field}.category"),
                    format!("repeats {category}, each category may be named once"),
                );
            }
            specs.push(LimitSpec {
                category,
                overdraft_limit,
                balance_limit,
            });
        }
    }
    Some(specs)
}

/// An account to read.
pub fn get_account(request: &proto::GetAccountRequest) -> Result<AccountId, Violations> {
    let mut violations = Violations::default();
    let account_id = violations.account_id("account_id", &request.account_id);
    violations.check(account_id)
}

/// Accounts to read.
pub fn batch_get_accounts(
    request: &proto::BatchGetAccountsRequest,
) -> Result<Vec<AccountId>, Violations> {
    let mut violations = Violations::default();
    let count = request.account_ids.len();
    if !(1..=BATCH_GET_MAX).contains(&count) {
        violations.add(
            "account_ids",
            format!("has {count} ids, must have from 1 to {BATCH_GET_MAX}"),
        );
        return Err(violations);
    }
    let ids = request.account_ids.iter().enumerate();
    let ids = ids
        .filter_map(|(index, id)| violations.account_id(&format!("account_ids[{index}]"), id))
        .collect();
    violations.check(Some(ids))
}

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

/// An operation to read.
pub fn get_operation(request: &proto::GetOperationRequest) -> Result<OperationId, Violations> {
    let mut violations = Violations::default();
    let operation_id = violations.note("operation_id", OperationId::parse(&request.operation_id));
    violations.check(operation_id)
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
    TIMESTAMP_SECONDS
        .contains(&micros.div_euclid(1_000_000))
        .then_some(())?;
    let create_time = Timestamp::from_micros(micros);
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
