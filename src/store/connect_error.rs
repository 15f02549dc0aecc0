//! Why no connection to the database can be made, by SQLSTATE and by the kind of the operating system's error, with the cure.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;

use super::error::with_source;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// SQLSTATE 28P01.
    #[error(
        "{at} does not accept the password of role {}; correct it in --database-url, where @ : / and % in a password are \
         written as %40 %3A %2F and %25",
        .at.role
    )]
    WrongPassword {
        /// Who asked where.
        at: Target,
    },
    /// The server asks for a password, and there is none.
    #[error(
        "{at} asks role {} for a password, and --database-url has none; write it like \
         postgresql://user:password@host:5432/ballast",
        .at.role
    )]
    NoPassword {
        /// Who asked where.
        at: Target,
    },
    /// SQLSTATE 28000.
    #[error(
        "{at} does not let role {} in ({message}); create the role, or let it in without TLS in pg_hba.conf",
        .at.role
    )]
    NotLetIn {
        /// Who asked where.
        at: Target,
        /// The server's words.
        message: String,
    },
    /// SQLSTATE 3D000.
    #[error(
        "{at} has no database {}; make it with CREATE DATABASE, or correct the name in --database-url",
        .at.database
    )]
    NoSuchDatabase {
        /// Who asked where.
        at: Target,
    },
    /// SQLSTATE 42501.
    #[error(
        "{at} does not let role {} connect to database {}; GRANT CONNECT ON DATABASE to it",
        .at.role, .at.database
    )]
    MayNotConnect {
        /// Who asked where.
        at: Target,
    },
    /// SQLSTATE 53300.
    #[error(
        "{at} has no connection left for role {}; raise max_connections or the limit of the role, or close some",
        .at.role
    )]
    NoConnectionLeft {
        /// Who asked where.
        at: Target,
    },
    /// SQLSTATE 57P03.
    #[error("{at} starts, recovers or stops; try again when it is ready")]
    NotReady {
        /// Who asked where.
        at: Target,
    },
    /// Nobody listens there.
    #[error(
        "cannot reach the database: nobody listens at {}; check the host, the port and that PostgreSQL runs",
        .at.server
    )]
    NobodyListens {
        /// Who asked where.
        at: Target,
    },
    /// No answer.
    #[error(
        "cannot reach the database: no answer from {} within {timeout:?}; check the host, the port and the network",
        .at.server
    )]
    NoAnswer {
        /// Who asked where.
        at: Target,
        /// How long it had.
        timeout: Duration,
    },
    /// Anything else.
    #[error(
        "cannot reach the database at {}: {cause}; check the host, the port and that PostgreSQL runs",
        .at.server
    )]
    Other {
        /// Who asked where.
        at: Target,
        /// What happened.
        cause: String,
    },
}

/// Who asks which server for which database.
#[derive(Debug, Clone)]
pub struct Target {
    server: String,
    role: String,
    database: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the database server at {}", self.server)
    }
}

impl Target {
    fn of(config: &Config) -> Self {
        let ports = config.get_ports();
        let hosts = config.get_hosts().iter().enumerate().map(|(index, host)| {
            let port = ports.get(index).or(ports.first()).unwrap_or(&5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(path) => format!("{}/.s.PGSQL.{port}", path.display()),
            }
        });
        let server: Vec<String> = hosts.collect();
        // Without a role it is the user of the operating system, without a database that of the role's name.
        let role = config.get_user().unwrap_or("of this user");
        Self {
            server: server.join(","),
            role: role.to_owned(),
            database: config.get_dbname().unwrap_or(role).to_owned(),
        }
    }
}

impl ConnectError {
    /// What this error says of a server with this configuration.
    pub fn of(error: &tokio_postgres::Error, config: &Config) -> Self {
        let at = Target::of(config);
        let Some(answer) = error.as_db_error() else {
            return Self::without_answer(error, at, config.get_password().is_some());
        };
        match answer.code() {
            code if *code == SqlState::INVALID_PASSWORD => Self::WrongPassword { at },
            code if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => Self::NotLetIn {
                at,
                message: answer.message().to_owned(),
            },
            code if *code == SqlState::INVALID_CATALOG_NAME => Self::NoSuchDatabase { at },
            code if *code == SqlState::INSUFFICIENT_PRIVILEGE => Self::MayNotConnect { at },
            code if *code == SqlState::TOO_MANY_CONNECTIONS => Self::NoConnectionLeft { at },
            code if *code == SqlState::CANNOT_CONNECT_NOW => Self::NotReady { at },
            _ => Self::Other {
                at,
                cause: with_source(error),
            },
        }
    }

    /// There was no answer in time.
    pub(super) fn timeout(config: &Config, timeout: Duration) -> Self {
        Self::NoAnswer {
            at: Target::of(config),
            timeout,
        }
    }

    fn without_answer(error: &tokio_postgres::Error, at: Target, has_password: bool) -> Self {
        let cause = || with_source(error);
        match error.source() {
            Some(source) => match source.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
                    Self::NobodyListens { at }
                }
                // The library gives up before it sends anything: an answer was asked for that it does not have.
                None if !has_password && !error.is_closed() => Self::NoPassword { at },
                _ => Self::Other { at, cause: cause() },
            },
            None => Self::Other { at, cause: cause() },
        }
    }
}
