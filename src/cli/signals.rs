//! Signals: how a user or a supervisor asks a command to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What is said when a signal comes.
pub(super) struct Words {
    /// To the first one.
    pub(super) stopping: fn(),
    /// To the second one.
    pub(super) stopped_at_once: fn(),
}

/// Listens to SIGTERM and Ctrl-C. The first one cancels the token; whoever sends a second one does not want to wait.
pub(super) fn stop_signal(words: Words) -> std::io::Result<CancellationToken> {
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
                (words.stopped_at_once)();
                std::process::exit(EXIT_CODE_INTERRUPTED);
            }
            (words.stopping)();
            stopping.cancel();
        }
    });
    Ok(stop)
}

/// The words of a command that writes no log.
pub(super) const PLAIN_WORDS: Words = Words {
    stopping: || {
        eprintln!(
            "stopping; a second signal ends it at once and may leave processes and files behind"
        )
    },
    stopped_at_once: || eprintln!("stopped at once"),
};

/// What shells show for a process that a signal ended.
const EXIT_CODE_INTERRUPTED: i32 = 130;
