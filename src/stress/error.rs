//! Why a stress run has no result.

use crate::harness::{CallError, HarnessError};

/// Why a run has no result.
#[derive(Debug, thiserror::Error)]
pub enum StressError {
    /// A server or a database could not be started, or an account not be opened or read.
    #[error(transparent)]
    Harness(#[from] HarnessError),
    /// A target is no address.
    #[error("target {target}: {cause}; write it like 127.0.0.1:50051")]
    Target {
        /// As it was given.
        target: String,
        /// What is wrong with it.
        cause: std::io::Error,
    },
    /// A client process could not do its part.
    #[error("a client process gave up: {0}")]
    Client(String),
    /// A process or its pipe.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl From<CallError> for StressError {
    fn from(error: CallError) -> Self {
        Self::Harness(error.into())
    }
}
