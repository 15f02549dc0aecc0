//! The data folder: who may use it, and where its parts are.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, User};
use tokio::process::Command;
use tokio::time::Instant;

use super::EmbeddedError;

/// The folder of a ballast that was told no other.
const DEFAULT: &str = ".ballast";
/// The folder of a ballast that was told no other and runs as root where its PostgreSQL may not go, such as /root.
const DEFAULT_OF_ROOT: &str = "/var/lib/ballast";
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
    /// Takes the folder for this process; the default one if `None`.
    pub(super) fn open(chosen: Option<&Path>, user: Unprivileged) -> Result<Self, EmbeddedError> {
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
        fs::create_dir_all(&path).map_err(failed)?;
        user.own(&path).map_err(failed)?;
        let lock = File::create(path.join("lock")).map_err(failed)?;
        lock.try_lock()
            .map_err(|_| EmbeddedError::InUse(path.clone()))?;
        let socket_dir = socket_dir(&path);
        fs::create_dir_all(&socket_dir).map_err(failed)?;
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

    pub(super) fn has_cluster(&self) -> bool {
        self.cluster_version().is_some()
    }

    /// The major version of the cluster.
    pub(super) fn cluster_version(&self) -> Option<String> {
        fs::read_to_string(self.cluster().join("PG_VERSION"))
            .ok()
            .map(|version| version.trim().to_owned())
    }

    /// An empty place for a new cluster.
    pub(super) fn unfinished_cluster(&self) -> Result<PathBuf, EmbeddedError> {
        let path = self.path.join("postgres.unfinished");
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&self.path)(error)),
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
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        // Each time it is asked whether it is ready, it complains: it is starting up, or not yet accepting connections.
        let lines = || {
            log.lines()
                .rev()
                .filter(|line| !line.contains("the database system is "))
        };
        let complaint = |line: &&str| line.contains("FATAL") || line.contains("PANIC");
        let words = lines().find(complaint).or_else(|| lines().next());
        words.unwrap_or("no message").trim().to_owned()
    }

    /// Stops a server that outlived a ballast that was killed. The lock says that no other ballast owns it.
    pub(super) async fn stop_orphan(
        &self,
        timeout: Duration,
        poll_interval: Duration,
    ) -> Result<(), EmbeddedError> {
        let pid_file = self.cluster().join("postmaster.pid");
        let text = fs::read_to_string(&pid_file).unwrap_or_default();
        let Some(pid) = text
            .lines()
            .next()
            .and_then(|line| line.trim().parse().ok())
            .map(Pid::from_raw)
        else {
            return Ok(());
        };
        if !serves(pid, &self.cluster()) {
            // The file is what a crash of the machine left; PostgreSQL removes it.
            return Ok(());
        }
        tracing::warn!(%pid, "stopping a PostgreSQL that outlived its ballast");
        let end = Instant::now() + timeout;
        let mut signal = Some(Signal::SIGINT);
        while pid_file.exists() && kill(pid, signal.take()).is_ok() {
            if Instant::now() > end {
                let cause =
                    format!("PostgreSQL (process {pid}) still runs in it and does not stop");
                return Err(EmbeddedError::Folder {
                    data_dir: self.path.clone(),
                    cause,
                });
            }
            tokio::time::sleep(poll_interval).await;
        }
        Ok(())
    }
}

/// Whether the process is the server of this cluster: a postmaster works in the folder of its cluster. After a crash of
/// the machine the number may be that of anybody.
fn serves(pid: Pid, cluster: &Path) -> bool {
    let works_in = fs::read_link(format!("/proc/{pid}/cwd"));
    works_in.is_ok_and(|folder| {
        cluster
            .canonicalize()
            .is_ok_and(|cluster| cluster == folder)
    })
}

fn failed(path: &Path) -> impl Fn(io::Error) -> EmbeddedError + Copy {
    move |error| EmbeddedError::Folder {
        data_dir: path.to_owned(),
        cause: error.to_string(),
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
