//! Signals: how a user or a supervisor asks a command to stop.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::output;
use crate::stop::Stop;

/// What is said when a signal comes.
pub(super) struct Words {
    /// To the first one.
    pub(super) stopping: fn(),
    /// To the second one.
    pub(super) stopping_at_once: fn(),
}

/// Signals that come so soon after the first one are the same request: `timeout` sends two, and a terminal and a supervisor
/// may each send one.
const TOGETHER: Duration = Duration::from_millis(500);
/// A forced end comes after this long, whatever holds it up. It is longer than PostgreSQL is given to stop.
const FORCED_END_TIMEOUT: Duration = Duration::from_secs(30);
/// What shells show for a process that a signal ended.
pub(super) const EXIT_CODE_INTERRUPTED: u8 = 130;

/// Listens to SIGTERM, Ctrl-C and the end of the terminal. The first signal asks to stop; whoever sends another one later
/// does not want to wait.
pub(super) fn stop_on_signals(words: Words) -> std::io::Result<Stop> {
    let mut signals = Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        // Under nohup it is ignored, and stays so.
        hang_up: match is_ignored(SignalKind::hangup()) {
            true => None,
            false => Some(signal(SignalKind::hangup())?),
        },
    };
    let stop = Stop::default();
    let asked = stop.clone();
    tokio::spawn(async move {
        signals.next().await;
        let first = Instant::now();
        asked.ask();
        (words.stopping)();
        while first.elapsed() < TOGETHER {
            signals.next().await;
        }
        asked.force();
        (words.stopping_at_once)();
        std::thread::spawn(end_after_all);
    });
    Ok(stop)
}

/// Ends the process when a forced end takes too long.
#[expect(
    clippy::disallowed_methods,
    reason = "on a thread of its own, since the runtime may be what holds it up"
)]
fn end_after_all() {
    std::thread::sleep(FORCED_END_TIMEOUT);
    std::process::exit(EXIT_CODE_INTERRUPTED.into());
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Option<Signal>,
}

impl Signals {
    async fn next(&mut self) {
        let hang_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hang_up => {}
        }
    }
}

/// Whether whoever started this process had it ignore a signal; false where nothing tells.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut masks = status
        .lines()
        .filter_map(|line| line.strip_prefix("SigIgn:"));
    let mask = masks
        .next()
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (kind.as_raw_value() - 1) & 1 == 1)
}

/// The words of a command that writes no log.
pub(super) const PLAIN_WORDS: Words = Words {
    stopping: || {
        output::say("stopping; a second signal ends it at once");
    },
    stopping_at_once: || output::say("stopping at once"),
};
