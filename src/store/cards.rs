//! Cards: their rules, and what an authorization has to know.

use futures_util::future::join;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::error::StoreError;
use super::operation_row;
use super::operations::LOOKUP_OPERATIONS;
use super::requests::Requests;
use super::row;
use super::verdicts::{self, Standing};
use crate::domain::card::{Mcc, Merchant, Pattern, Rules};
use crate::domain::{AccountId, Category, Currency, Operation, OperationId, Timestamp};

/// What an authorization has to know first.
#[derive(Debug)]
pub struct CardFacts {
    /// The currency of the account; `None`: no such account.
    pub currency: Option<Currency>,
    /// The rules that apply now.
    pub rules: Rules,
    /// The operation of the id, if one is recorded.
    pub recorded: Option<Operation>,
    /// What stands about it, if anything was said.
    pub standing: Option<Standing>,
}

/// A rule as it is stored.
#[derive(Debug, Clone)]
pub struct CardRule {
    /// What it applies to.
    pub pattern: Pattern,
    /// The category that pays.
    pub category: Category,
    /// When it was set.
    pub update_time: Timestamp,
}

/// A place in the list of rules: kind and pattern.
pub type CardRulePosition = (String, String);

const MCC: &str = "MCC";
const MERCHANT: &str = "MERCHANT";

/// Kind and pattern of a rule, as they are stored.
pub fn card_rule_key(pattern: &Pattern) -> (&'static str, &str) {
    match pattern {
        Pattern::Mcc(mcc) => (MCC, mcc.as_str()),
        Pattern::Merchant(merchant) => (MERCHANT, merchant.as_str()),
    }
}

const CARD_LOOKUP: &str = include_str!("sql/card_lookup.sql");
const SET_CARD_RULE: &str = include_str!("sql/set_card_rule.sql");
const DELETE_CARD_RULE: &str = include_str!("sql/delete_card_rule.sql");
const LIST_CARD_RULES: &str = include_str!("sql/list_card_rules.sql");
const REFOLD_CARD_RULE: &str = include_str!("sql/refold_card_rule.sql");

/// The statements about cards by name, for a look at their plans.
pub const CARD_STATEMENTS: [(&str, &str); 14] = [
    ("card_lookup", CARD_LOOKUP),
    ("give_card_verdict", verdicts::GIVE_CARD_VERDICT),
    ("settle_card_verdict", verdicts::SETTLE_CARD_VERDICT),
    ("refuse_card_verdict", verdicts::REFUSE_CARD_VERDICT),
    ("take_due_verdicts", verdicts::TAKE_DUE_VERDICTS),
    ("list_unsettled_payments", verdicts::LIST_UNSETTLED_PAYMENTS),
    (
        "count_unsettled_payments",
        verdicts::COUNT_UNSETTLED_PAYMENTS,
    ),
    ("get_card_verdict", verdicts::GET_CARD_VERDICT),
    ("begin_settlement", verdicts::BEGIN_SETTLEMENT),
    ("end_settlement", verdicts::END_SETTLEMENT),
    ("set_card_rule", SET_CARD_RULE),
    ("delete_card_rule", DELETE_CARD_RULE),
    ("list_card_rules", LIST_CARD_RULES),
    ("refold_card_rule", REFOLD_CARD_RULE),
];

impl Requests {
    /// What an authorization has to know first, in one round trip.
    pub async fn card_facts(
        &self,
        operation_id: OperationId,
        account_id: AccountId,
        mcc: Mcc,
        merchant: Merchant,
    ) -> Result<CardFacts, StoreError> {
        self.request(move |client| async move {
            let look_up = client.prepare_cached(LOOKUP_OPERATIONS).await?;
            let facts = client.prepare_cached(CARD_LOOKUP).await?;
            let operation_ids = [operation_id.as_str()];
            let keys: [&(dyn ToSql + Sync); 4] = [
                &account_id.as_str(),
                &merchant.as_str(),
                &mcc.as_str(),
                &operation_id.as_str(),
            ];
            // The verdict comes second: about an operation that was seen, it has whatever was said before.
            let (known, facts) = join(
                client.query(&look_up, &[&&operation_ids[..]]),
                client.query_one(&facts, &keys),
            )
            .await;
            let (known, facts) = (known?, facts?);
            let category = |column| {
                let category: Option<&str> = facts.get(column);
                category.map(Category::from_stored)
            };
            let currency: Option<&str> = facts.get("currency_code");
            let verdict: Option<&str> = facts.get("verdict");
            Ok(CardFacts {
                currency: match currency {
                    Some(_) => Some(row::currency(&facts)?),
                    None => None,
                },
                rules: Rules {
                    merchant: category("merchant_category"),
                    mcc: category("mcc_category"),
                },
                recorded: known.first().map(operation_row::operation).transpose()?,
                standing: match verdict {
                    Some(_) => Some(verdicts::standing(&facts)?),
                    None => None,
                },
            })
        })
        .await
    }

    /// Sets the rule of a pattern.
    pub async fn set_card_rule(
        &self,
        pattern: Pattern,
        category: Category,
    ) -> Result<CardRule, StoreError> {
        self.write(move |client, writes| async move {
            let (kind, text) = card_rule_key(&pattern);
            let params: [&(dyn ToSql + Sync); 3] = [&kind, &text, &category.as_str()];
            card_rule(&writes.run_one(&client, SET_CARD_RULE, &params).await?)
        })
        .await
    }

    /// Removes the rule of a pattern; false if there was none.
    pub async fn delete_card_rule(&self, pattern: Pattern) -> Result<bool, StoreError> {
        self.write(move |client, writes| async move {
            let (kind, text) = card_rule_key(&pattern);
            let params: [&(dyn ToSql + Sync); 2] = [&kind, &text];
            let deleted = writes.run(&client, DELETE_CARD_RULE, &params).await?;
            Ok(!deleted.is_empty())
        })
        .await
    }

    /// At most `limit` rules after a position.
    pub async fn list_card_rules(
        &self,
        after: Option<CardRulePosition>,
        limit: i64,
    ) -> Result<Vec<CardRule>, StoreError> {
        self.request(move |client| async move {
            let statement = client.prepare_cached(LIST_CARD_RULES).await?;
            let (kind, pattern) = after.unwrap_or_default();
            let rows = client.query(&statement, &[&kind, &pattern, &limit]).await?;
            rows.iter().map(card_rule).collect()
        })
        .await
    }
}

/// How many rules are looked at in one go.
const REFOLD_PAGE_SIZE: i64 = 1000;

/// Brings the merchants of all rules into the form in which this version compares names; returns how many were not in it. Any
/// number of instances may do so at once, and rules may be set meanwhile.
pub(super) async fn refold_card_rules(
    client: &tokio_postgres::Client,
) -> Result<usize, StoreError> {
    let mut after = String::new();
    let mut count = 0;
    loop {
        let params: [&(dyn ToSql + Sync); 3] = [&MERCHANT, &after, &REFOLD_PAGE_SIZE];
        let rows = client.query(LIST_CARD_RULES, &params).await?;
        let Some(last) = rows.last() else {
            return Ok(count);
        };
        after = last.get("pattern");
        for row in &rows {
            let stored: &str = row.get("pattern");
            match Merchant::of_rule(stored) {
                Ok(merchant) if merchant.as_str() != stored => {
                    let params: [&(dyn ToSql + Sync); 2] = [&stored, &merchant.as_str()];
                    client.execute(REFOLD_CARD_RULE, &params).await?;
                    count += 1;
                }
                Ok(_) => {}
                // No payment can have such a name, so it applies to nothing, as before.
                Err(error) => tracing::warn!(%error, "a rule of a merchant applies to no payment"),
            }
        }
    }
}

/// What is wrong with the row of a rule: it cannot be read, or no payment is ever compared with its pattern.
pub(super) fn rule_fault(row: &Row) -> Option<String> {
    let (kind, text): (&str, &str) = (row.get("kind"), row.get("pattern"));
    let pattern = match kind {
        MCC => Mcc::of_rule(text).map(Pattern::Mcc),
        MERCHANT => Merchant::of_rule(text).map(Pattern::Merchant),
        other => return Some(format!("card rule {text:?}: its kind {other} is unknown")),
    };
    let fault = match pattern {
        Err(error) => error.to_string(),
        Ok(pattern) if card_rule_key(&pattern).1 != text => {
            "it never applies, payments are compared in another form".to_owned()
        }
        Ok(_) if Category::parse(row.get("category")).is_err() => {
            "its category breaks the rule of categories".to_owned()
        }
        Ok(_) if !row::time(row, "update_time").is_in_calendar() => {
            "its time is not one".to_owned()
        }
        Ok(_) => return None,
    };
    Some(format!("card rule {kind} {text:?}: {fault}"))
}

fn card_rule(row: &Row) -> Result<CardRule, StoreError> {
    let text: &str = row.get("pattern");
    let pattern = match row.get("kind") {
        MCC => Mcc::of_rule(text).map(Pattern::Mcc),
        _ => Ok(Pattern::Merchant(Merchant::from_stored(text))),
    };
    Ok(CardRule {
        pattern: pattern
            .map_err(|error| StoreError::Corrupt(format!("card rule {text}: {error}")))?,
        category: Category::from_stored(row.get("category")),
        update_time: row::time(row, "update_time"),
    })
}
