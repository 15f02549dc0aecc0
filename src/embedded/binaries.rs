//! The PostgreSQL binaries of this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

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
        first.ok_or(EmbeddedError::NoBinaries { looked })
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
