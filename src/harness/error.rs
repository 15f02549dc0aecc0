//! Why the harness cannot do its part.

use super::client::CallError;
use crate::embedded::EmbeddedError;

/// Why a run has no result.
#[derive(Debug, thiserror::Error)]
pub enum HarnessError {
    /// No PostgreSQL.
    #[error(transparent)]
    Embedded(EmbeddedError),
    /// A server did not start.
    #[error("cannot start {name}: {cause}")]
    Server {
        /// What it is called.
        name: String,
        /// Why not.
        cause: String,
    },
    /// An account could not be opened or read.
    #[error("{0}")]
    Call(#[from] CallError),
    /// It was told to stop.
    #[error("interrupted before the end; there is no result")]
    Interrupted,
    /// A file, a process or its pipe.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl From<EmbeddedError> for HarnessError {
    fn from(error: EmbeddedError) -> Self {
        match error {
            EmbeddedError::Stopped => Self::Interrupted,
            error => Self::Embedded(error),
        }
    }
}
