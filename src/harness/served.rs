//! Servers that are started for a run, as processes of their own.

use std::net::SocketAddr;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::error::HarnessError;

/// A server that runs.
pub(crate) struct Served {
    child: Child,
    address: SocketAddr,
}

/// This same binary.
pub(crate) fn this_binary() -> Result<Command, HarnessError> {
    Ok(Command::new(std::env::current_exe()?))
}

/// `ballast serve` with these arguments, by the binary of a ballast.
pub(crate) fn serve_command(mut binary: Command, arguments: &[String]) -> Command {
    binary.args(["serve", "--log", "warn"]).args(arguments);
    binary
}

impl Served {
    /// Starts it on a free port and waits until it says where it listens.
    pub(crate) async fn start(
        name: &str,
        mut command: Command,
        database_url: &str,
    ) -> Result<Self, HarnessError> {
        let failed = |cause: String| HarnessError::Server {
            name: name.to_owned(),
            cause,
        };
        command
            .env("BALLAST_DATABASE_URL", database_url)
            .env("BALLAST_LISTEN", "127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let spawned = command.spawn();
        let mut child = spawned.map_err(|error| failed(error.to_string()))?;
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| failed("no output".to_owned()))?;
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await? {
            let address = line
                .trim()
                .strip_prefix("gRPC")
                .and_then(|rest| rest.split_whitespace().next());
            if let Some(address) = address.and_then(|address| address.parse().ok()) {
                // Read on, so that it never waits for a full pipe.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Ok(Self { child, address });
            }
        }
        Err(failed(
            "it ended before it listened; see its error above".to_owned(),
        ))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process; `None` if it has ended.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.child.id().and_then(|id| i32::try_from(id).ok())
    }

    /// Tells it to stop, and waits for its end.
    pub(crate) async fn stop(mut self) {
        if let Some(pid) = self.pid() {
            // Fails if it ended already.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _status = self.child.wait().await;
    }
}
