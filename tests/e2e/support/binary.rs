//! The real binary, as a user starts it.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::pin::pin;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::Notify;

use super::PATIENCE;
use super::instance::channel;
use ballast::rpc::proto::account_service_client::AccountServiceClient;
use ballast::rpc::proto::balance_service_client::BalanceServiceClient;

/// How long a command may take, such as a benchmark that loads millions of rows.
const RUN_TIMEOUT: Duration = Duration::from_secs(900);

/// A running `ballast`, and its banner. It is killed if the test forgets it.
pub struct Running {
    child: Child,
    pub banner: String,
    pub address: std::net::SocketAddr,
    pub log: Log,
}

/// What a process says on stderr, line by line, while it runs.
#[derive(Clone, Default)]
pub struct Log(Arc<Lines>);

#[derive(Default)]
struct Lines {
    read: Mutex<Vec<String>>,
    /// Wakes those who wait for a line, after each one.
    came: Notify,
}

impl Log {
    /// Reads on, so that the process never waits for a full pipe.
    pub fn of(stderr: impl Read + Send + 'static) -> Self {
        let log = Self::default();
        let lines = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.0.read.lock().expect("no panic").push(line);
                lines.0.came.notify_waiters();
            }
        });
        log
    }

    /// All lines so far that contain this.
    pub fn lines(&self, text: &str) -> Vec<String> {
        let lines = self.0.read.lock().expect("no panic");
        lines
            .iter()
            .filter(|line| line.contains(text))
            .cloned()
            .collect()
    }

    /// Waits for a line that contains this.
    pub async fn line(&self, text: &str) -> String {
        let found = async {
            loop {
                let mut came = pin!(self.0.came.notified());
                // A line that comes between the look and the wait counts too.
                came.as_mut().enable();
                if let Some(line) = self.lines(text).into_iter().next() {
                    return line;
                }
                came.await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("no line has {text:?}: {:#?}", self.lines("")))
    }
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
    // A busy machine is no reason to fail.
    command
        .env("BALLAST_CONNECT_TIMEOUT_MS", "20000")
        .env("BALLAST_REQUEST_TIMEOUT_MS", "60000")
        .env("BALLAST_LISTEN", "127.0.0.1:0")
        .current_dir(folder)
        .args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a `ballast` that is expected to end by itself: its exit code, stdout and stderr. One that does not is killed.
pub fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let child = command(folder, arguments).spawn().expect("it starts");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    let (ended, running) = std::sync::mpsc::channel::<()>();
    let watching = std::thread::spawn(move || {
        if running.recv_timeout(RUN_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
            kill(pid, Signal::SIGKILL).expect("it runs");
        }
    });
    let output = child.wait_with_output().expect("the binary runs");
    drop(ended);
    watching.join().expect("no panic");
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
        let log = child.stderr.take().map(Log::of).unwrap_or_default();
        drain(stdout);
        Self {
            child,
            banner,
            address,
            log,
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"))
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the process is there");
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> ExitStatus {
        ended(&mut self.child).await
    }

    /// The process of its private PostgreSQL.
    pub fn postmaster(data_dir: &Path) -> Pid {
        let file = data_dir.join("postgres/postmaster.pid");
        let text = std::fs::read_to_string(file).expect("a PostgreSQL runs");
        let pid = text.lines().next().expect("a line").trim().parse();
        Pid::from_raw(pid.expect("a process id"))
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

/// Waits for the end of a process, without keeping the test's runtime from working. One that does not end is killed.
pub async fn ended(child: &mut Child) -> ExitStatus {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a status") {
            return status;
        }
        if Instant::now() > end {
            child.kill().expect("it runs");
            panic!("the process never ends");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
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
