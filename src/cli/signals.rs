//! Signals: how a user or a supervisor asks a command to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Listens to SIGTERM and Ctrl-C. The first one cancels the token; whoever sends a second one does not want to wait.
pub(super) fn stop_signal() -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        for is_first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if !is_first {
                tracing::warn!("stopped at once; what was in flight is not answered");
                std::process::exit(EXIT_CODE_INTERRUPTED);
            }
            stopping.cancel();
        }
    });
    Ok(stop)
}

/// What shells show for a process that a signal ended.
const EXIT_CODE_INTERRUPTED: i32 = 130;
