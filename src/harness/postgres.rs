//! The private PostgreSQL of a run, and the end of a run that is told to stop.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::error::HarnessError;
use crate::embedded::{Embedded, EmbeddedConfig};
use crate::stop::Stop;

/// Does `work`, unless `stop` is asked before it is done. Processes that it started are killed then; if a Ctrl-C in the
/// terminal reached them too, what they say about it is not the reason.
pub(crate) async fn until_stopped<T, E: From<HarnessError>>(
    stop: &Stop,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match stop.unless_asked(work).await {
        Some(Err(_)) | None if stop.is_asked() => Err(HarnessError::Interrupted.into()),
        Some(worked) => worked,
        None => Err(HarnessError::Interrupted.into()),
    }
}

/// Does `work` on a private PostgreSQL in this folder, or in a temporary one, unless `stop` is asked before.
pub(crate) async fn with_embedded<T, E: From<HarnessError>>(
    folder: Option<&Path>,
    stop: &Stop,
    work: impl AsyncFnOnce(&Embedded) -> Result<T, E>,
) -> Result<T, E> {
    let temporary = tempfile::Builder::new()
        .prefix("ballast-harness-")
        .tempdir()
        .map_err(HarnessError::from)?;
    open_to_all(temporary.path()).map_err(HarnessError::from)?;
    let folder = folder.unwrap_or(temporary.path());
    let config = EmbeddedConfig {
        data_dir: Some(folder.to_owned()),
        ..EmbeddedConfig::default()
    };
    let embedded = Embedded::start(config, stop)
        .await
        .map_err(HarnessError::from)?;
    let worked = until_stopped(stop, work(&embedded)).await;
    embedded.stop(stop.forced()).await;
    worked
}

/// PostgreSQL may run as another user, who has to pass through.
fn open_to_all(folder: &Path) -> std::io::Result<()> {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
}
