//! Accounts: the requests that open accounts and name them.

use std::collections::HashSet;

use crate::domain::AccountId;
use crate::rpc::proto;
use crate::rpc::violations::{CATEGORY_COUNT_MAX, Violations};
use crate::store::{AccountSpec, LimitSpec};

/// The most ids of one BatchGetAccounts.
const BATCH_GET_MAX: usize = 1000;
/// The largest overdraft limit, in minor units: that of an amount.
const OVERDRAFT_MAX_MINOR_UNITS: i64 = crate::domain::money::AMOUNT_MAX_MINOR_UNITS;

/// An account to open, with at most so many categories.
pub fn create_account(
    request: proto::CreateAccountRequest,
    categories_per_account_max: usize,
) -> Result<AccountSpec, Violations> {
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
    if let Some(limits) = &limits {
        let others = limits.iter().filter(|limit| !limit.category.is_main());
        let count = 1 + others.count();
        if count > categories_per_account_max {
            let rule = format!(
                "makes {count} categories with main, an account may have {categories_per_account_max}"
            );
            violations.add("limits", rule);
        }
    }
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

pub(super) fn limit_specs(
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

/// Accounts to read, each once, in the order of the request.
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
    let mut seen = HashSet::new();
    let ids = request.account_ids.iter().enumerate();
    let ids = ids
        .filter(|(_, id)| seen.insert(id.as_str()))
        .filter_map(|(index, id)| violations.account_id(&format!("account_ids[{index}]"), id))
        .collect();
    violations.check(Some(ids))
}
