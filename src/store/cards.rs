//! Cards: their rules, and the verdicts about payments that two callers might disagree on.

use futures_util::future::join;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::error::StoreError;
use super::requests::Requests;
use super::row;
use crate::domain::card::{Attempt, Mcc, Merchant, Pattern, Rules};
use crate::domain::{AccountId, Category, Currency, Operation, OperationId, Timestamp};

/// What stands about a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardVerdict {
    /// A retry was approved on it.
    Kept,
    /// Its own caller was answered 07; it is given back.
    Reversed,
}

impl CardVerdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "KEPT",
            Self::Reversed => "REVERSED",
        }
    }

    fn from_stored(text: &str) -> Result<Self, StoreError> {
        [Self::Kept, Self::Reversed]
            .into_iter()
            .find(|verdict| verdict.as_str() == text)
            .ok_or_else(|| StoreError::Corrupt(format!("verdict {text}")))
    }
}

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
    pub verdict: Option<CardVerdict>,
}

/// A payment whose reversal is not done, or not known to be needless.
#[derive(Debug, Clone)]
pub struct UnsettledVerdict {
    /// The payment.
    pub operation_id: OperationId,
    /// The attempt whose caller was answered 07.
    pub attempt: Attempt,
    /// So old that a payment that is not there will never be.
    pub is_hopeless: bool,
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

const LOOKUP_OPERATIONS: &str = include_str!("sql/lookup_operations.sql");
const CARD_LOOKUP: &str = include_str!("sql/card_lookup.sql");
const GIVE_CARD_VERDICT: &str = include_str!("sql/give_card_verdict.sql");
const SETTLE_CARD_VERDICT: &str = include_str!("sql/settle_card_verdict.sql");
const LIST_UNSETTLED_VERDICTS: &str = include_str!("sql/list_unsettled_verdicts.sql");
const SET_CARD_RULE: &str = include_str!("sql/set_card_rule.sql");
const DELETE_CARD_RULE: &str = include_str!("sql/delete_card_rule.sql");
const LIST_CARD_RULES: &str = include_str!("sql/list_card_rules.sql");

/// The statements about cards by name, for a look at their plans.
pub const CARD_STATEMENTS: [(&str, &str); 7] = [
    ("card_lookup", CARD_LOOKUP),
    ("give_card_verdict", GIVE_CARD_VERDICT),
    ("settle_card_verdict", SETTLE_CARD_VERDICT),
    ("list_unsettled_verdicts", LIST_UNSETTLED_VERDICTS),
    ("set_card_rule", SET_CARD_RULE),
    ("delete_card_rule", DELETE_CARD_RULE),
    ("list_card_rules", LIST_CARD_RULES),
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
                recorded: known.first().map(row::operation).transpose()?,
                verdict: verdict.map(CardVerdict::from_stored).transpose()?,
            })
        })
        .await
    }

    /// Gives a verdict about a payment, unless there is one; returns the one that stands. Durable when it returns.
    pub async fn give_card_verdict(
        &self,
        operation_id: OperationId,
        attempt: Attempt,
        verdict: CardVerdict,
    ) -> Result<CardVerdict, StoreError> {
        self.write(move |client, writes| async move {
            let params: [&(dyn ToSql + Sync); 3] =
                [&operation_id.as_str(), &attempt.as_str(), &verdict.as_str()];
            let row = writes.run_one(&client, GIVE_CARD_VERDICT, &params).await?;
            CardVerdict::from_stored(row.get("verdict"))
        })
        .await
    }

    /// Notes that nothing is left to be done about a payment that was answered 07.
    pub async fn settle_card_verdict(
        &self,
        operation_id: OperationId,
        attempt: Attempt,
    ) -> Result<(), StoreError> {
        self.write(move |client, writes| async move {
            let params: [&(dyn ToSql + Sync); 2] = [&operation_id.as_str(), &attempt.as_str()];
            writes.run(&client, SETTLE_CARD_VERDICT, &params).await?;
            Ok(())
        })
        .await
    }

    /// At most `limit` verdicts older than `age` that are not settled. Beyond `age_hopeless`, a payment that is not there
    /// will never be. Ages are intervals as PostgreSQL reads them.
    pub async fn unsettled_card_verdicts(
        &self,
        age: &'static str,
        age_hopeless: &'static str,
        limit: i64,
    ) -> Result<Vec<UnsettledVerdict>, StoreError> {
        self.request(move |client| async move {
            let statement = client.prepare_cached(LIST_UNSETTLED_VERDICTS).await?;
            let rows = client
                .query(&statement, &[&age, &age_hopeless, &limit])
                .await?;
            Ok(rows
                .iter()
                .map(|row| UnsettledVerdict {
                    operation_id: OperationId::from_stored(row.get("operation_id")),
                    attempt: Attempt::from_stored(row.get("attempt")),
                    is_hopeless: row.get("is_hopeless"),
                })
                .collect())
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

fn card_rule(row: &Row) -> Result<CardRule, StoreError> {
    let text: &str = row.get("pattern");
    let pattern = match row.get("kind") {
        MCC => Mcc::of_rule(text).map(Pattern::Mcc),
        _ => Merchant::of_rule(text).map(Pattern::Merchant),
    };
    Ok(CardRule {
        pattern: pattern
            .map_err(|error| StoreError::Corrupt(format!("card rule {text}: {error}")))?,
        category: Category::from_stored(row.get("category")),
        update_time: row::time(row, "update_time"),
    })
}
