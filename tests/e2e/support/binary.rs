//! The real binary, as a user starts it.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::instance::channel;
use ballast::rpc::proto::account_service_client::AccountServiceClient;
use ballast::rpc::proto::balance_service_client::BalanceServiceClient;

/// A running `ballast`, and its banner. It is killed if the test forgets it.
pub struct Running {
    child: Child,
    pub banner: String,
    pub address: std::net::SocketAddr,
}

/// `ballast` with arguments, free of the environment's settings, on a free port.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ballast"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("BALLAST_")) {
        command.env_remove(name);
    }
    if let Ok(isolation) = std::env::var(super::instance::ISOLATION) {
        command.env("BALLAST_ISOLATION", isolation);
    }
    command
        .env("BALLAST_LISTEN", "127.0.0.1:0")
        .current_dir(folder)
        .args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a `ballast` that is expected to end by itself: its exit code, stdout and stderr.
pub fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = command(folder, arguments)
        .output()
        .expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is text");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

impl Running {
    /// Starts it and reads its banner.
    pub fn start(folder: &Path, arguments: &[&str]) -> Self {
        Self::start_command(command(folder, arguments))
    }

    /// The same for a command that was changed, such as one whose stderr goes elsewhere.
    pub fn start_command(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the binary starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut banner = String::new();
        // The banner ends with an empty line after the examples; what tells is the last example.
        while !banner.contains("ListOperations") && !banner.contains("describe") {
            if stdout.read_line(&mut banner).expect("a banner") == 0 {
                let mut errors = String::new();
                if let Some(mut stderr) = child.stderr.take() {
                    stderr.read_to_string(&mut errors).expect("errors");
                }
                panic!("ballast ended without a banner: {errors}");
            }
        }
        let address = banner
            .lines()
            .find_map(|line| line.trim().strip_prefix("gRPC"))
            .expect("the banner says where");
        let address = address
            .split_whitespace()
            .next()
            .expect("an address")
            .parse()
            .expect("an address");
        if let Some(stderr) = child.stderr.take() {
            drain(stderr);
        }
        drain(stdout);
        Self {
            child,
            banner,
            address,
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("the process is there");
    }

    /// Waits for its end, without keeping the test's runtime from working.
    pub async fn ended(mut self) -> ExitStatus {
        tokio::task::spawn_blocking(move || self.child.wait().expect("an exit status"))
            .await
            .expect("a waiting thread")
    }

    pub async fn stopped(self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    pub fn balances(&self) -> super::instance::Balances {
        BalanceServiceClient::new(channel(self.address))
    }

    pub fn accounts(&self) -> super::instance::Accounts {
        AccountServiceClient::new(channel(self.address))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended, mostly.
        let _ended = self.child.kill();
    }
}

/// Reads on, so that the process never waits for a full pipe.
fn drain(mut output: impl Read + Send + 'static) {
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
}
