//! Processes: the servers that are measured, started from this same binary or another build's, and what they use.

use std::net::SocketAddr;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::{BenchError, Variant};

/// A server that is measured.
pub(crate) struct Served {
    child: Child,
    address: SocketAddr,
}

impl Served {
    /// Starts it on a free port and waits until it says where it listens.
    pub(crate) async fn start(variant: &Variant, database_url: &str) -> Result<Self, BenchError> {
        let failed = |cause: String| BenchError::Server {
            name: variant.name(),
            cause,
        };
        let mut command = match variant {
            Variant::Build(build) => Command::new(build.path()),
            _ => Command::new(std::env::current_exe()?),
        };
        command
            .env("BALLAST_DATABASE_URL", database_url)
            .env("BALLAST_LISTEN", "127.0.0.1:0");
        match variant {
            Variant::Ballast(arguments) => command.args(["serve", "--log", "warn"]).args(arguments),
            Variant::Build(_) => command.args(["serve", "--log", "warn"]),
            Variant::Baseline(config) => command
                .args(["bench-baseline", config.baseline.name()])
                .args(["--connections", &config.connection_count.to_string()]),
            Variant::Target => return Err(failed("it runs somewhere else".to_owned())),
        };
        command
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

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        self.child.id().and_then(|id| i32::try_from(id).ok())
    }

    pub(crate) async fn stop(mut self) {
        if let Some(pid) = self.pid() {
            // Fails if it ended already.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _status = self.child.wait().await;
    }
}

/// What client, server, database and the whole machine have used so far; `None` where it is not ours to see.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// CPU seconds of the client, which is this process.
    pub client_cpu_seconds: Option<f64>,
    /// CPU seconds of the server, all its processes together.
    pub server_cpu_seconds: Option<f64>,
    /// CPU seconds of all processes of PostgreSQL.
    pub database_cpu_seconds: Option<f64>,
    /// Of all processors together. In a container these may be those of its host.
    pub machine: Option<MachineTime>,
}

impl Usage {
    pub(crate) fn of(servers: &[i32], postmaster: Option<i32>) -> Self {
        let of_servers = servers.iter().map(|pid| cpu_seconds(*pid)).sum();
        Self {
            client_cpu_seconds: i32::try_from(std::process::id()).ok().map(own_cpu_seconds),
            server_cpu_seconds: (!servers.is_empty()).then_some(of_servers),
            database_cpu_seconds: postmaster.map(|pid| {
                cpu_seconds(pid) + children(pid).into_iter().map(cpu_seconds).sum::<f64>()
            }),
            machine: MachineTime::now(),
        }
    }

    pub(super) fn since(self, before: Self) -> Self {
        let minus = |after: Option<f64>, before: Option<f64>| Some(after? - before?);
        Self {
            client_cpu_seconds: minus(self.client_cpu_seconds, before.client_cpu_seconds),
            server_cpu_seconds: minus(self.server_cpu_seconds, before.server_cpu_seconds),
            database_cpu_seconds: minus(self.database_cpu_seconds, before.database_cpu_seconds),
            machine: self
                .machine
                .zip(before.machine)
                .map(|(after, before)| after.since(before)),
        }
    }
}

/// CPU seconds of all processors of a machine since it started.
#[derive(Debug, Clone, Copy)]
pub struct MachineTime {
    /// What nobody used.
    pub idle_seconds: f64,
    /// What the host gave to other machines, as far as it says so.
    pub stolen_seconds: f64,
    /// All there was.
    pub all_seconds: f64,
}

impl MachineTime {
    fn now() -> Option<Self> {
        let text = std::fs::read_to_string("/proc/stat").ok()?;
        let fields = text.lines().next()?.strip_prefix("cpu ")?;
        // user, nice, system, idle, iowait, irq, softirq, steal; what guests use is in the first two.
        let seconds: Vec<f64> = fields
            .split_whitespace()
            .take(8)
            .filter_map(|field| Some(field.parse::<f64>().ok()? / ticks_per_second()))
            .collect();
        Some(Self {
            idle_seconds: seconds.get(3)? + seconds.get(4)?,
            stolen_seconds: *seconds.get(7)?,
            all_seconds: seconds.iter().sum(),
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            idle_seconds: self.idle_seconds - before.idle_seconds,
            stolen_seconds: self.stolen_seconds - before.stolen_seconds,
            all_seconds: self.all_seconds - before.all_seconds,
        }
    }
}

/// The fields of /proc/PID/stat behind the name, which may itself have spaces: from the state on.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// User and system time of a process and of its children that have ended.
fn cpu_seconds(pid: i32) -> f64 {
    summed_cpu_seconds(pid, 4)
}

/// User and system time of a process alone.
fn own_cpu_seconds(pid: i32) -> f64 {
    summed_cpu_seconds(pid, 2)
}

/// The first of utime, stime, cutime and cstime.
fn summed_cpu_seconds(pid: i32, field_count: usize) -> f64 {
    let fields = stat(pid).unwrap_or_default();
    let ticks = fields.iter().skip(11).take(field_count);
    let ticks = ticks.filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / ticks_per_second()
}

fn ticks_per_second() -> f64 {
    sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64
}

/// The resident memory of a process.
pub(crate) fn rss_bytes(pid: i32) -> u64 {
    let page_bytes = sysconf(SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .unwrap_or(4096);
    let pages = stat(pid)
        .and_then(|fields| fields.get(21)?.parse::<u64>().ok())
        .unwrap_or(0);
    pages * u64::try_from(page_bytes).unwrap_or(4096)
}

fn children(parent: i32) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    let is_child =
        |pid: &i32| stat(*pid).and_then(|fields| fields.get(1)?.parse().ok()) == Some(parent);
    pids.filter(is_child).collect()
}
