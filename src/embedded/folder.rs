//! The data folder: who may use it, and where its parts are.

use std::fs::{self, File, Permissions};
use std::future::pending;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Gid, Pid, Uid, User};
use tokio::process::Command;

use super::machine::free_disk_bytes;
use super::{EmbeddedError, processes};

/// The folder of a ballast that was told no other.
const DEFAULT: &str = ".ballast";
/// The folder of a ballast that was told no other and runs as root where its PostgreSQL may not go, such as /root.
const DEFAULT_OF_ROOT: &str = "/var/lib/ballast";
/// What a folder may hold that has no cluster yet: what a start before it left, and what a disk of its own has.
const FILES_BEFORE_CLUSTER: [&str; 5] = [
    "lock",
    "run",
    "postgres.log",
    "postgres.unfinished",
    "lost+found",
];
/// How much of the end of the log is looked at.
const LOG_END_BYTES: u64 = 16 << 10;
/// What the server writes each time that it is asked whether it is ready, and is not.
const ANSWERS_TO_US: [&str; 2] = [
    "the database system is ",
    "Consistent recovery state has not been yet reached",
];
/// A unix socket's path has 107 bytes at most, and PostgreSQL adds the name of the socket.
const SOCKET_DIR_LENGTH_MAX: usize = 90;

/// The user that PostgreSQL runs as, if not the current one: it refuses to run as root.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unprivileged(Option<(Uid, Gid)>);

impl Unprivileged {
    pub(super) fn current() -> Result<Self, EmbeddedError> {
        if !Uid::effective().is_root() {
            return Ok(Self(None));
        }
        let find = |name| User::from_name(name).ok().flatten();
        let user = find("postgres")
            .or_else(|| find("nobody"))
            .ok_or(EmbeddedError::NoUser)?;
        Ok(Self(Some((user.uid, user.gid))))
    }

    pub(super) fn drop_to(self, command: &mut Command) {
        if let Some((uid, gid)) = self.0 {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
    }

    fn own(self, path: &Path) -> io::Result<()> {
        match self.0 {
            Some((uid, gid)) => chown(path, Some(uid.as_raw()), Some(gid.as_raw())),
            None => Ok(()),
        }
    }

    /// Whether the user may pass through every folder on the way to `path`.
    fn can_reach(self, path: &Path) -> bool {
        let Some((uid, gid)) = self.0 else {
            return true;
        };
        let passable = |folder: &Path| {
            use std::os::unix::fs::MetadataExt;
            let Ok(metadata) = folder.metadata() else {
                return true;
            };
            let shift = if metadata.uid() == uid.as_raw() {
                6
            } else if metadata.gid() == gid.as_raw() {
                3
            } else {
                0
            };
            metadata.mode() >> shift & 1 == 1
        };
        path.ancestors().skip(1).all(passable)
    }
}

/// A data folder that belongs to this process.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    socket_dir: PathBuf,
    user: Unprivileged,
    /// Unlocks when it is dropped, and when the process dies.
    _lock: File,
}

impl Folder {
    /// Takes the folder for this process; the default one if `None`. One that does not exist is made, unless there must be
    /// a ledger in it.
    pub(super) fn open(
        chosen: Option<&Path>,
        has_ledger: bool,
        user: Unprivileged,
    ) -> Result<Self, EmbeddedError> {
        let path = std::path::absolute(chosen.unwrap_or(Path::new(DEFAULT)));
        let mut path = path.map_err(|error| failed(Path::new(DEFAULT))(error))?;
        if !user.can_reach(&path) {
            if chosen.is_some() {
                let cause = "PostgreSQL does not run as root, and its user may not enter a folder on that path".to_owned();
                return Err(EmbeddedError::Folder {
                    data_dir: path,
                    cause,
                });
            }
            path = DEFAULT_OF_ROOT.into();
        }
        let failed = failed(&path);
        if has_ledger && cluster_version(&path).is_none() {
            return Err(EmbeddedError::NoLedger(path));
        }
        if let Some(file) = foreign_file(&path).map_err(failed)? {
            return Err(EmbeddedError::Foreign {
                data_dir: path,
                file,
            });
        }
        fs::create_dir_all(&path).map_err(failed)?;
        user.own(&path).map_err(failed)?;
        let lock = File::create(path.join("lock")).map_err(failed)?;
        lock.try_lock()
            .map_err(|_| EmbeddedError::InUse(path.clone()))?;
        let socket_dir = socket_dir(&path);
        make_socket_dir(&socket_dir).map_err(failed)?;
        fs::set_permissions(&socket_dir, Permissions::from_mode(0o700)).map_err(failed)?;
        user.own(&socket_dir).map_err(failed)?;
        Ok(Self {
            path,
            socket_dir,
            user,
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    pub(super) fn user(&self) -> Unprivileged {
        self.user
    }

    pub(super) fn cluster(&self) -> PathBuf {
        self.path.join("postgres")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("postgres.log")
    }

    /// The error of a disk on which less than this is free; `None` if there is more, or if that is not known.
    pub(super) fn disk_full(&self, needed_mib: u64, cause: impl ToString) -> Option<EmbeddedError> {
        let free_mib = free_disk_bytes(&self.path)? >> 20;
        (free_mib < needed_mib).then(|| EmbeddedError::DiskFull {
            data_dir: self.path.clone(),
            free_mib,
            cause: cause.to_string(),
        })
    }

    pub(super) fn has_cluster(&self) -> bool {
        self.cluster_version().is_some()
    }

    /// The major version of the cluster.
    pub(super) fn cluster_version(&self) -> Option<String> {
        cluster_version(&self.path)
    }

    /// An empty place for a new cluster.
    pub(super) fn unfinished_cluster(&self) -> Result<PathBuf, EmbeddedError> {
        let path = self.path.join("postgres.unfinished");
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(&self.path)(error)),
            _ => Ok(path),
        }
    }

    pub(super) fn keep_cluster(&self, unfinished: &Path) -> Result<(), EmbeddedError> {
        fs::rename(unfinished, self.cluster()).map_err(failed(&self.path))
    }

    /// The log, to append to, once for each of the two output streams.
    pub(super) fn open_log(&self) -> Result<(File, File), EmbeddedError> {
        let failed = failed(&self.path);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .map_err(failed)?;
        self.user.own(&self.log()).map_err(failed)?;
        Ok((log.try_clone().map_err(failed)?, log))
    }

    /// The last complaint in the log.
    pub(super) fn last_words(&self) -> String {
        let log = self.log_end();
        let complaint = |line: &&String| line.contains("FATAL") || line.contains("PANIC");
        let words = log.iter().rev().find(complaint).or(log.last());
        words.map_or("its log is empty".to_owned(), |line| line.trim().to_owned())
    }

    /// The last lines of the log, at most so many, as one.
    pub(super) fn last_lines(&self, count_max: usize) -> String {
        let log = self.log_end();
        log[log.len().saturating_sub(count_max)..].join(" | ")
    }

    /// The lines at the end of the log, without those that are answers to our own question whether it is ready.
    fn log_end(&self) -> Vec<String> {
        let read = || -> io::Result<Vec<u8>> {
            let mut log = File::open(self.log())?;
            let size = log.metadata()?.len();
            log.seek(SeekFrom::Start(size.saturating_sub(LOG_END_BYTES)))?;
            let mut end = Vec::new();
            log.take(LOG_END_BYTES).read_to_end(&mut end)?;
            Ok(end)
        };
        let end = read().unwrap_or_default();
        String::from_utf8_lossy(&end)
            .lines()
            .filter(|line| !ANSWERS_TO_US.iter().any(|answer| line.contains(answer)))
            .map(str::to_owned)
            .collect()
    }

    /// Ends a server that outlived a ballast that was killed, and what a killed server left behind. The lock says that no
    /// other ballast owns it.
    pub(super) async fn end_orphans(&self, fast_timeout: Duration) -> Result<(), EmbeddedError> {
        let pid_file = self.cluster().join("postmaster.pid");
        let text = fs::read_to_string(&pid_file).unwrap_or_default();
        let pid = text
            .lines()
            .next()
            .and_then(|line| line.trim().parse().ok());
        if let Some(pid) = pid.map(Pid::from_raw) {
            if processes::serves(pid, &self.cluster()) {
                self.end_orphan(pid, fast_timeout).await?;
            } else if processes::works_in(pid).is_some() {
                // A crash left the file, and the number is that of another process by now, for which PostgreSQL would
                // not start. If there is none of that number, PostgreSQL removes the file itself.
                fs::remove_file(&pid_file).map_err(failed(&self.path))?;
            }
        }
        processes::end_leftovers(&self.cluster()).await;
        Ok(())
    }

    async fn end_orphan(&self, pid: Pid, fast_timeout: Duration) -> Result<(), EmbeddedError> {
        tracing::warn!(%pid, "stopping a PostgreSQL whose ballast was killed");
        let cluster = self.cluster();
        let gone = async || processes::gone(pid, &cluster).await;
        match processes::stop(pid, &cluster, fast_timeout, pending(), gone).await {
            true => Ok(()),
            false => Err(EmbeddedError::Folder {
                data_dir: self.path.clone(),
                cause: format!("PostgreSQL (process {pid}) still runs in it and cannot be killed"),
            }),
        }
    }
}

/// The major version of the cluster in this data folder, if there is one.
fn cluster_version(path: &Path) -> Option<String> {
    let version = fs::read_to_string(path.join("postgres/PG_VERSION"));
    version.ok().map(|version| version.trim().to_owned())
}

/// A file of somebody else in a folder that holds no cluster: such a folder is not ours to give to PostgreSQL's user.
fn foreign_file(path: &Path) -> io::Result<Option<PathBuf>> {
    if cluster_version(path).is_some() {
        return Ok(None);
    }
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        if !FILES_BEFORE_CLUSTER.iter().any(|known| name == *known) {
            return Ok(Some(name.into()));
        }
    }
    Ok(None)
}

fn failed(path: &Path) -> impl Fn(io::Error) -> EmbeddedError + Copy {
    move |error| match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => EmbeddedError::DiskFull {
            data_dir: path.to_owned(),
            free_mib: free_disk_bytes(path).unwrap_or(0) >> 20,
            cause: error.to_string(),
        },
        _ => EmbeddedError::Folder {
            data_dir: path.to_owned(),
            cause: error.to_string(),
        },
    }
}

/// Makes the folder of the socket. It may be in a folder where everybody may write, so what others put there is not taken for
/// ours.
fn make_socket_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => return made,
    }
    match fs::symlink_metadata(path)?.is_dir() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "the folder of its socket, {}, is there and is no folder; remove it",
            path.display()
        ))),
    }
}

fn socket_dir(path: &Path) -> PathBuf {
    let inside = path.join("run");
    if inside.as_os_str().len() <= SOCKET_DIR_LENGTH_MAX {
        return inside;
    }
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    std::env::temp_dir().join(format!("ballast-{:016x}", hasher.finish()))
}
