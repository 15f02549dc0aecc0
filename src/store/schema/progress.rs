//! The progress of a migration: what the log says while one runs, which in a large ledger may take hours.

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

/// How often the log says that something still runs.
const INTERVAL: Duration = Duration::from_secs(3);
/// How long a look at the database may take; without an answer the log says less.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

const WATCH_MIGRATION: &str = include_str!("../sql/watch_migration.sql");

/// Another session, which sees what the session of the migrations does.
pub(super) struct Watch {
    pub(super) client: Client,
    /// The process of the session that is watched.
    pub(super) pid: i32,
}

impl Watch {
    /// What the other session does, in words.
    async fn look(&self) -> Option<String> {
        let params: [&(dyn ToSql + Sync); 1] = [&self.pid];
        let looking = self.client.query_opt(WATCH_MIGRATION, &params);
        let looked = tokio::time::timeout(LOOK_TIMEOUT, looking).await;
        let row = looked.ok()?.ok()??;
        let blocking: Vec<i32> = row.get("blocking_pids");
        if !blocking.is_empty() {
            let pids: Vec<String> = blocking.iter().map(ToString::to_string).collect();
            return Some(format!(
                "waits for a lock of the sessions with the process ids {}",
                pids.join(", ")
            ));
        }
        let (phase, done, total): (Option<String>, Option<i64>, Option<i64>) =
            (row.get("phase"), row.get("done"), row.get("total"));
        let phase = phase?;
        Some(match done.zip(total) {
            Some((done, total)) if total > 0 => {
                format!("builds an index ({phase}: {done} of {total})")
            }
            _ => format!("builds an index ({phase})"),
        })
    }
}

/// Waits for `work`, and says every few seconds that it still runs, and what it does as far as that is known.
pub(super) async fn telling<T>(
    what: &str,
    watch: Option<&Watch>,
    work: impl Future<Output = T>,
) -> T {
    let began = Instant::now();
    let mut work = pin!(work);
    loop {
        if let Ok(done) = tokio::time::timeout(INTERVAL, &mut work).await {
            return done;
        }
        let looked = match watch {
            Some(watch) => watch.look().await,
            None => None,
        };
        let elapsed_s = began.elapsed().as_secs();
        let doing = looked.as_deref().unwrap_or("works");
        tracing::info!(elapsed_s, doing, "{what} is still running");
    }
}
