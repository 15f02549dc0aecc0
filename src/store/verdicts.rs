//! Verdicts: what stands about card payments that two callers might disagree on, how those are reversed that were answered
//! 07, and how a person settles one whose reversal was refused.

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::error::StoreError;
use super::requests::Requests;
use super::row::{self, PgTime};
use crate::domain::card::{Attempt, Settlement, SettlementMethod};
use crate::domain::{AccountId, Amount, BalanceKey, Category, Currency, OperationId, Timestamp};

/// What can be said about a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardVerdict {
    /// A retry was approved on it.
    Kept,
    /// Its own caller was answered 07; it is to be reversed.
    Reversed,
}

impl CardVerdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "KEPT",
            Self::Reversed => "REVERSED",
        }
    }
}

/// What stands about a payment: the first verdict, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// A retry was approved on it.
    Kept,
    /// It is to be reversed, and is not yet; or it may still happen.
    Pending,
    /// It is reversed, or it never happened.
    Reversed {
        /// The credit; `None`: there is none, or an older version made it.
        reversal_id: Option<OperationId>,
    },
    /// Its reversal was refused, so a person has to settle it.
    Refused {
        /// Why.
        reason: String,
        /// A settlement that has begun.
        settlement_id: Option<OperationId>,
    },
    /// A person settled it.
    Settled {
        /// The settlement.
        settlement_id: OperationId,
    },
}

/// A payment that is to be reversed, or may still happen.
#[derive(Debug, Clone)]
pub struct DueVerdict {
    /// The payment.
    pub operation_id: OperationId,
    /// The attempt whose caller was answered 07.
    pub attempt: Attempt,
    /// So old that a payment that is not there will never be.
    pub is_hopeless: bool,
}

/// A payment that a person has to settle.
#[derive(Debug, Clone)]
pub struct UnsettledPayment {
    /// The payment.
    pub operation_id: OperationId,
    /// What paid.
    pub balance: BalanceKey,
    /// How much.
    pub amount: Amount,
    /// Its currency.
    pub currency: Currency,
    /// The merchant category code; empty: none.
    pub mcc: String,
    /// The merchant; empty: none.
    pub merchant: String,
    /// When it was paid.
    pub create_time: Timestamp,
    /// Why the reversal was refused.
    pub refusal_reason: String,
    /// The reversal.
    pub reversal_id: OperationId,
    /// When it was refused.
    pub refuse_time: Timestamp,
    /// A settlement that has begun.
    pub settlement_id: Option<OperationId>,
}

/// A place in the list of unsettled payments: when the reversal was refused, and the payment.
pub type UnsettledPosition = (Timestamp, String);

/// What stands about an attempt, and its settlement, if one has begun.
#[derive(Debug, Clone)]
pub struct SettlementRecord {
    /// What stands.
    pub standing: Standing,
    /// The settlement, and when it settled the payment; `None`: it has only begun.
    pub settlement: Option<(Settlement, Option<Timestamp>)>,
}

/// What became of the credit of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreditEnd {
    /// It is posted.
    Posted,
    /// It is refused, and will be for ever.
    Refused,
}

pub(super) const GIVE_CARD_VERDICT: &str = include_str!("sql/give_card_verdict.sql");
pub(super) const SETTLE_CARD_VERDICT: &str = include_str!("sql/settle_card_verdict.sql");
pub(super) const REFUSE_CARD_VERDICT: &str = include_str!("sql/refuse_card_verdict.sql");
pub(super) const TAKE_DUE_VERDICTS: &str = include_str!("sql/take_due_verdicts.sql");
pub(super) const LIST_UNSETTLED_PAYMENTS: &str = include_str!("sql/list_unsettled_payments.sql");
pub(super) const COUNT_UNSETTLED_PAYMENTS: &str = include_str!("sql/count_unsettled_payments.sql");
pub(super) const GET_CARD_VERDICT: &str = include_str!("sql/get_card_verdict.sql");
pub(super) const BEGIN_SETTLEMENT: &str = include_str!("sql/begin_settlement.sql");
pub(super) const END_SETTLEMENT: &str = include_str!("sql/end_settlement.sql");

impl Requests {
    /// Gives a verdict about a payment, unless there is one; returns what stands. Durable when it returns; an error leaves it
    /// unknown whether it was given.
    pub async fn give_card_verdict(
        &self,
        operation_id: OperationId,
        attempt: Attempt,
        verdict: CardVerdict,
    ) -> Result<Standing, StoreError> {
        self.write(move |client, writes| async move {
            let params: [&(dyn ToSql + Sync); 3] =
                [&operation_id.as_str(), &attempt.as_str(), &verdict.as_str()];
            standing(&writes.run_one(&client, GIVE_CARD_VERDICT, &params).await?)
        })
        .await
    }

    /// Notes that a payment is reversed by this credit; `None`: that it never happened.
    pub async fn settle_card_verdict(
        &self,
        operation_id: OperationId,
        attempt: Attempt,
        reversal_id: Option<OperationId>,
    ) -> Result<(), StoreError> {
        self.write(move |client, writes| async move {
            let reversal_id = reversal_id.as_ref().map(OperationId::as_str);
            let params: [&(dyn ToSql + Sync); 3] =
                [&operation_id.as_str(), &attempt.as_str(), &reversal_id];
            let settled = writes.run(&client, SETTLE_CARD_VERDICT, &params);
            settled.await.map(drop)
        })
        .await
    }

    /// Notes that the ledger refused to reverse a payment; false if that was known, or the payment is settled.
    pub async fn refuse_card_verdict(
        &self,
        operation_id: OperationId,
        attempt: Attempt,
        reason: &'static str,
        reversal_id: OperationId,
    ) -> Result<bool, StoreError> {
        self.write(move |client, writes| async move {
            let params: [&(dyn ToSql + Sync); 4] = [
                &operation_id.as_str(),
                &attempt.as_str(),
                &reason,
                &reversal_id.as_str(),
            ];
            let refused = writes.run(&client, REFUSE_CARD_VERDICT, &params);
            Ok(!refused.await?.is_empty())
        })
        .await
    }

    /// At most `limit` payments that are to be reversed. Each is due again after a while that grows, so that it is tried again
    /// if the caller fails or dies, and others come before it.
    pub async fn take_due_verdicts(&self, limit: i64) -> Result<Vec<DueVerdict>, StoreError> {
        self.write(move |client, writes| async move {
            let rows = writes.run(&client, TAKE_DUE_VERDICTS, &[&limit]).await?;
            Ok(rows.iter().map(due_verdict).collect())
        })
        .await
    }

    /// At most `limit` payments that a person has to settle, after a position, the longest refused first.
    pub async fn list_unsettled_payments(
        &self,
        after: Option<UnsettledPosition>,
        limit: i64,
    ) -> Result<Vec<UnsettledPayment>, StoreError> {
        self.request(move |client| async move {
            let statement = client.prepare_cached(LIST_UNSETTLED_PAYMENTS).await?;
            let (time, operation_id) =
                after.unwrap_or_else(|| (Timestamp::from_micros(0), String::new()));
            let params: [&(dyn ToSql + Sync); 3] = [&PgTime(time), &operation_id, &limit];
            let rows = client.query(&statement, &params).await?;
            rows.iter().map(unsettled_payment).collect()
        })
        .await
    }

    /// How many payments a person has to settle; at most `limit` are counted.
    pub async fn count_unsettled_payments(&self, limit: i64) -> Result<i64, StoreError> {
        self.request(move |client| async move {
            let statement = client.prepare_cached(COUNT_UNSETTLED_PAYMENTS).await?;
            Ok(client.query_one(&statement, &[&limit]).await?.get(0))
        })
        .await
    }

    /// What stands about an attempt; `None`: nothing.
    pub async fn card_verdict(
        &self,
        operation_id: OperationId,
        attempt: Attempt,
    ) -> Result<Option<SettlementRecord>, StoreError> {
        self.request(move |client| async move {
            let statement = client.prepare_cached(GET_CARD_VERDICT).await?;
            let params: [&(dyn ToSql + Sync); 2] = [&operation_id.as_str(), &attempt.as_str()];
            let row = client.query_opt(&statement, &params).await?;
            row.as_ref().map(settlement_record).transpose()
        })
        .await
    }

    /// Begins a settlement of an attempt, unless one has begun, or there is nothing to settle: then false. A settlement that
    /// credits nothing is done with this. A connection that breaks on the way leaves the outcome unknown.
    pub async fn begin_settlement(
        &self,
        operation_id: OperationId,
        attempt: Attempt,
        settlement: Settlement,
    ) -> Result<bool, StoreError> {
        self.write(move |client, writes| async move {
            let destination = settlement.destination.as_ref();
            let account_id = destination.map(|key| key.account_id.as_str());
            let category = destination.map(|key| key.category.as_str());
            let params: [&(dyn ToSql + Sync); 7] = [
                &operation_id.as_str(),
                &attempt.as_str(),
                &settlement.operation_id.as_str(),
                &method_text(settlement.method),
                &account_id,
                &category,
                &settlement.note,
            ];
            let begun = writes.run(&client, BEGIN_SETTLEMENT, &params);
            Ok(!begun.await?.is_empty())
        })
        .await
    }

    /// Ends a settlement that has begun, as its credit ended: the payment is settled, or another settlement may begin.
    pub async fn end_settlement(
        &self,
        operation_id: OperationId,
        attempt: Attempt,
        settlement_id: OperationId,
        end: CreditEnd,
    ) -> Result<(), StoreError> {
        self.write(move |client, writes| async move {
            let is_settled = end == CreditEnd::Posted;
            let params: [&(dyn ToSql + Sync); 4] = [
                &operation_id.as_str(),
                &attempt.as_str(),
                &settlement_id.as_str(),
                &is_settled,
            ];
            let ended = writes.run(&client, END_SETTLEMENT, &params);
            ended.await.map(drop)
        })
        .await
    }
}

fn due_verdict(row: &Row) -> DueVerdict {
    DueVerdict {
        operation_id: OperationId::from_stored(row.get("operation_id")),
        attempt: Attempt::from_stored(row.get("attempt")),
        is_hopeless: row.get("is_hopeless"),
    }
}

fn operation_id(row: &Row, column: &str) -> Option<OperationId> {
    let text: Option<&str> = row.get(column);
    text.map(OperationId::from_stored)
}

/// What stands, of a row that has a verdict.
pub(super) fn standing(row: &Row) -> Result<Standing, StoreError> {
    let verdict: &str = row.get("verdict");
    if verdict == CardVerdict::Kept.as_str() {
        return Ok(Standing::Kept);
    }
    if verdict != CardVerdict::Reversed.as_str() {
        return Err(StoreError::Corrupt(format!("verdict {verdict}")));
    }
    let unsettled: bool = row.get("unsettled");
    let reason: Option<String> = row.get("refusal_reason");
    let settlement_id = operation_id(row, "settlement_id");
    Ok(match (reason, settlement_id, unsettled) {
        (None, _, true) => Standing::Pending,
        (None, _, false) => Standing::Reversed {
            reversal_id: operation_id(row, "reversal_id"),
        },
        (Some(reason), settlement_id, true) => Standing::Refused {
            reason,
            settlement_id,
        },
        (Some(_), Some(settlement_id), false) => Standing::Settled { settlement_id },
        (Some(_), None, false) => {
            let text = "a payment is settled, and by nothing";
            return Err(StoreError::Corrupt(text.to_owned()));
        }
    })
}

const CREDIT: &str = "CREDIT";
const OTHER: &str = "OTHER";

fn method_text(method: SettlementMethod) -> &'static str {
    match method {
        SettlementMethod::Credit => CREDIT,
        SettlementMethod::Other => OTHER,
    }
}

fn settlement_record(row: &Row) -> Result<SettlementRecord, StoreError> {
    let standing = standing(row)?;
    let Some(operation_id) = operation_id(row, "settlement_id") else {
        return Ok(SettlementRecord {
            standing,
            settlement: None,
        });
    };
    let method = match row.get("settlement_method") {
        CREDIT => SettlementMethod::Credit,
        OTHER => SettlementMethod::Other,
        text => return Err(StoreError::Corrupt(format!("settlement_method {text}"))),
    };
    let account_id: Option<&str> = row.get("settlement_account_id");
    let category: Option<&str> = row.get("settlement_category");
    let destination = account_id
        .zip(category)
        .map(|(account_id, category)| BalanceKey {
            account_id: AccountId::from_stored(account_id),
            category: Category::from_stored(category),
        });
    let settle_time: Option<PgTime> = row.get("settle_time");
    let settlement = Settlement {
        operation_id,
        method,
        destination,
        note: row.get("settlement_note"),
    };
    Ok(SettlementRecord {
        standing,
        settlement: Some((settlement, settle_time.map(|time| time.0))),
    })
}

fn unsettled_payment(row: &Row) -> Result<UnsettledPayment, StoreError> {
    let minor_units: i64 = row.get("amount");
    let text = |column| row.get::<_, Option<String>>(column).unwrap_or_default();
    Ok(UnsettledPayment {
        operation_id: OperationId::from_stored(row.get("operation_id")),
        balance: BalanceKey {
            account_id: AccountId::from_stored(row.get("source_account_id")),
            category: Category::from_stored(row.get("source_category")),
        },
        amount: Amount::new(minor_units)
            .map_err(|error| StoreError::Corrupt(format!("amount {minor_units}: {error}")))?,
        currency: row::currency(row)?,
        mcc: text("mcc"),
        merchant: text("merchant"),
        create_time: row::time(row, "create_time"),
        refusal_reason: row.get("refusal_reason"),
        reversal_id: OperationId::from_stored(row.get("reversal_id")),
        refuse_time: row::time(row, "refuse_time"),
        settlement_id: operation_id(row, "settlement_id"),
    })
}
