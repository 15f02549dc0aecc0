//! Modes: by which RPC the operations come.

use std::fmt;

/// By which RPC the operations come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Debit, Credit or Transfer: one call for each.
    Unary,
    /// ExecuteBatch, with so many members in each call.
    Batch(usize),
    /// SubmitOperations: one stream on each connection.
    Stream,
}

/// A mode that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskedMode {
    /// Which one.
    pub mode: Mode,
    /// How many operations are in flight in it in a closed loop, if not as many as in the others.
    pub concurrency: Option<usize>,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unary => f.write_str("unary"),
            Self::Batch(size) => write!(f, "batch of {size}"),
            Self::Stream => f.write_str("stream"),
        }
    }
}

impl Mode {
    /// How many members its batches have.
    pub(super) fn batch_size(self) -> Option<usize> {
        match self {
            Self::Batch(size) => Some(size),
            Self::Unary | Self::Stream => None,
        }
    }

    /// How many callers keep `concurrency` operations in flight, and how many operations each has.
    ///
    /// A batch keeps its size. There are almodes two of them, if two operations may be in flight: with one, the server
    /// would idle while the client reads its answer.
    pub(super) fn callers(self, concurrency: usize, connection_count: usize) -> Vec<usize> {
        match self {
            Self::Unary => vec![1; concurrency],
            Self::Batch(size) => vec![size; (concurrency / size).max(2.min(concurrency)).max(1)],
            Self::Stream => {
                let count = connection_count.min(concurrency).max(1);
                let one_more = concurrency % count;
                let window = |index| concurrency / count + usize::from(index < one_more);
                (0..count).map(window).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Mode;

    #[test]
    fn callers_share_what_is_in_flight() {
        assert_eq!(Mode::Unary.callers(3, 4), [1, 1, 1]);
        assert_eq!(Mode::Stream.callers(10, 4), [3, 3, 2, 2]);
        assert_eq!(Mode::Stream.callers(2, 4), [1, 1]);
        assert_eq!(Mode::Batch(500).callers(2000, 4), [500; 4]);
        assert_eq!(Mode::Batch(500).callers(256, 4), [500; 2]);
        assert_eq!(Mode::Batch(500).callers(1, 4), [500]);
    }
}
