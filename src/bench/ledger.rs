//! The ledger of a benchmark: a database of its own, with accounts that have money, loaded in bulk.

mod preload;

pub(super) use preload::{OPENING_MINOR_UNITS, Preload};

use std::time::Duration;

use indicatif::ProgressBar;
use tokio_postgres::{Client, NoTls};

use super::build::Build;
use super::error::BenchError;
use crate::harness::Accounts;
use crate::store::{ConnectError, database_url, schema, verify};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// More than any load of one machine has written so far.
const WAL_SEGMENTS_PER_SECOND: f64 = 4.0;

/// How a ledger keeps its operations and entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tables {
    /// As Ballast does: in one row.
    Ballast,
    /// As transfers are usually written: a row for the operation, and one for each entry, with keys of their own.
    Usual,
}

const USUAL_TABLES: &str = include_str!("ledger/sql/usual_tables.sql");
const VERIFY_USUAL_TABLES: &str = include_str!("ledger/sql/verify_usual_tables.sql");

pub(super) struct Ledger {
    name: String,
    tables: Tables,
    url: String,
    admin: Client,
    client: Client,
    accounts: Accounts,
}

/// Locks on balances, as somebody holds them from psql; they end with this value.
pub(super) struct HeldLocks {
    session: Client,
}

impl HeldLocks {
    /// Gives them back. An error if they were lost before, since what was measured means nothing then.
    pub(super) async fn release(self) -> Result<(), BenchError> {
        let ended = self.session.batch_execute("ROLLBACK").await;
        ended.map_err(|error| {
            let cause = crate::store::with_source(&error);
            BenchError::Database(format!(
                "the session that held rows locked has ended: {cause}"
            ))
        })
    }
}

/// How much has been written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Size {
    /// Of the whole server.
    pub wal_bytes: i64,
    /// Of this database.
    pub disk_bytes: i64,
}

impl Size {
    /// What was written since an earlier moment.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            wal_bytes: self.wal_bytes - before.wal_bytes,
            disk_bytes: self.disk_bytes - before.disk_bytes,
        }
    }
}

impl Ledger {
    /// A fresh database of this name with the schema of this build, or of another one, filled.
    pub(super) async fn create(
        admin_url: &str,
        name: &str,
        (tables, build): (Tables, Option<&Build>),
        preload: &Preload,
        bar: &ProgressBar,
    ) -> Result<Self, BenchError> {
        let admin = connect(admin_url).await?;
        admin
            .batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            .await?;
        admin
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await?;
        let url = with_database(admin_url, name)?;
        match build {
            Some(build) => build.migrate(&url).await?,
            None => migrate(&url).await?,
        }
        let clients = [connect(&url).await?, connect(&url).await?];
        let filled = preload.run([&clients[0], &clients[1]], bar).await;
        filled.map_err(|error| match build {
            Some(build) => build.failed(&format!("this build cannot fill its tables: {error}")),
            None => error,
        })?;
        let client = connect(&url).await?;
        if tables == Tables::Usual {
            client.batch_execute(USUAL_TABLES).await?;
        }
        client.batch_execute("VACUUM (ANALYZE)").await?;
        client.batch_execute("CHECKPOINT").await?;
        let accounts = Accounts::new("account", preload.table.account_count);
        Ok(Self {
            name: name.to_owned(),
            tables,
            url,
            admin,
            client,
            accounts,
        })
    }

    pub(super) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// For what only a baseline needs.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Locks the balances of these accounts, which have one each, in a session of its own.
    pub(super) async fn lock_balances(&self, ids: &[String]) -> Result<HeldLocks, BenchError> {
        let session = connect(&self.url).await?;
        session.batch_execute("BEGIN").await?;
        let sql = "SELECT FROM balances WHERE account_id = ANY($1) ORDER BY account_id FOR UPDATE";
        let locked_count = session.query(sql, &[&ids]).await?.len();
        match locked_count == ids.len() {
            true => Ok(HeldLocks { session }),
            false => Err(BenchError::Database(format!(
                "{locked_count} rows are locked, {} were to be",
                ids.len()
            ))),
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn size(&self) -> Result<Size, BenchError> {
        let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,
                          pg_database_size(current_database())";
        let row = self.client.query_one(sql, &[]).await?;
        Ok(Size {
            wal_bytes: row.get(0),
            disk_bytes: row.get(1),
        })
    }

    /// Writes out what is dirty, so that every round begins alike.
    pub(super) async fn settle(&self) -> Result<(), BenchError> {
        Ok(self.client.batch_execute("CHECKPOINT").await?)
    }

    /// Recomputes the ledger, in PostgreSQL: what does not fit into its memory goes to its temporary files.
    pub(super) async fn verify(&self, name: &str) -> Result<(), BenchError> {
        let settings = "SET work_mem = '64MB'; SET jit = off";
        self.client.batch_execute(settings).await?;
        let finding = match self.tables {
            Tables::Ballast => {
                let report = verify::run(&self.client)
                    .await
                    .map_err(|error| BenchError::Database(error.to_string()))?;
                report.findings.into_iter().next()
            }
            Tables::Usual => {
                let found = self.client.query_opt(VERIFY_USUAL_TABLES, &[]).await?;
                found.map(|row| row.get(0))
            }
        };
        match finding {
            None => Ok(()),
            Some(finding) => Err(BenchError::NotInOrder {
                name: name.to_owned(),
                finding,
            }),
        }
    }

    pub(super) async fn drop(self) -> Result<(), BenchError> {
        drop(self.client);
        Ok(self
            .admin
            .batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name))
            .await?)
    }
}

/// Brings a fresh database to the schema of this build.
async fn migrate(url: &str) -> Result<(), BenchError> {
    let failed = |error: schema::SchemaError| BenchError::Database(error.to_string());
    let connecting = schema::connect(url, CONNECT_TIMEOUT).await;
    let mut client = connecting.map_err(failed)?;
    schema::migrate(&mut client).await.map_err(failed)
}

/// How long it may take to clean up after a run that failed.
const DROP_TIMEOUT: Duration = Duration::from_secs(30);

/// Drops the databases whose names begin with this, for a run that has no result. Where that fails they stay, and it is said.
pub(super) async fn drop_all(admin_url: &str, prefix: &str) {
    let dropping = async {
        let admin = connect(admin_url).await?;
        let named = "SELECT datname FROM pg_database WHERE starts_with(datname::text, $1)";
        for row in admin.query(named, &[&format!("{prefix}_")]).await? {
            let name: String = row.get(0);
            admin
                .batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
                .await?;
        }
        Ok::<(), BenchError>(())
    };
    let dropped = tokio::time::timeout(DROP_TIMEOUT, dropping).await;
    let why = match dropped {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_elapsed) => "it took too long".to_owned(),
    };
    crate::output::say(format_args!(
        "the databases that begin with {prefix}_ stay: {why}"
    ));
}

/// Lets the WAL have the segments that so long a load needs, at most those that its server keeps (`min_wal_size`), as the WAL
/// of a server that ran for a while has. Until then each new one is filled with zeros and synced while every commit waits.
/// The role must be a superuser.
pub(super) async fn provide_wal(admin_url: &str, load: Duration) -> Result<(), BenchError> {
    let client = connect(admin_url).await?;
    let kept = "SELECT pg_size_bytes(current_setting('min_wal_size'))
                     / pg_size_bytes(current_setting('wal_segment_size'))";
    let kept: i64 = client.query_one(kept, &[]).await?.get(0);
    let needed = (load.as_secs_f64() * WAL_SEGMENTS_PER_SECOND).ceil() as i64;
    for _ in 0..kept.min(needed) {
        // The transaction's end is written to the next segment.
        client
            .batch_execute("SELECT txid_current(), pg_switch_wal()")
            .await?;
    }
    // Keeps the segments that it no longer needs, for what comes.
    Ok(client.batch_execute("CHECKPOINT").await?)
}

pub(super) async fn connect(url: &str) -> Result<Client, BenchError> {
    let failed = |cause: String| BenchError::Database(cause);
    let config = database_url::parse(url).map_err(|error| failed(error.to_string()))?;
    let connected = config.connect(NoTls).await;
    let (client, connection) =
        connected.map_err(|error| failed(ConnectError::of(&error, &config).to_string()))?;
    tokio::spawn(connection);
    Ok(client)
}

/// The same connection string for another database.
fn with_database(url: &str, name: &str) -> Result<String, BenchError> {
    if !url.contains("://") {
        // The last word of a kind counts.
        return Ok(format!("{url} dbname={name}"));
    }
    let (head, query) = url
        .split_once('?')
        .map_or((url, None), |(head, query)| (head, Some(query)));
    let scheme_end = head.find("://").map_or(0, |index| index + 3);
    let host_end = head[scheme_end..]
        .find('/')
        .map_or(head.len(), |index| scheme_end + index);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    Ok(format!("{}/{name}{query}", &head[..host_end]))
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn a_url_is_turned_to_another_database() {
        let turned = |url| with_database(url, "b").expect("a URL");
        assert_eq!(
            turned("host=/tmp user=x dbname=a"),
            "host=/tmp user=x dbname=a dbname=b"
        );
        assert_eq!(
            turned("postgresql://u:p@h:1/a?x=y"),
            "postgresql://u:p@h:1/b?x=y"
        );
        assert_eq!(turned("postgresql://h"), "postgresql://h/b");
    }
}
