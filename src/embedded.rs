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
mod processes;

use std::future::{pending, ready};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use binaries::Binaries;
use folder::{Folder, Unprivileged};
use machine::free_disk_bytes;
pub(crate) use machine::memory_bytes;

use crate::stop::Stop;

/// The role and the database of the embedded server.
const NAME: &str = "ballast";
/// How long the server may say nothing while it starts. That it still recovers is something.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long `initdb` may take.
const INITDB_TIMEOUT: Duration = Duration::from_secs(300);
/// A start or a stop that takes longer is spoken of.
const UNUSUAL: Duration = Duration::from_secs(5);
/// How often it is said what a start waits for.
const WORD_INTERVAL: Duration = Duration::from_secs(10);
/// The pause before a server that ended by itself is started again; each further one is twice as long.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest such pause.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// A server that stayed up for so long has recovered: when it ends after that, it is a new trouble.
const STABLE: Duration = Duration::from_secs(60);
/// The most lines of the log that are shown when the server ended.
const LOG_LINES_MAX: usize = 3;
/// A ledger without rows takes some 40 MiB; its server needs room to write.
const DISK_MIB_MIN: u64 = 64;
/// With less the server cannot write its next segment of the WAL.
const DISK_MIB_FULL: u64 = 16;
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
/// of what a large ledger writes; the price, apart from the disk, is a longer recovery after a crash.
const MAX_WAL_SIZE_FRACTION: u64 = 10;
/// The least and the most of it, in MiB; no less than `min_wal_size`.
const MAX_WAL_SIZE_MIB: RangeInclusive<u64> = 1024..=8192;

/// Full pages after a checkpoint are most of the WAL of a large ledger; lz4 halves them, where the server has it.
const COMPRESS_WAL: &str = "SELECT 1 FROM pg_settings WHERE name = 'wal_compression' AND 'lz4' = ANY(enumvals) AND setting <> 'lz4'";

/// Where an embedded server lives, and how long it may take.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// The folder of its data; `None`: the default one.
    pub data_dir: Option<PathBuf>,
    /// The folder of its binaries; `None`: the newest that are found.
    pub postgres_bin: Option<PathBuf>,
    /// Whether the folder must hold a ledger already. Otherwise an empty one is made.
    pub has_ledger: bool,
    /// The longest that a start may take, with the recovery after a crash.
    pub start_timeout: Duration,
    /// The longest that a fast stop may take. After it the server is stopped at once.
    pub stop_timeout: Duration,
    /// How long it is tried to start a server again that ended by itself.
    pub restart_timeout: Duration,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            data_dir: None,
            postgres_bin: None,
            has_ledger: false,
            start_timeout: Duration::from_secs(30 * 60),
            stop_timeout: Duration::from_secs(60),
            restart_timeout: Duration::from_secs(5 * 60),
        }
    }
}

/// What a person wants to know of an embedded server.
#[derive(Debug, Clone)]
pub struct Description {
    /// Where its data lives.
    pub data_dir: PathBuf,
    /// The connection string of its database.
    pub database_url: String,
    /// Its version, such as "PostgreSQL 15.18".
    pub version: String,
}

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
    /// There must be a ledger, and there is none.
    #[error(
        "there is no ledger in {0}; name its folder with --data-dir, or its database with --database-url"
    )]
    NoLedger(PathBuf),
    /// The folder belongs to somebody else.
    #[error(
        "the data folder {data_dir} holds other files, such as {}; choose an empty or a new folder with --data-dir",
        .file.display()
    )]
    Foreign {
        /// The folder.
        data_dir: PathBuf,
        /// One of the files.
        file: PathBuf,
    },
    /// There is no room.
    #[error(
        "the disk of the data folder {data_dir} is full: {free_mib} MiB are free ({cause}); make room, or choose a folder \
         on another disk with --data-dir"
    )]
    DiskFull {
        /// The folder.
        data_dir: PathBuf,
        /// What is free.
        free_mib: u64,
        /// What could not be done.
        cause: String,
    },
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
    /// The server was not ready in time.
    #[error(
        "the embedded PostgreSQL was not ready after {waited_s} s: {cause}; if it only needs longer to recover from a crash, \
         raise --postgres-start-timeout-ms; its log is {log}"
    )]
    NotReady {
        /// How long it had.
        waited_s: u64,
        /// The last words of its log.
        cause: String,
        /// The log.
        log: PathBuf,
    },
    /// The server ended by itself, and cannot be kept running.
    #[error(
        "the embedded PostgreSQL ended by itself and could not be kept running for {tried_s} s: {cause}"
    )]
    EndedForGood {
        /// How long it was tried.
        tried_s: u64,
        /// Why not.
        cause: String,
    },
    /// The server ended before it was ready.
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
    config: EmbeddedConfig,
}

impl Embedded {
    /// Starts the server. Makes its cluster first if there is none. If `stop` is asked while the server starts, which takes
    /// long after some crashes, it is stopped again.
    pub async fn start(config: EmbeddedConfig, stop: &Stop) -> Result<Self, EmbeddedError> {
        let user = Unprivileged::current()?;
        let folder = Folder::open(config.data_dir.as_deref(), config.has_ledger, user)?;
        let binaries = Binaries::find(&folder, config.postgres_bin.as_deref())?;
        let ended = stop.unless_asked(folder.end_orphans(config.stop_timeout));
        ended.await.unwrap_or(Err(EmbeddedError::Stopped))?;
        if !folder.has_cluster() {
            let made = stop.unless_asked(initdb(&folder, &binaries));
            made.await.unwrap_or(Err(EmbeddedError::Stopped))?;
        }
        let server = spawn(&folder, &binaries)?;
        let mut embedded = Self {
            server,
            folder,
            binaries,
            config,
        };
        let prepared = stop.unless_asked(embedded.prepare()).await;
        let error = match prepared.unwrap_or(Err(EmbeddedError::Stopped)) {
            Ok(()) => return Ok(embedded),
            Err(error) => error,
        };
        match error {
            // It had its time.
            EmbeddedError::NotReady { .. } => embedded.stop(ready(())).await,
            _ => embedded.stop(stop.forced()).await,
        }
        Err(error)
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

    /// What a person wants to know of it.
    pub fn description(&self) -> Description {
        Description {
            data_dir: self.data_dir().to_owned(),
            database_url: self.database_url(),
            version: self.version().to_owned(),
        }
    }

    /// The path of one of the programs that came with the server, whether it is there or not.
    pub fn program(&self, name: &str) -> PathBuf {
        self.binaries.path(name)
    }

    /// Stops the server: its clients are disconnected, all data is written. If that takes too long, or when `hurry`
    /// completes, it is stopped at once, and recovers at its next start.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        self.end(self.config.stop_timeout, hurry).await;
    }

    async fn end(&mut self, fast_timeout: Duration, hurry: impl Future<Output = ()>) {
        let Some(pid) = self.pid().map(Pid::from_raw) else {
            return;
        };
        let server = &mut self.server;
        // An error says that there is no such child.
        let ended = async || drop(server.wait().await);
        processes::stop(pid, &self.folder.cluster(), fast_timeout, hurry, ended).await;
    }

    /// Waits until the server ends by itself, says so and starts it again, over and over. Comes back when it cannot be kept
    /// running. While this process stops, which `is_stopping` tells, a server that ended in order was stopped by whoever
    /// stops this process.
    ///
    /// Cancel safe: [`Embedded::stop`] stops what was started so far.
    pub async fn keep_running(&mut self, is_stopping: impl Fn() -> bool) -> EmbeddedError {
        let (mut trouble_since, mut pause) = (None, RESTART_PAUSE_MIN);
        loop {
            let up_since = Instant::now();
            let ended = self.server.wait().await;
            if is_stopping() && ended.as_ref().is_ok_and(ExitStatus::success) {
                return pending().await;
            }
            let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            let log = self.folder.last_lines(LOG_LINES_MAX);
            tracing::error!(%status, %log, "the embedded PostgreSQL ended by itself; it is started again");
            let down_since = Instant::now();
            if down_since - up_since > STABLE {
                (trouble_since, pause) = (None, RESTART_PAUSE_MIN);
            }
            let trouble_since = *trouble_since.get_or_insert(down_since);
            let mut result = Err(self.did_not_start());
            while result.is_err() && trouble_since.elapsed() <= self.config.restart_timeout {
                tokio::time::sleep(pause).await;
                result = self.start_again().await;
                pause = (pause * 2).min(RESTART_PAUSE_MAX);
                if let Err(error) = &result {
                    tracing::warn!(%error, pause_ms = pause.as_millis(), "the embedded PostgreSQL cannot be started again");
                }
            }
            if let Err(error) = result {
                return EmbeddedError::EndedForGood {
                    tried_s: trouble_since.elapsed().as_secs(),
                    cause: error.to_string(),
                };
            }
            let down_ms = down_since.elapsed().as_millis();
            tracing::info!(down_ms, "the embedded PostgreSQL runs again");
        }
    }

    async fn start_again(&mut self) -> Result<(), EmbeddedError> {
        processes::end_leftovers(&self.folder.cluster()).await;
        self.server = spawn(&self.folder, &self.binaries)?;
        let waited = self.wait_until_ready().await;
        if waited.is_err() {
            self.end(Duration::ZERO, ready(())).await;
        }
        waited
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
        let (mut heard_of, mut next_word) = (started, started + UNUSUAL);
        let mut poll_interval = POLL_INTERVAL;
        let url = self.url_of("postgres");
        loop {
            if let Ok(Some(_ended)) = self.server.try_wait() {
                return Err(self.did_not_start());
            }
            // One that hangs accepts, and says nothing.
            let connecting = tokio_postgres::connect(&url, tokio_postgres::NoTls);
            let recovers = match tokio::time::timeout(UNUSUAL, connecting).await {
                Ok(Ok(_connected)) => return Ok(()),
                Ok(Err(error)) => error.code() == Some(&SqlState::CANNOT_CONNECT_NOW),
                Err(_silence) => false,
            };
            let now = Instant::now();
            if recovers {
                heard_of = now;
            }
            if now >= next_word {
                let waited_s = (now - started).as_secs();
                let log = self.folder.last_lines(1);
                if recovers {
                    tracing::info!(waited_s, %log, "waiting for the embedded PostgreSQL, which recovers from a crash");
                } else {
                    tracing::info!(waited_s, %log, "waiting for the embedded PostgreSQL, which does not answer yet");
                }
                next_word = now + WORD_INTERVAL;
                // It writes a line to its log each time.
                poll_interval = PATIENT_POLL_INTERVAL;
            }
            if now - started > self.config.start_timeout || now - heard_of > SILENCE_MAX {
                return Err(EmbeddedError::NotReady {
                    waited_s: (now - started).as_secs(),
                    cause: self.folder.last_words(),
                    log: self.folder.log(),
                });
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
        let cause = self.folder.last_words();
        let full = self.folder.disk_full(DISK_MIB_FULL, &cause);
        full.unwrap_or(EmbeddedError::Start {
            cause,
            log: self.folder.log(),
        })
    }
}

/// Makes the cluster beside its place and moves it there, so that an interrupted start leaves no half of one.
async fn initdb(folder: &Folder, binaries: &Binaries) -> Result<(), EmbeddedError> {
    let unfinished = folder.unfinished_cluster()?;
    let needed = format!("a new ledger needs {DISK_MIB_MIN} MiB");
    if let Some(full) = folder.disk_full(DISK_MIB_MIN, needed) {
        return Err(full);
    }
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
    let output = tokio::time::timeout(INITDB_TIMEOUT, command.output());
    let output = output
        .await
        .map_err(|_elapsed| {
            EmbeddedError::Initdb(format!("it did not end within {INITDB_TIMEOUT:?}"))
        })?
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
    let free = free_disk_bytes(folder.path()).unwrap_or(0);
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
        cause: format!(
            "cannot run {}: {error}",
            binaries.path("postgres").display()
        ),
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
