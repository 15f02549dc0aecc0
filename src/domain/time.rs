//! A point in time as the ledger stores it. The domain never asks for the time; it is handed in.

/// Microseconds since 1970-01-01T00:00:00Z: the resolution of PostgreSQL's `timestamptz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Later than any other: `infinity` in PostgreSQL.
    pub const INFINITY: Self = Self(i64::MAX);

    /// From microseconds since 1970-01-01T00:00:00Z.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Whether it is in the years 1 to 9999, for which calendars and `google.protobuf.Timestamp` are made.
    pub fn is_in_calendar(self) -> bool {
        (-62_135_596_800_000_000..=253_402_300_799_999_999).contains(&self.0)
    }

    /// The next point in time that can be told apart from this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}
