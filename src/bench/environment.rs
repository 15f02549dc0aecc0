//! The environment: the facts without which a figure says nothing.

mod disk;
mod stalls;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::task::spawn_blocking;

use super::error::BenchError;
use super::ledger;
use crate::embedded::{Embedded, memory_bytes};
use crate::harness::cpu_model;
use stalls::Stalls;

/// Where and how it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Environment {
    /// The version of this ballast.
    pub version: &'static str,
    /// Whether this ballast was built with optimizations; without them figures mean little.
    pub optimized: bool,
    /// What was typed, with passwords left out.
    pub command_line: String,
    /// When the first round began, in seconds since the epoch.
    pub start_time_s: u64,
    /// Processors of this machine.
    pub cpu_count: usize,
    /// What they are called; empty if nothing tells.
    pub cpu_model: String,
    /// Memory of this machine; 0 if nothing tells.
    pub memory_bytes: u64,
    /// The kernel of this machine; empty if nothing tells.
    pub kernel: String,
    /// The version of PostgreSQL, if its database is ours.
    pub postgres_version: Option<String>,
    /// The settings of PostgreSQL that matter most, if its database is ours.
    pub postgres_settings: BTreeMap<String, String>,
    /// How long its disk takes to write a page and sync it, if we started it: latencies by name, in microseconds.
    pub disk_sync_us: Option<BTreeMap<&'static str, u64>>,
    /// How long busy threads, one for each processor, stood still before the first round.
    pub stalls: Stalls,
}

impl Environment {
    /// Asks machine and database.
    pub(super) async fn of(
        database_url: Option<&str>,
        embedded: Option<&Embedded>,
    ) -> Result<Self, BenchError> {
        let (mut postgres_version, mut postgres_settings) = (None, BTreeMap::new());
        if let Some(url) = database_url {
            let client = ledger::connect(url).await?;
            let sql = "SELECT name, current_setting(name) FROM pg_settings WHERE name IN
                       ('server_version', 'fsync', 'synchronous_commit', 'full_page_writes', 'shared_buffers',
                        'wal_compression', 'max_wal_size', 'min_wal_size', 'wal_level', 'checkpoint_timeout')";
            for row in client.query(sql, &[]).await? {
                postgres_settings.insert(row.get(0), row.get(1));
            }
            postgres_version = postgres_settings.remove("server_version");
        }
        let disk_sync_us = match embedded.map(|embedded| embedded.data_dir().to_owned()) {
            Some(folder) => {
                let measuring = spawn_blocking(move || disk::sync_latencies(&folder));
                Some(measuring.await.map_err(std::io::Error::other)??)
            }
            None => None,
        };
        let cpu_count = std::thread::available_parallelism().map_or(0, usize::from);
        let stalls = spawn_blocking(move || Stalls::measure(cpu_count));
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            optimized: !cfg!(debug_assertions),
            command_line: command_line(std::env::args()),
            start_time_s: since_epoch.map_or(0, |passed| passed.as_secs()),
            cpu_count,
            cpu_model: cpu_model(),
            memory_bytes: memory_bytes(),
            kernel: kernel.trim().to_owned(),
            postgres_version,
            postgres_settings,
            disk_sync_us,
            stalls: stalls.await.map_err(std::io::Error::other)?,
        })
    }

    /// One line about the machine.
    pub(super) fn machine(&self) -> String {
        let mut words = vec![format!("{} CPUs", self.cpu_count)];
        words.extend((!self.cpu_model.is_empty()).then(|| self.cpu_model.clone()));
        words.extend(
            (self.memory_bytes > 0)
                .then(|| format!("{:.0} GB memory", self.memory_bytes as f64 / 1e9)),
        );
        words.extend((!self.kernel.is_empty()).then(|| format!("Linux {}", self.kernel)));
        words.join(", ")
    }

    /// One line about the database.
    pub(super) fn database(&self) -> String {
        let Some(version) = &self.postgres_version else {
            return "PostgreSQL of the target, unknown".to_owned();
        };
        let settings = self.postgres_settings.iter();
        let settings: Vec<String> = settings
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        format!("PostgreSQL {version}: {}", settings.join(", "))
    }

    /// One line about the disk, if anything is known about it.
    pub(super) fn disk(&self) -> Option<String> {
        let latencies = self.disk_sync_us.as_ref()?;
        let shown: Vec<String> = disk::SYNC_QUANTILES
            .iter()
            .filter_map(|(name, _)| {
                Some(format!("{name} {:.2}", *latencies.get(name)? as f64 / 1e3))
            })
            .collect();
        Some(format!(
            "8 KiB written and synced (fdatasync) in ms: {}",
            shown.join(", ")
        ))
    }
}

/// The words as a shell takes them. A connection string may hold a password, so it is left out.
fn command_line(words: impl Iterator<Item = String>) -> String {
    let mut shown = vec!["ballast".to_owned()];
    let mut is_secret = false;
    for word in words.skip(1) {
        let is_quiet = |c: char| c.is_ascii_alphanumeric() || "-_./:,+=%".contains(c);
        shown.push(match word.split_once('=') {
            _ if is_secret => "…".to_owned(),
            Some(("--database-url", _)) => "--database-url=…".to_owned(),
            _ if !word.is_empty() && word.chars().all(is_quiet) => word.clone(),
            _ => format!("'{}'", word.replace('\'', r"'\''")),
        });
        is_secret = word == "--database-url";
    }
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::command_line;

    #[test]
    fn the_command_line_can_be_pasted_and_keeps_no_password() {
        let words = [
            "/x/ballast",
            "bench",
            "--database-url",
            "postgresql://u:p@h/d",
            "--variant",
            "--lanes 4",
        ];
        assert_eq!(
            command_line(words.map(str::to_owned).into_iter()),
            "ballast bench --database-url … --variant '--lanes 4'"
        );
    }
}
