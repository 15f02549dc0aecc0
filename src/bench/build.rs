//! Another build: a second `ballast` binary, such as that of an earlier version, which is compared with it.
//!
//! It keeps its ledger in its own schema, which it migrates and verifies itself. It is told only what every build
//! understands: the database, where to listen, and how much to log.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use super::error::BenchError;

/// How long it may take to tell its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// The binary of another build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// As it was named.
    name: String,
    path: PathBuf,
}

impl Build {
    /// The build whose binary this is.
    pub fn parse(path: &str) -> Result<Self, String> {
        let found = std::fs::canonicalize(path).map_err(|error| error.to_string())?;
        match found.is_file() {
            true => Ok(Self {
                name: path.to_owned(),
                path: found,
            }),
            false => Err("it is no file; name the binary of a ballast".to_owned()),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What it says about itself.
    pub(super) async fn version(&self) -> Result<String, BenchError> {
        let asking = self.run("--version", None);
        let answered = tokio::time::timeout(VERSION_TIMEOUT, asking).await;
        let output = answered.map_err(|_elapsed| self.failed("it does not tell its version"))??;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Brings a fresh database to its schema.
    pub(super) async fn migrate(&self, database_url: &str) -> Result<(), BenchError> {
        let output = self.run("migrate", Some(database_url)).await?;
        match output.status.success() {
            true => Ok(()),
            false => Err(self.failed(&format!("it made no schema: {}", last_line(&output.stderr)))),
        }
    }

    /// Recomputes its ledger.
    pub(super) async fn verify(&self, database_url: &str) -> Result<(), BenchError> {
        let output = self.run("verify", Some(database_url)).await?;
        if output.status.success() {
            return Ok(());
        }
        let stdout = String::from_utf8_lossy(&output.stdout);
        let finding = stdout
            .lines()
            .find_map(|line| line.strip_prefix("finding: "));
        Err(BenchError::NotInOrder {
            name: self.name.clone(),
            finding: finding.map_or_else(|| last_line(&output.stderr), str::to_owned),
        })
    }

    /// What went wrong with it.
    pub(super) fn failed(&self, cause: &str) -> BenchError {
        BenchError::server(&*self.name, cause)
    }

    async fn run(&self, command: &str, database_url: Option<&str>) -> Result<Output, BenchError> {
        let mut running = Command::new(&self.path);
        running
            .arg(command)
            .envs(database_url.map(|url| ("BALLAST_DATABASE_URL", url)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let ended = running.output().await;
        ended.map_err(|error| self.failed(&format!("it cannot be run: {error}")))
    }
}

fn last_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    last.unwrap_or("it did not say why").to_owned()
}
