//! `ballast serve`: config → database → server → say where it listens → wait → drain.

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::args::Place;
use super::banner::Banner;
use super::demo;
use super::error::CliError;
use super::open_files::raise_open_files;
use super::serve_args::ServeArgs;
use super::signals::{Words, stop_on_signals};
use crate::embedded::{Description, Embedded, EmbeddedConfig, EmbeddedError};
use crate::output;
use crate::server::{Ended, Server};
use crate::stop::Stop;
use crate::store::ConnectError;
use crate::store::schema::{self, SchemaError};

/// The longest that the start waits for a database that recovers.
const READY_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// How often it asks, and how often it says what it waits for.
const CONNECT_INTERVAL: Duration = Duration::from_secs(1);
const WORD_INTERVAL: Duration = Duration::from_secs(10);

pub(super) async fn run(args: ServeArgs) -> Result<(), CliError> {
    args.ledger.start_logging();
    raise_open_files();
    let stop = stop_on_signals(Words {
        stopping: || tracing::info!("stopping; a second signal ends it at once"),
        stopping_at_once: || {
            tracing::warn!("stopping at once; what is in flight is not answered");
        },
    })?;
    match args.ledger.place(false)? {
        Place::Named(url) => {
            let serving = serve(&args, url, None, stop.asked_token());
            let served = stop.unless_forced(serving).await;
            served.unwrap_or(Err(CliError::StoppedAtOnce))
        }
        Place::Private(config) => serve_private(&args, config, &stop).await,
    }
}

/// Serves the ledger of a private PostgreSQL, which ends with this process and not before.
async fn serve_private(
    args: &ServeArgs,
    config: EmbeddedConfig,
    stop: &Stop,
) -> Result<(), CliError> {
    let mut embedded = match Embedded::start(config, stop).await {
        Err(EmbeddedError::Stopped) => return Ok(()),
        started => started?,
    };
    let description = embedded.description();
    let url = embedded.database_url();
    let end = stop.asked_token();
    let serving = async {
        let mut serving = pin!(serve(args, url, Some(&description), end.clone()));
        tokio::select! {
            served = &mut serving => served,
            error = embedded.keep_running(|| stop.is_asked()) => {
                tracing::error!(%error, "stopping, because the embedded PostgreSQL cannot be kept running");
                end.cancel();
                let _drained = serving.await;
                Err(error.into())
            }
        }
    };
    let served = stop.unless_forced(serving).await;
    embedded.stop(stop.forced()).await;
    // It may have been forced while PostgreSQL stopped.
    match served {
        Some(served) if !stop.is_forced() => served,
        _ => Err(CliError::StoppedAtOnce),
    }
}

/// Serves until `end` is cancelled.
async fn serve(
    args: &ServeArgs,
    database_url: String,
    embedded: Option<&Description>,
    end: CancellationToken,
) -> Result<(), CliError> {
    // The address first: whoever starts a second one by mistake must not migrate the database of the first.
    let server = Server::bind(args.config(database_url.clone())).await?;
    tokio::select! {
        prepared = prepare(args, &database_url) => prepared?,
        () = end.cancelled() => return Ok(()),
    }
    let has_demo = match embedded {
        Some(_) => demo::seed(server.store()).await?,
        None => false,
    };
    output::show(Banner {
        address: server.address(),
        json_address: server.json_address(),
        embedded,
        has_demo,
    });
    match server.run(end.cancelled()).await {
        Ended::Drained => tracing::info!("stopped"),
        Ended::CutShort => return Err(CliError::CutShort),
        Ended::WritePathDied => return Err(CliError::WritePathDied),
    }
    Ok(())
}

/// Makes sure that the database can be served.
async fn prepare(args: &ServeArgs, database_url: &str) -> Result<(), CliError> {
    let mut client = connect(database_url, args.connect_timeout()).await?;
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

/// Connects. A database that starts or recovers from a crash is waited for.
async fn connect(database_url: &str, timeout: Duration) -> Result<Client, SchemaError> {
    let started = Instant::now();
    let mut next_word = started;
    loop {
        let error = match schema::connect(database_url, timeout).await {
            Err(error @ SchemaError::Connect(ConnectError::NotReady { .. })) => error,
            connected => return connected,
        };
        let waited = started.elapsed();
        if waited > READY_TIMEOUT {
            return Err(error);
        }
        if Instant::now() >= next_word {
            tracing::info!(waited_s = waited.as_secs(), %error, "waiting for the database");
            next_word += WORD_INTERVAL;
        }
        tokio::time::sleep(CONNECT_INTERVAL).await;
    }
}
