//! Usage: the processor time of client, server and database, and the memory of the server.

use crate::harness::{MachineTime, ProcessUse};

/// What client, server, database and the whole machine have used so far; `None` where it is not ours to see.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    /// CPU seconds of the client, which is this process.
    pub(super) client_cpu_seconds: Option<f64>,
    /// CPU seconds of the server, all its processes together.
    pub(super) server_cpu_seconds: Option<f64>,
    /// CPU seconds of all processes of PostgreSQL.
    pub(super) database_cpu_seconds: Option<f64>,
    /// Of all processors together.
    pub(super) machine: Option<MachineTime>,
}

impl Usage {
    /// Until now.
    pub(super) fn of(servers: &[i32], postmaster: Option<i32>) -> Self {
        let with_children = |pid: i32| ProcessUse::of(pid).cpu_seconds_with_children();
        let of_servers = servers.iter().copied().map(with_children).sum();
        let of_database = |postmaster: i32| {
            let sessions = ProcessUse::of_children(postmaster).into_iter();
            let of_sessions = sessions.map(ProcessUse::cpu_seconds_with_children);
            with_children(postmaster) + of_sessions.sum::<f64>()
        };
        let client = i32::try_from(std::process::id()).ok();
        Self {
            client_cpu_seconds: client.map(|pid| ProcessUse::of(pid).cpu_seconds),
            server_cpu_seconds: (!servers.is_empty()).then_some(of_servers),
            database_cpu_seconds: postmaster.map(of_database),
            machine: MachineTime::now(),
        }
    }

    /// What was used since an earlier moment.
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

/// The resident memory of these processes together.
pub(super) fn rss_bytes(pids: &[i32]) -> u64 {
    pids.iter().map(|pid| ProcessUse::of(*pid).rss_bytes).sum()
}
