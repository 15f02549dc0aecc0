//! Requests of CardService: proto in, valid values out.

use super::super::page::List;
use super::super::proto;
use super::super::request::Page;
use super::super::violations::Violations;
use super::authorizer::{Asked, Total};
use crate::domain::card::{self, Mcc, Merchant, Pattern};
use crate::domain::{AccountId, Amount, Category, OperationId};
use crate::store::CardRulePosition;

/// What two kinds of requests, that of gRPC and that of the JSON door, say in the same words.
pub(in crate::rpc) struct Words<'a> {
    pub(in crate::rpc) operation_id: (&'static str, &'a str),
    pub(in crate::rpc) account_id: (&'static str, &'a str),
    pub(in crate::rpc) mcc: &'a str,
    pub(in crate::rpc) merchant: &'a str,
}

/// A payment to authorize, from its words and its total.
pub(in crate::rpc) fn asked(
    mut violations: Violations,
    words: &Words<'_>,
    total: Option<Total>,
) -> Result<Asked, Violations> {
    let (field, text) = words.operation_id;
    let operation_id = violations.note(field, OperationId::parse(text));
    if operation_id.as_ref().is_some_and(card::is_reversal_id) {
        violations.add(field, "ends with :reversal, which is kept for reversals");
    }
    let (field, text) = words.account_id;
    let account_id: Option<AccountId> = violations.account_id(field, text);
    let mcc = violations.note("mcc", Mcc::of_payment(words.mcc));
    let merchant = violations.note("merchant", Merchant::of_payment(words.merchant));
    let parsed = operation_id
        .zip(account_id)
        .zip(total)
        .zip(mcc.zip(merchant));
    violations.check(parsed.map(
        |(((operation_id, account_id), total), (mcc, merchant))| Asked {
            operation_id,
            account_id,
            total,
            mcc,
            merchant,
        },
    ))
}

/// A payment to authorize.
pub(super) fn authorize_payment(
    request: &proto::AuthorizePaymentRequest,
) -> Result<Asked, Violations> {
    let mut violations = Violations::default();
    let total = match &request.total_amount {
        None => {
            violations.add("total_amount", "is required");
            None
        }
        Some(money) => {
            let amount = Amount::new(money.minor_units);
            let amount = violations.note("total_amount.minor_units", amount);
            let currency = violations.currency("total_amount.currency_code", &money.currency_code);
            amount
                .zip(currency)
                .map(|(amount, currency)| Total::Money(amount, currency))
        }
    };
    let words = Words {
        operation_id: ("operation_id", &request.operation_id),
        account_id: ("account_id", &request.account_id),
        mcc: &request.mcc,
        merchant: &request.merchant,
    };
    asked(violations, &words, total)
}

/// The rule of a code, to set.
pub(super) fn set_mcc_rule(
    request: &proto::SetMccRuleRequest,
) -> Result<(Pattern, Category), Violations> {
    let mut violations = Violations::default();
    let mcc = violations.note("mcc", Mcc::of_rule(&request.mcc));
    let category = violations.note("category", Category::parse(&request.category));
    violations.check(mcc.map(Pattern::Mcc).zip(category))
}

/// The rule of a code, to remove.
pub(super) fn delete_mcc_rule(
    request: &proto::DeleteMccRuleRequest,
) -> Result<Pattern, Violations> {
    let mut violations = Violations::default();
    let mcc = violations.note("mcc", Mcc::of_rule(&request.mcc));
    violations.check(mcc.map(Pattern::Mcc))
}

/// The rule of a merchant, to set.
pub(super) fn set_merchant_rule(
    request: &proto::SetMerchantRuleRequest,
) -> Result<(Pattern, Category), Violations> {
    let mut violations = Violations::default();
    let merchant = violations.note("merchant", Merchant::of_rule(&request.merchant));
    let category = violations.note("category", Category::parse(&request.category));
    violations.check(merchant.map(Pattern::Merchant).zip(category))
}

/// The rule of a merchant, to remove.
pub(super) fn delete_merchant_rule(
    request: &proto::DeleteMerchantRuleRequest,
) -> Result<Pattern, Violations> {
    let mut violations = Violations::default();
    let merchant = violations.note("merchant", Merchant::of_rule(&request.merchant));
    violations.check(merchant.map(Pattern::Merchant))
}

/// The list of rules, for its tokens.
pub(super) const RULES: List<'static> = List(&["card rules"]);

/// A page of the rules.
pub(super) fn list_rules(
    request: &proto::ListRulesRequest,
) -> Result<Page<(), CardRulePosition>, Violations> {
    let mut violations = Violations::default();
    let size = violations.page_size(request.page_size);
    let position = |text: &str| {
        let (kind, pattern) = text.split_once(',')?;
        Some((kind.to_owned(), pattern.to_owned()))
    };
    let after = violations.page_token(&request.page_token, &RULES, position);
    violations.check(size.zip(after).map(|(size, after)| Page {
        filter: (),
        size,
        after,
    }))
}
