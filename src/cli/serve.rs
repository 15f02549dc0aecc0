//! `ballast serve`: config → database → server → say where it listens → wait → drain.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::args::ServeArgs;
use super::banner::Banner;
use super::{CliError, demo};
use crate::embedded::Embedded;
use crate::server::Server;
use crate::store::schema;

pub(super) async fn run(args: ServeArgs) -> Result<(), CliError> {
    args.database.start_logging();
    raise_open_files();
    match &args.database.database_url {
        Some(url) => serve(&args, url.clone(), None).await,
        None => {
            let embedded =
                Embedded::start(args.data_dir.as_deref(), args.postgres_bin.as_deref()).await?;
            let served = serve(&args, embedded.database_url(), Some(&embedded)).await;
            embedded.stop().await;
            served
        }
    }
}

async fn serve(
    args: &ServeArgs,
    database_url: String,
    embedded: Option<&Embedded>,
) -> Result<(), CliError> {
    let mut stop = StopSignals::listen()?;
    let mut client = schema::connect(&database_url, args.connect_timeout()).await?;
    if !args.allow_data_loss {
        schema::check_durable(&client).await?;
    }
    match args.no_migrate {
        true => schema::check(&client).await?,
        false => schema::migrate(&mut client).await?,
    }
    drop(client);
    let server = Server::bind(args.config(database_url)).await?;
    let has_demo = match embedded {
        Some(_) => demo::seed(server.store()).await?,
        None => false,
    };
    Banner {
        address: server.address(),
        embedded,
        has_demo,
    }
    .print()?;
    if !server.run(stop.first()).await {
        tracing::warn!("the drain timeout passed before every request was answered");
    }
    tracing::info!("stopped");
    Ok(())
}

/// SIGTERM and Ctrl-C. The first one drains; whoever sends a second one does not want to wait.
struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn first(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Each connection is an open file, and the usual soft limit is 1024.
pub(super) fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
