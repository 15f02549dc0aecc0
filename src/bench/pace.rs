//! Paces: how fast the requests come.

use std::fmt;

/// How fast the requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// So many requests in flight, always.
    Closed(usize),
    /// So many requests per second, come what may.
    Open(u64),
}

impl Pace {
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Closed(_))
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(count) => write!(f, "{count} in flight"),
            Self::Open(rate) => write!(f, "{rate}/s"),
        }
    }
}
