//! Open files: how many the process may have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit as far as it goes. Each connection is an open file, and the usual soft limit is 1024.
pub(super) fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files could not be raised");
    }
}
