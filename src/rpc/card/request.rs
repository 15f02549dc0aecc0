//! Requests of CardService: proto in, valid values out.

use super::super::page::List;
use super::super::proto;
use super::super::request::Page;
use super::super::violations::Violations;
use super::authorizer::{Asked, AskedAmount, Total};
use super::settlements::AskedSettlement;
use crate::domain::card::{Mcc, Merchant, Pattern, SettlementMethod};
use crate::domain::money::AMOUNT_MAX_MINOR_UNITS;
use crate::domain::{AccountId, Amount, Category, OperationId, Timestamp};
use crate::store::{CardRulePosition, UnsettledPayment, UnsettledPosition};

/// What two kinds of requests, that of gRPC and that of the JSON endpoint, say in the same words. `None`: it broke a rule of its
/// own, and that is noted.
pub(in crate::rpc) struct Words<'a> {
    pub(in crate::rpc) operation_id: (&'static str, Option<&'a str>),
    pub(in crate::rpc) account_id: (&'static str, Option<&'a str>),
    pub(in crate::rpc) mcc: Option<&'a str>,
    pub(in crate::rpc) merchant: Option<&'a str>,
}

/// A payment to authorize, from its words and its total.
pub(in crate::rpc) fn asked(
    mut violations: Violations,
    words: &Words<'_>,
    total: Option<Total>,
) -> Result<Asked, Violations> {
    let (field, text) = words.operation_id;
    let operation_id = text.and_then(|text| violations.new_operation_id(field, text));
    let (field, text) = words.account_id;
    let account_id: Option<AccountId> = text.and_then(|text| violations.account_id(field, text));
    let mcc = words
        .mcc
        .and_then(|text| violations.note("mcc", Mcc::of_payment(text)));
    let merchant = words
        .merchant
        .and_then(|text| violations.note("merchant", Merchant::of_payment(text)));
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
            let amount = match money.minor_units {
                0 => Some(None),
                minor_units => violations
                    .note(
                        "total_amount.minor_units",
                        Amount::new(minor_units).map_err(|_| {
                            format!(
                                "is {minor_units}, must be from 0 (verifies the account) to \
                                 {AMOUNT_MAX_MINOR_UNITS} minor units"
                            )
                        }),
                    )
                    .map(Some),
            };
            let currency = violations.currency("total_amount.currency_code", &money.currency_code);
            amount.zip(currency).map(|(amount, currency)| match amount {
                Some(amount) => Total::Amount(AskedAmount::Money(amount, currency)),
                None => Total::Nothing(Some(currency)),
            })
        }
    };
    let words = Words {
        operation_id: ("operation_id", Some(&request.operation_id)),
        account_id: ("account_id", Some(&request.account_id)),
        mcc: Some(&request.mcc),
        merchant: Some(&request.merchant),
    };
    asked(violations, &words, total)
}

/// A payment to settle.
pub(super) fn settle_payment(
    request: &proto::SettlePaymentRequest,
) -> Result<AskedSettlement, Violations> {
    let mut violations = Violations::default();
    let operation_id = violations.new_operation_id("operation_id", &request.operation_id);
    let payment_id = OperationId::parse(&request.payment_operation_id);
    let payment_id = violations.note("payment_operation_id", payment_id);
    let method = match request.method() {
        proto::SettlementMethod::Credit => Some(SettlementMethod::Credit),
        proto::SettlementMethod::Other => Some(SettlementMethod::Other),
        proto::SettlementMethod::Unspecified => {
            let rule = "is required: SETTLEMENT_METHOD_CREDIT or SETTLEMENT_METHOD_OTHER";
            violations.add("method", rule);
            None
        }
    };
    let account_id = match request.account_id.as_str() {
        "" => Some(None),
        text => violations.account_id("account_id", text).map(Some),
    };
    let category = match request.category.as_str() {
        "" => Some(None),
        text => violations.note("category", Category::parse(text)).map(Some),
    };
    violations.text("note", &request.note);
    if method == Some(SettlementMethod::Other) {
        let named = [
            ("account_id", !request.account_id.is_empty()),
            ("category", !request.category.is_empty()),
        ];
        for (field, _) in named.into_iter().filter(|(_, is_named)| *is_named) {
            violations.add(field, "must be empty, nothing is credited by this method");
        }
        if request.note.trim().is_empty() {
            violations.add("note", "is required: how the payment was settled");
        }
    }
    let parsed = operation_id.zip(payment_id).zip(method);
    let parsed = parsed.zip(account_id.zip(category));
    violations.check(parsed.map(
        |(((operation_id, payment_id), method), (account_id, category))| AskedSettlement {
            operation_id,
            payment_id,
            method,
            account_id,
            category,
            note: request.note.clone(),
        },
    ))
}

/// The list of unsettled payments, for its tokens.
const UNSETTLED: List<'static> = List(&["unsettled payments"]);

/// The token that goes on after a payment.
pub(super) fn unsettled_token(last: &UnsettledPayment) -> String {
    let (micros, operation_id) = (last.refuse_time.micros(), &last.operation_id);
    UNSETTLED.token(&format!("{micros},{operation_id}"))
}

/// A page of the unsettled payments.
pub(super) fn list_unsettled_payments(
    request: &proto::ListUnsettledPaymentsRequest,
) -> Result<Page<(), UnsettledPosition>, Violations> {
    let mut violations = Violations::default();
    let size = violations.page_size(request.page_size);
    let position = |text: &str| {
        let (micros, operation_id) = text.split_once(',')?;
        let micros = micros.parse().ok()?;
        Some((Timestamp::from_micros(micros), operation_id.to_owned()))
    };
    let after = violations.page_token(&request.page_token, &UNSETTLED, position);
    violations.check(size.zip(after).map(|(size, after)| Page {
        filter: (),
        size,
        after,
    }))
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
