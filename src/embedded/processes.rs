//! The processes of a cluster: how they are found, and how they are ended step by step.

use std::fs;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid};
use tokio::time::{Instant, sleep, timeout};

use super::UNUSUAL;

/// How long an immediate stop may take. PostgreSQL itself kills what is left of its processes after 5 s of it.
const IMMEDIATE_STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take until a killed process is gone, and until those that it left behind notice.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether processes are gone.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Whether the process is the postmaster of this cluster, or one of its children: they work in the cluster's folder. After
/// a crash of the machine the number may be that of anybody.
pub(super) fn serves(pid: Pid, cluster: &Path) -> bool {
    works_in(pid).is_some_and(|folder| {
        cluster
            .canonicalize()
            .is_ok_and(|cluster| cluster == folder)
    })
}

/// The folder that the process works in; `None` if it is gone, or not ours to look at.
pub(super) fn works_in(pid: Pid) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// All processes of PostgreSQL that work in the folder of this cluster.
fn all_of(cluster: &Path) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    let is_postgres = |pid: &Pid| {
        // Not the shell of somebody who looks around in there.
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.trim() == "postgres")
    };
    pids.map(Pid::from_raw)
        .filter(is_postgres)
        .filter(|pid| serves(*pid, cluster))
        .collect()
}

/// Waits until the postmaster of this cluster is gone.
pub(super) async fn gone(pid: Pid, cluster: &Path) {
    while serves(pid, cluster) {
        sleep(LOOK_INTERVAL).await;
    }
}

/// Ends a postmaster: a fast stop, which disconnects everyone and writes all data, for as long as `fast_timeout`; then, or
/// when `hurry` completes, an immediate stop, which leaves the rest to the recovery at the next start; then it is killed.
/// `ended` waits for its end. False if it is still there.
pub(super) async fn stop(
    pid: Pid,
    cluster: &Path,
    fast_timeout: Duration,
    hurry: impl Future<Output = ()>,
    mut ended: impl AsyncFnMut(),
) -> bool {
    // A signal fails if the process ended meanwhile, which is what the signal is for.
    let _gone = kill(pid, Signal::SIGINT);
    let slow = async {
        sleep(fast_timeout.min(UNUSUAL)).await;
        if fast_timeout > UNUSUAL {
            tracing::info!(%pid, "PostgreSQL is still writing its memory to disk");
            sleep(fast_timeout - UNUSUAL).await;
        }
    };
    let (hurry, slow) = (pin!(hurry), pin!(slow));
    tokio::select! {
        biased;
        () = hurry => tracing::warn!(%pid, "stopping PostgreSQL at once; it recovers at its next start"),
        () = ended() => return true,
        () = slow => tracing::warn!(
            %pid,
            waited_ms = millis(fast_timeout),
            "PostgreSQL did not end on a fast stop; stopping it at once, it recovers at its next start"
        ),
    }
    let _gone = kill(pid, Signal::SIGQUIT);
    if timeout(IMMEDIATE_STOP_TIMEOUT, ended()).await.is_ok() {
        return true;
    }
    tracing::warn!(
        %pid,
        waited_ms = millis(IMMEDIATE_STOP_TIMEOUT),
        "PostgreSQL did not end on an immediate stop; killing it, it recovers at its next start"
    );
    if getpgid(Some(pid)) == Ok(pid) {
        let _gone = killpg(pid, Signal::SIGKILL);
    }
    let _gone = kill(pid, Signal::SIGKILL);
    let is_gone = timeout(KILL_TIMEOUT, ended()).await.is_ok();
    end_leftovers(cluster).await;
    if !is_gone {
        tracing::error!(%pid, "PostgreSQL is still there after it was killed, probably waiting for a disk");
    }
    is_gone
}

/// Ends the processes that a killed postmaster left behind: they keep its memory, and no other can start meanwhile. Most
/// notice by themselves and end.
pub(super) async fn end_leftovers(cluster: &Path) {
    if end_by_themselves(cluster).await {
        return;
    }
    let left = all_of(cluster);
    tracing::warn!(
        count = left.len(),
        "killing processes that a postmaster left behind"
    );
    for pid in left {
        let _gone = kill(pid, Signal::SIGKILL);
    }
    // If they stay all the same, the next start says so.
    let _ended = end_by_themselves(cluster).await;
}

async fn end_by_themselves(cluster: &Path) -> bool {
    let end = Instant::now() + KILL_TIMEOUT;
    while !all_of(cluster).is_empty() {
        if Instant::now() > end {
            return false;
        }
        sleep(LOOK_INTERVAL).await;
    }
    true
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
