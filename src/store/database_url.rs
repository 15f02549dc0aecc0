//! The connection string of the database: what is wrong with one that cannot work, before anything is tried.

use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

use super::error::with_source;

/// What is wrong with a connection string. The string itself is never shown: it may have a password.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseUrlError {
    /// There is nothing in it.
    #[error(
        "--database-url (BALLAST_DATABASE_URL) is empty; write it like postgresql://user:password@host:5432/ballast, or \
         leave it out for a private PostgreSQL"
    )]
    Empty,
    /// It has an `@` that is not escaped.
    #[error(
        "--database-url has more than one @ before its options; write an @ in a user, a password or a database name as %40"
    )]
    At,
    /// It asks for an encrypted connection.
    #[error(
        "--database-url has sslmode={mode}, and ballast has no TLS to its database yet; use a network that you trust and \
         sslmode=disable"
    )]
    Tls {
        /// What it asks for.
        mode: String,
    },
    /// It is not one.
    #[error(
        "--database-url is not valid ({0}); write it like postgresql://user:password@host:5432/ballast"
    )]
    Invalid(String),
}

/// Reads a connection string.
pub fn parse(url: &str) -> Result<Config, DatabaseUrlError> {
    if url.trim().is_empty() {
        return Err(DatabaseUrlError::Empty);
    }
    let (head, options) = match url.split_once("://") {
        Some((_, rest)) => rest.split_once('?').unwrap_or((rest, "")),
        None => ("", url),
    };
    if head.matches('@').count() > 1 {
        return Err(DatabaseUrlError::At);
    }
    if let Some(mode) = ssl_mode(options).filter(|mode| mode.starts_with("verify")) {
        // tokio-postgres does not know these.
        let mode = mode.to_owned();
        return Err(DatabaseUrlError::Tls { mode });
    }
    let config: Config = url
        .parse()
        .map_err(|error| DatabaseUrlError::Invalid(with_source(&error)))?;
    match config.get_ssl_mode() {
        SslMode::Require => Err(DatabaseUrlError::Tls {
            mode: "require".to_owned(),
        }),
        _ => Ok(config),
    }
}

/// The value of `sslmode` among options, which are `a=b&c=d` in a URL and `a = b c='d'` otherwise.
fn ssl_mode(options: &str) -> Option<&str> {
    let (_, rest) = options.split_once("sslmode")?;
    let value = rest.trim_start().strip_prefix('=')?.trim_start();
    let value = value.trim_start_matches('\'');
    let end = |c: char| c.is_whitespace() || "&'".contains(c);
    value.split(end).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(url: &str) -> String {
        parse(url).expect_err(url).to_string()
    }

    #[test]
    fn each_mistake_has_its_cause() {
        for empty in ["", " \n"] {
            assert!(wrong(empty).contains("is empty"));
        }
        for at in [
            "postgresql://u:p@ss@h/d",
            "postgresql://u:p@s:s@h:5432/d",
            "postgresql://u:p@s/s@h/d",
        ] {
            assert!(wrong(at).contains("%40"), "{at}");
        }
        for (url, mode) in [
            ("postgresql://u@h/d?sslmode=require", "sslmode=require"),
            (
                "postgresql://u@h/d?connect_timeout=3&sslmode=verify-full",
                "sslmode=verify-full",
            ),
            ("host=h sslmode = 'verify-ca' user=u", "sslmode=verify-ca"),
            ("host=h sslmode=require", "sslmode=require"),
        ] {
            assert!(wrong(url).contains(mode), "{url}");
        }
        for invalid in ["nonsense", "postgresql://h:port/d", "host=h colour=red"] {
            assert!(wrong(invalid).contains("not valid"), "{invalid}");
        }
    }

    #[test]
    fn what_works_is_let_through() {
        for url in [
            "postgresql://u:p%40ss@h:5432/d?sslmode=prefer",
            "postgresql://h/d?options=-c%20a=b@c",
            "host='/tmp/a@b' user=u password=p@ss dbname=d",
            "host=h sslmode=disable",
        ] {
            parse(url).expect(url);
        }
    }
}
