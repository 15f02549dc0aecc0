//! An embedded PostgreSQL: a private server on the machine's own binaries, durable, reachable over a unix socket only,
//! kept between runs and stopped on exit.
//!
//! ```text
//! DATA_DIR/lock        held by the ballast that owns the folder
//! DATA_DIR/postgres    the cluster
//! DATA_DIR/run         the socket
//! DATA_DIR/postgres.log
//! ```

mod binaries;
mod folder;
mod machine;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use binaries::Binaries;
use folder::{Folder, Unprivileged};
use machine::free_disk_bytes;
pub(crate) use machine::memory_bytes;

/// The role and the database of the embedded server.
const NAME: &str = "ballast";
/// How long the server may say nothing while it starts. That it is still starting, after a crash for as long as it takes
/// to replay the WAL, is something: one that is stopped meanwhile begins anew.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take to write what is in its memory and stop, before it is told to drop everything and recovers at the
/// next start.
const STOP_TIMEOUT: Duration = Duration::from_secs(300);
/// A start or a stop that takes longer is spoken of.
const UNUSUAL: Duration = Duration::from_secs(5);
/// How often the server is asked whether it is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The same when it takes longer than usual.
const PATIENT_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Settings of the embedded server. Durability stays as PostgreSQL ships it: fsync, full_page_writes and
/// synchronous_commit are on.
const SETTINGS: [&str; 8] = [
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "max_connections=200",
    "wal_buffers=16MB",
    // A new segment of the WAL is filled with zeros and synced while every commit waits; one that is kept is not.
    "min_wal_size=1GB",
    "checkpoint_timeout=15min",
    "log_checkpoints=off",
    "cluster_name=ballast",
];

/// The part of the memory that is for shared buffers, as PostgreSQL advises.
const SHARED_BUFFERS_FRACTION: u64 = 4;
/// The least and the most of them, in MiB. They are taken from the machine as they are used.
const SHARED_BUFFERS_MIB: RangeInclusive<u64> = 128..=8192;

/// The part of the free disk that is for `max_wal_size`. Fewer checkpoints write fewer full pages to the WAL, which is most
/// of what a large ledger writes; the price, beside the disk, is a longer recovery after a crash.
const MAX_WAL_SIZE_FRACTION: u64 = 10;
/// The least and the most of it, in MiB; no less than `min_wal_size`.
const MAX_WAL_SIZE_MIB: RangeInclusive<u64> = 1024..=8192;

/// Full pages after a checkpoint are most of the WAL of a large ledger; lz4 halves them, where the server has it.
const COMPRESS_WAL: &str = "SELECT 1 FROM pg_settings WHERE name = 'wal_compression' AND 'lz4' = ANY(enumvals) AND setting <> 'lz4'";

/// Why there is no embedded server.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No PostgreSQL where it was looked for.
    #[error(
        "no PostgreSQL 15 or newer found {looked}; install it ({install}), name its binaries with --postgres-bin, or a \
         database with --database-url"
    )]
    NoBinaries {
        /// Where it was looked for, and what was found there that is too old.
        looked: String,
        /// The command that installs it on this system.
        install: String,
    },
    /// The cluster was made by a version that is not there any more.
    #[error(
        "the data in {data_dir} is of PostgreSQL {version}, which is not installed; install it, or choose another --data-dir"
    )]
    OtherVersion {
        /// The folder.
        data_dir: PathBuf,
        /// The major version of the cluster.
        version: String,
    },
    /// The folder cannot be used.
    #[error("cannot use the data folder {data_dir}: {cause}; choose another with --data-dir")]
    Folder {
        /// The folder.
        data_dir: PathBuf,
        /// Why not.
        cause: String,
    },
    /// Another process owns the folder.
    #[error(
        "another ballast uses the data folder {0}; stop it, choose another with --data-dir, or name the database that its \
         banner shows with --database-url"
    )]
    InUse(PathBuf),
    /// Running as root without a user to drop to.
    #[error(
        "PostgreSQL refuses to run as root and there is neither a user postgres nor nobody; start as another user"
    )]
    NoUser,
    /// `initdb` failed.
    #[error("initdb failed: {0}")]
    Initdb(String),
    /// It was told to stop before it was ready.
    #[error("stopped before the embedded PostgreSQL was ready")]
    Stopped,
    /// The server ended, or did not become ready.
    #[error("the embedded PostgreSQL did not start: {cause}; its log is {log}")]
    Start {
        /// The last words of its log.
        cause: String,
        /// The log.
        log: PathBuf,
    },
}

/// A running embedded server. Call [`Embedded::stop`]; if it is only dropped, the server goes on until the next start
/// finds and stops it.
#[derive(Debug)]
pub struct Embedded {
    server: Child,
    folder: Folder,
    binaries: Binaries,
}

impl Embedded {
    /// Starts the server of `data_dir`; of the default folder if `None`. Makes the cluster first if there is none. The
    /// binaries are those in `postgres_bin`; if `None`, the newest that are found. If `stop` ends while the server starts,
    /// which takes long after some crashes, it is stopped again.
    pub async fn start(
        data_dir: Option<&Path>,
        postgres_bin: Option<&Path>,
        stop: impl Future<Output = ()>,
    ) -> Result<Self, EmbeddedError> {
        let user = Unprivileged::current()?;
        let folder = Folder::open(data_dir, user)?;
        let binaries = Binaries::find(&folder, postgres_bin)?;
        let mut stop = pin!(stop);
        tokio::select! {
            stopped = folder.stop_orphan(STOP_TIMEOUT, POLL_INTERVAL) => stopped?,
            () = &mut stop => return Err(EmbeddedError::Stopped),
        }
        if !folder.has_cluster() {
            tokio::select! {
                made = initdb(&folder, &binaries) => made?,
                () = &mut stop => return Err(EmbeddedError::Stopped),
            }
        }
        let server = spawn(&folder, &binaries)?;
        let mut embedded = Self {
            server,
            folder,
            binaries,
        };
        tokio::select! {
            prepared = embedded.prepare() => prepared?,
            () = &mut stop => {
                embedded.stop().await;
                return Err(EmbeddedError::Stopped);
            }
        }
        Ok(embedded)
    }

    /// The connection string of its database.
    pub fn database_url(&self) -> String {
        self.url_of(NAME)
    }

    /// The process that all its others are children of.
    pub fn pid(&self) -> Option<i32> {
        self.server.id().and_then(|id| i32::try_from(id).ok())
    }

    /// Where its data lives.
    pub fn data_dir(&self) -> &Path {
        self.folder.path()
    }

    /// Its version, as its binaries say it.
    pub fn version(&self) -> &str {
        self.binaries.version()
    }

    /// The path of one of the programs that came with the server, whether it is there or not.
    pub fn program(&self, name: &str) -> PathBuf {
        self.binaries.path(name)
    }

    /// Stops the server: its clients are disconnected, all data is written.
    pub async fn stop(mut self) {
        // SIGINT is PostgreSQL's fast shutdown, SIGQUIT the immediate one.
        signal_child(&self.server, Signal::SIGINT);
        if self.ends_within(UNUSUAL).await {
            return;
        }
        tracing::info!("the embedded PostgreSQL still writes what is in its memory");
        if self.ends_within(STOP_TIMEOUT).await {
            return;
        }
        tracing::warn!("the embedded PostgreSQL does not stop; it will recover at the next start");
        signal_child(&self.server, Signal::SIGQUIT);
        if !self.ends_within(UNUSUAL).await {
            tracing::warn!("the embedded PostgreSQL goes on; the next start stops it");
        }
    }

    async fn ends_within(&mut self, duration: Duration) -> bool {
        let ended = tokio::time::timeout(duration, self.server.wait());
        ended.await.is_ok()
    }

    fn url_of(&self, database: &str) -> String {
        let host = self
            .folder
            .socket_dir()
            .to_string_lossy()
            .replace('\\', "\\\\")
            .replace('\'', "\\'");
        format!("host='{host}' user={NAME} dbname={database}")
    }

    async fn prepare(&mut self) -> Result<(), EmbeddedError> {
        self.wait_until_ready().await?;
        self.create_database().await
    }

    async fn wait_until_ready(&mut self) -> Result<(), EmbeddedError> {
        let started = Instant::now();
        let mut end = started + START_TIMEOUT;
        let mut poll_interval = POLL_INTERVAL;
        let url = self.url_of("postgres");
        loop {
            if let Ok(Some(_ended)) = self.server.try_wait() {
                return Err(self.did_not_start());
            }
            // One that hangs accepts, and says nothing.
            let connecting = tokio_postgres::connect(&url, tokio_postgres::NoTls);
            match tokio::time::timeout(UNUSUAL, connecting).await {
                Ok(Ok(_connected)) => return Ok(()),
                Ok(Err(error)) if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW) => {
                    end = Instant::now() + START_TIMEOUT;
                }
                Ok(Err(_nobody_listens)) => {}
                Err(_silence) => {}
            }
            if poll_interval == POLL_INTERVAL && started.elapsed() > UNUSUAL {
                tracing::info!(
                    "the embedded PostgreSQL is still starting; after a crash it recovers first"
                );
                // It writes a line to its log each time.
                poll_interval = PATIENT_POLL_INTERVAL;
            }
            if Instant::now() > end {
                signal_child(&self.server, Signal::SIGQUIT);
                return Err(self.did_not_start());
            }
            tokio::time::sleep(poll_interval).await;
        }
    }

    async fn create_database(&self) -> Result<(), EmbeddedError> {
        let created = async {
            let (client, connection) =
                tokio_postgres::connect(&self.url_of("postgres"), tokio_postgres::NoTls).await?;
            tokio::spawn(connection);
            let sql = "SELECT 1 FROM pg_database WHERE datname = $1";
            if client.query_opt(sql, &[&NAME]).await?.is_none() {
                client
                    .batch_execute(&format!("CREATE DATABASE {NAME}"))
                    .await?;
            }
            if client.query_opt(COMPRESS_WAL, &[]).await?.is_some() {
                client
                    .batch_execute(&format!("ALTER ROLE {NAME} SET wal_compression = lz4"))
                    .await?;
            }
            Ok(())
        };
        created.await.map_err(|error: tokio_postgres::Error| {
            let cause = crate::store::with_source(&error);
            EmbeddedError::Start {
                cause,
                log: self.folder.log(),
            }
        })
    }

    fn did_not_start(&self) -> EmbeddedError {
        EmbeddedError::Start {
            cause: self.folder.last_words(),
            log: self.folder.log(),
        }
    }
}

fn signal_child(child: &Child, signal: Signal) {
    if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
        // Fails if it ended meanwhile, which is what the signal is for.
        let _gone = kill(Pid::from_raw(id), signal);
    }
}

/// Makes the cluster beside its place and moves it there, so that an interrupted start leaves no half of one.
async fn initdb(folder: &Folder, binaries: &Binaries) -> Result<(), EmbeddedError> {
    let unfinished = folder.unfinished_cluster()?;
    let mut command = Command::new(binaries.path("initdb"));
    command
        .arg("--pgdata")
        .arg(&unfinished)
        .args([
            "--username",
            NAME,
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--data-checksums",
        ])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    folder.user().drop_to(&mut command);
    let output = command
        .output()
        .await
        .map_err(|error| EmbeddedError::Initdb(error.to_string()))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let last = words
            .lines()
            .rev()
            .find(|line| line.contains("error"))
            .or_else(|| words.lines().last());
        return Err(EmbeddedError::Initdb(
            last.unwrap_or("no message").trim().to_owned(),
        ));
    }
    folder.keep_cluster(&unfinished)
}

/// So many MiB are this part of what the machine has, within bounds.
fn mib_of(bytes: u64, fraction: u64, bounds: RangeInclusive<u64>) -> u64 {
    (bytes / fraction / (1 << 20)).clamp(*bounds.start(), *bounds.end())
}

/// The settings that depend on the machine.
fn measured_settings(folder: &Folder) -> [String; 2] {
    let shared_buffers = mib_of(memory_bytes(), SHARED_BUFFERS_FRACTION, SHARED_BUFFERS_MIB);
    let free = free_disk_bytes(folder.path());
    let max_wal_size = mib_of(free, MAX_WAL_SIZE_FRACTION, MAX_WAL_SIZE_MIB);
    [
        format!("shared_buffers={shared_buffers}MB"),
        format!("max_wal_size={max_wal_size}MB"),
    ]
}

fn spawn(folder: &Folder, binaries: &Binaries) -> Result<Child, EmbeddedError> {
    let (log, errors) = folder.open_log()?;
    let mut command = Command::new(binaries.path("postgres"));
    command
        .arg("-D")
        .arg(folder.cluster())
        .arg("-k")
        .arg(folder.socket_dir());
    let settings = SETTINGS.map(str::to_owned);
    for setting in settings.into_iter().chain(measured_settings(folder)) {
        command.args(["-c", &setting]);
    }
    // In a process group of its own: Ctrl-C in a terminal is for ballast, which stops it when it has drained.
    command
        .process_group(0)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    folder.user().drop_to(&mut command);
    command.spawn().map_err(|error| EmbeddedError::Start {
        cause: error.to_string(),
        log: folder.log(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_takes_its_part_of_any_machine() {
        let buffers = |bytes| mib_of(bytes, SHARED_BUFFERS_FRACTION, SHARED_BUFFERS_MIB);
        assert_eq!(buffers(0), 128, "not known");
        assert_eq!(buffers(4 << 30), 1024);
        assert_eq!(buffers(1 << 40), 8192);
        let wal = |bytes| mib_of(bytes, MAX_WAL_SIZE_FRACTION, MAX_WAL_SIZE_MIB);
        assert_eq!(wal(0), 1024, "not known");
        assert_eq!(wal(40 << 30), 4096);
        assert_eq!(wal(u64::MAX), 8192);
    }
}
