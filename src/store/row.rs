//! Rows: how the ledger's values look in PostgreSQL, in both directions.

use std::error::Error;

use tokio_postgres::Row;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use super::error::StoreError;
use crate::domain::{Balance, Category, Currency, Entry, OperationId, Source, Timestamp};

/// Microseconds from 1970-01-01, where a [`Timestamp`] begins, to 2000-01-01, where PostgreSQL's time begins.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A [`Timestamp`] as `timestamptz`, exact to the microsecond. `i64::MAX` stands for `infinity`, in both worlds.
#[derive(Debug, Clone, Copy)]
pub(super) struct PgTime(pub(super) Timestamp);

impl PgTime {
    /// Whether a time stands for `infinity` or `-infinity`.
    pub(super) fn is_infinite(time: Timestamp) -> bool {
        time == Timestamp::INFINITY || time.micros() == i64::MIN + POSTGRES_EPOCH_MICROS
    }
}

impl ToSql for PgTime {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let micros = match self.0.micros() {
            i64::MAX => i64::MAX,
            micros => micros
                .checked_sub(POSTGRES_EPOCH_MICROS)
                .ok_or("time out of range")?,
        };
        out.extend_from_slice(&micros.to_be_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for PgTime {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let micros = i64::from_be_bytes(raw.try_into()?);
        Ok(Self(Timestamp::from_micros(
            micros.saturating_add(POSTGRES_EPOCH_MICROS),
        )))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

/// The row id (TID, `ctid`): where a row is. It stays there for as long as it is locked. Ordered as the rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowId([u8; RowId::SIZE]);

impl RowId {
    /// A block number of four bytes, and an offset number of two.
    const SIZE: usize = 6;

    /// The row with this offset number, from 1, in a block, from 0.
    pub(super) fn new(block: u32, offset: u16) -> Self {
        let [a, b, c, d] = block.to_be_bytes();
        let [high, low] = offset.to_be_bytes();
        Self([a, b, c, d, high, low])
    }

    /// The number of the block.
    pub(super) fn block(self) -> u32 {
        let Self([a, b, c, d, _, _]) = self;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The offset number in the block.
    pub(super) fn offset(self) -> u16 {
        let Self([_, _, _, _, high, low]) = self;
        u16::from_be_bytes([high, low])
    }
}

impl ToSql for RowId {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TID
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for RowId {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw.try_into()?))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TID
    }
}

pub(super) fn time(row: &Row, column: &str) -> Timestamp {
    row.get::<_, PgTime>(column).0
}

pub(super) fn currency(row: &Row) -> Result<Currency, StoreError> {
    currency_of(row.get("currency_code"))
}

pub(super) fn currency_of(code: &str) -> Result<Currency, StoreError> {
    Currency::new(code).map_err(|_| StoreError::Corrupt(format!("currency_code {code:?}")))
}

pub(super) fn balance(row: &Row) -> Balance {
    Balance {
        posted: row.get("posted"),
        held: row.get("held"),
        overdraft_limit: row.get("overdraft_limit"),
        balance_limit: row.get("balance_limit"),
        version: row.get("version"),
        update_time: time(row, "update_time"),
        last_operation_id: operation_id(row.get("last_operation_id")),
    }
}

/// The balance of a row whose columns begin with `posted` at `first`, in the order of [`Balance`].
pub(super) fn balance_from(row: &Row, first: usize) -> Balance {
    Balance {
        posted: row.get(first),
        held: row.get(first + 1),
        overdraft_limit: row.get(first + 2),
        balance_limit: row.get(first + 3),
        version: row.get(first + 4),
        update_time: row.get::<_, PgTime>(first + 5).0,
        last_operation_id: operation_id(row.get(first + 6)),
    }
}

pub(super) fn operation_id(text: Option<&str>) -> Option<OperationId> {
    text.map(OperationId::from_stored)
}

/// The categories that were asked, joined by commas, which no category contains; `None`: main alone.
pub(super) fn join_categories(source: &Source) -> Option<String> {
    match source.categories.as_slice() {
        [only] if only.is_main() => None,
        categories => Some(
            categories
                .iter()
                .map(Category::as_str)
                .collect::<Vec<_>>()
                .join(","),
        ),
    }
}

/// A string map as JSON; `None`: empty.
pub(super) fn to_json(map: &std::collections::BTreeMap<String, String>) -> Option<String> {
    (!map.is_empty()).then(|| serde_json::to_string(map).expect("a map of strings is JSON"))
}

pub(super) fn from_json(
    json: Option<&str>,
) -> Result<std::collections::BTreeMap<String, String>, StoreError> {
    let parse =
        |json| serde_json::from_str(json).map_err(|error| StoreError::Corrupt(error.to_string()));
    json.map_or_else(|| Ok(Default::default()), parse)
}

/// Held and available of an entry from their columns, whose NULL means what is usual.
pub(super) fn after(
    posted_after: i64,
    held_after: Option<i64>,
    available_after: Option<i64>,
) -> (i64, i64) {
    let held_after = held_after.unwrap_or(0);
    (
        held_after,
        available_after.unwrap_or_else(|| posted_after.saturating_sub(held_after)),
    )
}

/// The columns of [`after`] for an entry.
pub(super) fn after_columns(entry: &Entry) -> (Option<i64>, Option<i64>) {
    let usual = entry.posted_after.saturating_sub(entry.held_after);
    let held_after = (entry.held_after != 0).then_some(entry.held_after);
    (
        held_after,
        (entry.available_after != usual).then_some(entry.available_after),
    )
}
