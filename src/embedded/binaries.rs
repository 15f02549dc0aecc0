//! The PostgreSQL binaries of this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Uid;

use super::EmbeddedError;
use super::folder::Folder;

/// Where Debian, Red Hat and Homebrew keep versions side by side.
const ROOTS: [&str; 4] = [
    "/usr/lib/postgresql",
    "/usr/pgsql",
    "/opt/homebrew/opt",
    "/usr/local/opt",
];
const VERSION_MIN: u32 = 15;

/// A folder with `initdb` and `postgres` of one version.
#[derive(Debug)]
pub(super) struct Binaries {
    folder: PathBuf,
    version: String,
    major: u32,
}

impl Binaries {
    /// The newest binaries that fit the folder: those of its cluster's version, or any if it has none.
    pub(super) fn find(data: &Folder, chosen: Option<&Path>) -> Result<Self, EmbeddedError> {
        let (folders, looked) = match chosen {
            Some(chosen) => (vec![chosen.to_owned()], format!("in {}", chosen.display())),
            None => (
                candidates(),
                "on PATH or under /usr/lib/postgresql".to_owned(),
            ),
        };
        let mut found: Vec<Self> = folders.into_iter().filter_map(Self::in_folder).collect();
        let too_old = found.iter().find(|binaries| binaries.major < VERSION_MIN);
        let looked = match too_old {
            Some(old) => format!("{looked}, only {} in {}", old.version, old.folder.display()),
            None => looked,
        };
        found.retain(|binaries| binaries.major >= VERSION_MIN);
        if let (false, Some(version)) = (found.is_empty(), data.cluster_version()) {
            found.retain(|binaries| binaries.major.to_string() == version);
            if found.is_empty() {
                return Err(EmbeddedError::OtherVersion {
                    data_dir: data.path().to_owned(),
                    version,
                });
            }
        }
        // The first of the newest: PATH comes first.
        let newest = found.iter().map(|binaries| binaries.major).max();
        let first = found
            .into_iter()
            .find(|binaries| Some(binaries.major) == newest);
        first.ok_or_else(|| EmbeddedError::NoBinaries {
            looked,
            install: install_command(),
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Such as "PostgreSQL 15.18".
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    fn in_folder(folder: PathBuf) -> Option<Self> {
        if !folder.join("initdb").is_file() {
            return None;
        }
        let output = Command::new(folder.join("postgres"))
            .arg("--version")
            .output()
            .ok()?;
        // "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
        let text = String::from_utf8(output.stdout).ok()?;
        let number = text
            .split_whitespace()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        let major = number
            .split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()?;
        Some(Self {
            folder,
            version: format!("PostgreSQL {number}"),
            major,
        })
    }
}

/// The command that installs PostgreSQL on this system, as its user types it.
fn install_command() -> String {
    if cfg!(target_os = "macos") {
        return "brew install postgresql@17".to_owned();
    }
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    match package_manager(&release) {
        Some(command) if Uid::effective().is_root() => command.to_owned(),
        Some(command) => format!("sudo {command}"),
        None => "the server package of your system".to_owned(),
    }
}

/// What installs PostgreSQL's server on the system that `/etc/os-release` describes: by its own name, or by that of a
/// system that it is like.
fn package_manager(release: &str) -> Option<&'static str> {
    let value_of = |key: &str| {
        let mut lines = release.lines();
        let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.unwrap_or("").trim_matches('"')
    };
    let names = value_of("ID")
        .split_whitespace()
        .chain(value_of("ID_LIKE").split_whitespace());
    names.into_iter().find_map(|name| match name {
        "debian" | "ubuntu" => Some("apt-get install -y postgresql"),
        "fedora" | "rhel" | "centos" => Some("dnf install -y postgresql-server"),
        "opensuse" | "suse" => Some("zypper install -y postgresql-server"),
        "arch" => Some("pacman -S --noconfirm postgresql"),
        "alpine" => Some("apk add postgresql"),
        _ => None,
    })
}

fn candidates() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&path)
        .filter_map(|folder| real_folder(&folder))
        .collect();
    let versions = ROOTS
        .iter()
        .flat_map(|root| std::fs::read_dir(root).into_iter().flatten().flatten());
    on_path
        .into_iter()
        .chain(versions.map(|version| version.path().join("bin")))
        .collect()
}

/// The folder that a `postgres` on PATH really lives in, where its `initdb` is too.
fn real_folder(folder: &Path) -> Option<PathBuf> {
    let postgres = folder.join("postgres").canonicalize().ok()?;
    postgres.parent().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_system_has_its_own_command() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\n";
        assert_eq!(
            package_manager(debian),
            Some("apt-get install -y postgresql")
        );
        let mint = "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n";
        assert_eq!(package_manager(mint), Some("apt-get install -y postgresql"));
        let fedora = "ID=fedora\nVERSION_ID=42\n";
        assert_eq!(
            package_manager(fedora),
            Some("dnf install -y postgresql-server")
        );
        let rocky = "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n";
        assert_eq!(
            package_manager(rocky),
            Some("dnf install -y postgresql-server")
        );
        assert_eq!(package_manager("ID=nobody-knows\n"), None);
        assert_eq!(package_manager(""), None);
    }
}
