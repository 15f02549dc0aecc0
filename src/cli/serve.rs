//! `ballast serve`: config → database → server → say where it listens → wait → drain.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;

use super::args::ServeArgs;
use super::banner::Banner;
use super::signals::{Words, stop_signal};
use super::{CliError, demo};
use crate::embedded::{Embedded, EmbeddedError};
use crate::server::{Ended, Server};
use crate::store::schema;

pub(super) async fn run(args: ServeArgs) -> Result<(), CliError> {
    args.database.start_logging();
    raise_open_files();
    let stop = stop_signal(Words {
        stopping: || tracing::info!("stopping; a second signal ends it at once"),
        stopped_at_once: || {
            tracing::warn!("stopped at once; what was in flight is not answered");
        },
    })?;
    match &args.database.database_url {
        Some(url) => serve(&args, url.clone(), None, &stop).await,
        None => {
            let (folder, binaries) = (args.data_dir.as_deref(), args.postgres_bin.as_deref());
            let embedded = match Embedded::start(folder, binaries, stop.cancelled()).await {
                Err(EmbeddedError::Stopped) => return Ok(()),
                started => started?,
            };
            let served = serve(&args, embedded.database_url(), Some(&embedded), &stop).await;
            embedded.stop().await;
            served
        }
    }
}

async fn serve(
    args: &ServeArgs,
    database_url: String,
    embedded: Option<&Embedded>,
    stop: &CancellationToken,
) -> Result<(), CliError> {
    // The address first: whoever starts a second one by mistake must not migrate the database of the first.
    let server = Server::bind(args.config(database_url.clone())).await?;
    tokio::select! {
        prepared = prepare(args, &database_url) => prepared?,
        () = stop.cancelled() => return Ok(()),
    }
    let has_demo = match embedded {
        Some(_) => demo::seed(server.store()).await?,
        None => false,
    };
    Banner {
        address: server.address(),
        json_address: server.json_address(),
        embedded,
        has_demo,
    }
    .print()?;
    match server.run(stop.cancelled()).await {
        Ended::Drained => tracing::info!("stopped"),
        Ended::CutShort => return Err(CliError::CutShort),
        Ended::WritePathDied => return Err(CliError::WritePathDied),
    }
    Ok(())
}

/// Sees to it that the database can be served.
async fn prepare(args: &ServeArgs, database_url: &str) -> Result<(), CliError> {
    let mut client = schema::connect(database_url, args.connect_timeout()).await?;
    if !args.allow_data_loss {
        schema::check_durable(&client).await?;
    }
    match args.no_migrate {
        true => schema::check(&client).await?,
        false => {
            schema::migrate_telling(&mut client, database_url, args.connect_timeout()).await?;
        }
    }
    schema::check_privileges(&client).await?;
    Ok(())
}

/// Each connection is an open file, and the usual soft limit is 1024.
pub(super) fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
