//! Standing: which database server answers, and whether Ballast can write to it.

use tokio_postgres::Client;

use super::error::StoreError;

/// What a database server says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStanding {
    /// When it started, which tells it from other servers.
    pub server: String,
    /// Why writes fail; `None`: no reason is known.
    pub obstacle: Option<Obstacle>,
}

/// Why the writes of Ballast fail on a database that answers: the cause, and the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// It is a replica of another server.
    #[error(
        "the database is a standby, which is read-only; point --database-url at the primary, or promote it"
    )]
    Standby,
    /// Its sessions begin read-only.
    #[error(
        "the database is read-only (default_transaction_read_only is on for its server, the database or the role); \
         turn it off, or point --database-url at a server that takes writes"
    )]
    ReadOnly,
    /// It has no schema, or one that cannot be seen.
    #[error(
        "the database has no table {0}, or the role may not use its schema; run `ballast migrate`, or grant USAGE on the schema"
    )]
    MissingTables(String),
    /// The role lacks privileges.
    #[error(
        "the role {role} lacks {privileges}; grant it, or name the owner of the tables in --database-url"
    )]
    MissingPrivileges {
        /// The role.
        role: String,
        /// Privileges and tables.
        privileges: String,
    },
}

const STANDING: &str = include_str!("sql/standing.sql");

/// What Ballast does to its tables.
pub const NEEDED_PRIVILEGES: [(&str, &[&str]); 8] = [
    ("accounts", &["SELECT", "INSERT", "UPDATE"]),
    ("balances", &["SELECT", "INSERT", "UPDATE"]),
    ("operations", &["SELECT", "INSERT"]),
    ("entry_marks", &["SELECT", "INSERT"]),
    ("operation_legs", &["SELECT", "INSERT"]),
    ("card_rules", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("card_verdicts", &["SELECT", "INSERT", "UPDATE"]),
    ("schema_history", &["SELECT"]),
];

impl ServerStanding {
    /// Asks the server of a connection.
    pub(super) async fn of(client: &Client) -> Result<Self, StoreError> {
        let needed = NEEDED_PRIVILEGES
            .iter()
            .flat_map(|(table, privileges)| privileges.iter().map(move |p| (*table, *p)));
        let (tables, privileges): (Vec<&str>, Vec<&str>) = needed.unzip();
        let row = client.query_one(STANDING, &[&tables, &privileges]).await?;
        let missing_tables: Option<String> = row.get("missing_tables");
        let lacking: Option<String> = row.get("lacking_privileges");
        let obstacle = match (missing_tables, lacking) {
            _ if row.get("is_standby") => Some(Obstacle::Standby),
            _ if row.get("is_read_only") => Some(Obstacle::ReadOnly),
            (Some(tables), _) => Some(Obstacle::MissingTables(tables)),
            (None, Some(privileges)) => Some(Obstacle::MissingPrivileges {
                role: row.get("role"),
                privileges,
            }),
            (None, None) => None,
        };
        Ok(Self {
            server: row.get("server"),
            obstacle,
        })
    }
}

impl Obstacle {
    /// Whether it may end while Ballast runs, by itself or by a change of the server, while reads are served. All others are
    /// mistakes of the configuration.
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::Standby | Self::ReadOnly => true,
            Self::MissingTables(_) | Self::MissingPrivileges { .. } => false,
        }
    }
}
