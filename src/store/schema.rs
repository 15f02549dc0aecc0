//! The schema: brings a database to the version of this binary, under a lock, and refuses one that it does not know.
//! Also refuses a database that would forget what it promised.

mod progress;

use std::time::{Duration, Instant};

use refinery::{Migration, Runner, Target};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use super::connect_error::ConnectError;
use super::database_url::{self, DatabaseUrlError};
use super::error::{StoreError, with_source};
use super::standing::{Obstacle, ServerStanding};
use progress::{Watch, telling};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// Held while migrations run; "ballast" in ASCII, cut to fit.
const MIGRATION_LOCK: i64 = 0x62_61_6c_6c_61_73_74;

/// The oldest server that Ballast is tested with.
const SERVER_VERSION_MIN: i32 = 15;

/// Why a database cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The URL is not one that can be used.
    #[error(transparent)]
    Url(#[from] DatabaseUrlError),
    /// The database lets nobody in.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke.
    #[error("cannot reach the database: {0}; check the host, the port and that PostgreSQL runs")]
    Unreachable(String),
    /// The server is too old.
    #[error(
        "PostgreSQL {found} is too old, {SERVER_VERSION_MIN} or newer is needed; upgrade the server"
    )]
    ServerTooOld {
        /// Its major version.
        found: i32,
    },
    /// The database was migrated by a newer Ballast.
    #[error("the schema is at version {found}, this ballast knows {known}; start a newer ballast")]
    Newer {
        /// The version of the database.
        found: i32,
        /// The newest version of this binary.
        known: i32,
    },
    /// The database needs migrations.
    #[error("the schema is at version {found}, version {needed} is needed; run `ballast migrate`")]
    Older {
        /// The version of the database; 0: empty.
        found: i32,
        /// The newest version of this binary.
        needed: i32,
    },
    /// A migration was changed after it was applied.
    #[error(
        "migration {0} was applied with other content; this database was migrated by another build of ballast"
    )]
    Diverged(String),
    /// The database would lose committed money in a crash.
    #[error(
        "{setting} is {value}: a crash of PostgreSQL could lose answered operations; turn it on, or start with \
         --allow-data-loss"
    )]
    NotDurable {
        /// The setting.
        setting: String,
        /// Its value.
        value: String,
    },
    /// The database needs migrations and takes none.
    #[error("the schema is at version {found} and version {needed} is needed, but {obstacle}")]
    ReadOnly {
        /// The version of the database; 0: empty.
        found: i32,
        /// The newest version of this binary.
        needed: i32,
        /// Why it takes none.
        obstacle: Obstacle,
    },
    /// The role cannot do what serving needs.
    #[error("cannot serve this database: {0}")]
    Obstacle(Obstacle),
    /// SQLSTATE 42501 or 3F000 while tables are made: PostgreSQL 15 and newer let only the owner of a database do that.
    #[error(
        "the role of --database-url may not make the tables of ballast ({0}); GRANT CREATE ON SCHEMA public to it, or run \
         `ballast migrate` with a role that may and serve with --no-migrate"
    )]
    MayNotMigrate(String),
    /// SQLSTATE 42501 while they are read.
    #[error(
        "the role of --database-url may not use the tables of ballast ({0}); GRANT SELECT, INSERT, UPDATE, DELETE ON ALL \
         TABLES IN SCHEMA public to it"
    )]
    MayNotUse(String),
    /// A migration failed, or the database answered something unexpected.
    #[error("cannot prepare the schema: {0}")]
    Failed(String),
}

impl From<StoreError> for SchemaError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { cause, .. } => Self::Unreachable(cause),
            error => Self::Failed(error.to_string()),
        }
    }
}

impl From<tokio_postgres::Error> for SchemaError {
    fn from(error: tokio_postgres::Error) -> Self {
        if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
            let message = error.as_db_error().map(|error| error.message().to_owned());
            return Self::MayNotUse(message.unwrap_or_default());
        }
        match StoreError::from(&error) {
            StoreError::Unavailable { .. } => Self::Unreachable(with_source(&error)),
            _ => Self::Failed(with_source(&error)),
        }
    }
}

/// Connects for schema work: one connection, outside of any pool, closed when dropped.
pub async fn connect(database_url: &str, timeout: Duration) -> Result<Client, SchemaError> {
    let mut config = database_url::parse(database_url)?;
    config.application_name("ballast schema");
    super::pool::bound_silence(&mut config, timeout);
    let connected = tokio::time::timeout(timeout, config.connect(NoTls)).await;
    let connected = connected.map_err(|_elapsed| ConnectError::timeout(&config, timeout))?;
    let (client, connection) = connected.map_err(|error| ConnectError::of(&error, &config))?;
    tokio::spawn(connection);
    Ok(client)
}

/// Brings the schema to this binary's version. Instances that start together wait for each other.
pub async fn migrate(client: &mut Client) -> Result<(), SchemaError> {
    migrate_watched(client, None).await
}

/// The same, and the log says what it waits for and how far it is, as a second connection sees it. Without that one it says less.
pub async fn migrate_telling(
    client: &mut Client,
    database_url: &str,
    timeout: Duration,
) -> Result<(), SchemaError> {
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await?;
    let watch = match connect(database_url, timeout).await {
        Ok(client) => Some(Watch {
            client,
            pid: row.get(0),
        }),
        Err(error) => {
            tracing::debug!(%error, "the progress of migrations is not watched");
            None
        }
    };
    migrate_watched(client, watch.as_ref()).await
}

/// A migration takes as long as it takes, whatever the role or the database is set to.
const UNBOUNDED: &str = "SELECT set_config(name, '0', false) FROM pg_settings
                         WHERE name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout',
                                        'idle_in_transaction_session_timeout')";

async fn migrate_watched(client: &mut Client, watch: Option<&Watch>) -> Result<(), SchemaError> {
    check_server_version(client).await?;
    client.query(UNBOUNDED, &[]).await?;
    let lock = "SELECT pg_advisory_lock($1)";
    let locking = async { client.query(lock, &[&MIGRATION_LOCK]).await };
    telling("the migration by another instance", watch, locking).await?;
    let migrated = async {
        check_not_newer(client).await?;
        let (found, needed) = (version(client).await?, newest());
        // A read-only server, or a role that may not create tables, is fine if there is nothing to apply.
        if found != needed {
            match ServerStanding::of(client).await?.obstacle {
                Some(obstacle) if obstacle.is_read_only() => {
                    return Err(SchemaError::ReadOnly {
                        found,
                        needed,
                        obstacle,
                    });
                }
                _ => apply(client, watch).await?,
            }
        }
        let refolded = super::cards::refold_card_rules(client).await;
        let count = refolded.map_err(|error| SchemaError::Failed(error.to_string()))?;
        if count > 0 {
            tracing::info!(
                count,
                "merchant rules were converted to the form in which names are compared now"
            );
        }
        Ok(())
    }
    .await;
    client
        .query("SELECT pg_advisory_unlock($1)", &[&MIGRATION_LOCK])
        .await?;
    migrated
}

/// Applies what is missing, one migration at a time.
async fn apply(client: &mut Client, watch: Option<&Watch>) -> Result<(), SchemaError> {
    let found = applied(client).await?;
    let found = found.last().map_or(0, |(version, _, _)| *version);
    let mut missing = migrations();
    missing.retain(|migration| migration.version() > found);
    missing.sort_by_key(Migration::version);
    for migration in missing {
        let name = format!("V{}__{}", migration.version(), migration.name());
        // An empty database has nothing to wait for.
        if found > 0 {
            tracing::info!(migration = name, "a migration begins");
        }
        let began = Instant::now();
        let runner = runner().set_target(Target::Version(migration.version()));
        let running = runner.run_async(client);
        let report = telling(&format!("migration {name}"), watch, running).await;
        report.map_err(|error| not_migrated(&error))?;
        if found > 0 {
            let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(migration = name, elapsed_ms, "a migration is done");
        }
    }
    Ok(())
}

fn not_migrated(error: &refinery::Error) -> SchemaError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let answer = error
            .downcast_ref::<tokio_postgres::Error>()
            .and_then(tokio_postgres::Error::as_db_error);
        if let Some(answer) = answer {
            let code = answer.code();
            let may_not =
                *code == SqlState::INSUFFICIENT_PRIVILEGE || *code == SqlState::INVALID_SCHEMA_NAME;
            if may_not {
                return SchemaError::MayNotMigrate(answer.message().to_owned());
            }
        }
        cause = error.source();
    }
    SchemaError::Failed(with_source(error))
}

/// Checks that the schema is exactly this binary's version, and changes nothing.
pub async fn check(client: &Client) -> Result<(), SchemaError> {
    check_server_version(client).await?;
    check_not_newer(client).await?;
    let (found, needed) = (version(client).await?, newest());
    if found < needed {
        return Err(SchemaError::Older { found, needed });
    }
    Ok(())
}

/// Checks that the role may do what serving needs. A server that is read-only passes: that can end while this instance
/// runs, such as when a standby is promoted, and until then it serves reads and its health says NOT_SERVING.
pub async fn check_privileges(client: &Client) -> Result<(), SchemaError> {
    match ServerStanding::of(client).await?.obstacle {
        Some(obstacle) if !obstacle.is_read_only() => Err(SchemaError::Obstacle(obstacle)),
        _ => Ok(()),
    }
}

/// Checks that a committed transaction survives a crash.
pub async fn check_durable(client: &Client) -> Result<(), SchemaError> {
    let settings = "SELECT name, setting FROM pg_settings WHERE setting = 'off'
                    AND name IN ('fsync', 'full_page_writes', 'synchronous_commit') ORDER BY name";
    match client
        .query_opt(&format!("{settings} LIMIT 1"), &[])
        .await?
    {
        None => Ok(()),
        Some(row) => Err(SchemaError::NotDurable {
            setting: row.get("name"),
            value: row.get("setting"),
        }),
    }
}

fn runner() -> Runner {
    let mut runner = embedded::migrations::runner()
        .set_abort_divergent(true)
        .set_abort_missing(true);
    runner.set_migration_table_name(HISTORY_TABLE);
    runner
}

const HISTORY_TABLE: &str = "schema_history";

fn migrations() -> Vec<Migration> {
    embedded::migrations::runner().get_migrations().clone()
}

/// The version of this binary's schema.
pub fn newest() -> i32 {
    migrations()
        .iter()
        .map(|migration| migration.version())
        .max()
        .unwrap_or(0)
}

async fn check_server_version(client: &Client) -> Result<(), SchemaError> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::integer / 10000",
            &[],
        )
        .await?;
    match row.get(0) {
        found if found < SERVER_VERSION_MIN => Err(SchemaError::ServerTooOld { found }),
        _ => Ok(()),
    }
}

async fn check_not_newer(client: &Client) -> Result<(), SchemaError> {
    let (known, migrations) = (newest(), migrations());
    for (found, name, checksum) in applied(client).await? {
        let Some(migration) = migrations
            .iter()
            .find(|migration| migration.version() == found)
        else {
            return Err(SchemaError::Newer { found, known });
        };
        if migration.checksum().to_string() != checksum || migration.name() != name {
            return Err(SchemaError::Diverged(format!("V{found}__{name}")));
        }
    }
    Ok(())
}

/// The version of the database's schema; 0: it has none.
async fn version(client: &Client) -> Result<i32, SchemaError> {
    let applied = applied(client).await?;
    Ok(applied.last().map_or(0, |(version, _, _)| *version))
}

/// The applied migrations in order: version, name, checksum.
async fn applied(client: &Client) -> Result<Vec<(i32, String, String)>, SchemaError> {
    let exists = client
        .query_one("SELECT to_regclass($1) IS NOT NULL", &[&HISTORY_TABLE])
        .await?;
    if !exists.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT version::integer, coalesce(name, ''), coalesce(checksum, '')
         FROM {HISTORY_TABLE} ORDER BY version"
    );
    let rows = client.query(&sql, &[]).await?;
    Ok(rows
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect())
}
