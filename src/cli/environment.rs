//! The environment: every argument may come from a variable. One that is empty counts as absent, one whose value is wrong
//! is named with what it must be, and one that nobody knows is an error: it is a typing error of somebody who relies on it.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

/// The prefix of all variables.
const PREFIX: &str = "BALLAST_";
/// The one that may not be empty: a secret that is missing must not turn into an empty ledger of a private PostgreSQL.
pub(super) const DATABASE_URL: &str = "BALLAST_DATABASE_URL";
/// Variables of the tests and of the scripts around them.
const PREFIXES_OF_TESTS: [&str; 2] = ["BALLAST_TEST_", "BALLAST_CI_"];
/// What Kubernetes tells every pod of a service whose name begins with ballast, and docker-compose.yaml reads.
const PARTS_OF_SERVICES: [&str; 3] = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"];

/// Why the environment cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// Nobody knows this variable, and there is one like it.
    #[error("{name} is not a setting of ballast, {nearest} is; correct or unset it")]
    Mistyped {
        /// The variable.
        name: String,
        /// The known one that is most like it.
        nearest: String,
    },
    /// Nobody knows this variable.
    #[error("{0} is not a setting of ballast; unset it, `ballast --help` lists all")]
    Unknown(String),
    /// The value is not one.
    #[error("{name} is {value:?}: {rule}")]
    Invalid {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
        /// What it must be.
        rule: String,
    },
}

/// The command without the variables that are empty.
pub(super) fn without_empty(command: Command) -> Command {
    let is_empty = |arg: &Arg| {
        let name = arg.get_env().filter(|name| *name != DATABASE_URL);
        name.and_then(std::env::var_os)
            .is_some_and(|value| value.is_empty())
    };
    command
        .mut_args(|arg| {
            if is_empty(&arg) {
                arg.env(None::<&str>)
            } else {
                arg
            }
        })
        .mut_subcommands(without_empty)
}

/// Finds a variable that looks like a setting and is none.
pub(super) fn check(
    command: &Command,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(), EnvironmentError> {
    let known = settings(command);
    let mut names: Vec<String> = variables
        .filter(|(_, value)| !value.is_empty())
        .filter_map(|(name, _)| Some(name.to_str()?.to_owned()))
        .filter(|name| is_ours(name) && !known.contains(name))
        .collect();
    // Always the same one first.
    names.sort();
    let Some(name) = names.into_iter().next() else {
        return Ok(());
    };
    let distance = |known: &String| strsim::damerau_levenshtein(known, &name);
    match known.into_iter().min_by_key(distance) {
        Some(nearest) if distance(&nearest) <= 1 + name.len() / 5 => {
            Err(EnvironmentError::Mistyped { name, nearest })
        }
        _ => Err(EnvironmentError::Unknown(name)),
    }
}

/// The error of a value that came from the environment; `None` if it came from the command line.
pub(super) fn invalid(command: &Command, error: &clap::Error) -> Option<EnvironmentError> {
    if !matches!(
        error.kind(),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue
    ) {
        return None;
    }
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let (argument, value) = (
        text(ContextKind::InvalidArg)?,
        text(ContextKind::InvalidValue)?,
    );
    // Only the arguments of a command that is built know how they are shown.
    let mut command = command.clone();
    command.build();
    let arguments = all_arguments(&command);
    // Several commands may have one that looks like it.
    let mut alike = arguments
        .iter()
        .filter(|arg| arg.to_string() == argument)
        .filter_map(|arg| Some((arg.get_env()?.to_str()?, arg.get_long()?)));
    let (name, long) = alike.find(|(name, _)| std::env::var(name).is_ok_and(|set| set == value))?;
    let flag = format!("--{long}");
    if std::env::args().any(|typed| typed.split('=').next() == Some(flag.as_str())) {
        return None;
    }
    let rule = match (
        error.get(ContextKind::ValidValue),
        std::error::Error::source(error),
    ) {
        (Some(ContextValue::Strings(values)), _) if !values.is_empty() => {
            format!("must be one of {}", values.join(", "))
        }
        (_, Some(cause)) => cause.to_string(),
        _ => "is not valid".to_owned(),
    };
    Some(EnvironmentError::Invalid {
        name: name.to_owned(),
        value,
        rule,
    })
}

/// The names of all settings.
fn settings(command: &Command) -> Vec<String> {
    all_arguments(command)
        .into_iter()
        .filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned()))
        .collect()
}

fn all_arguments(command: &Command) -> Vec<&Arg> {
    let below = command.get_subcommands().flat_map(all_arguments);
    command.get_arguments().chain(below).collect()
}

fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX)
        && !PREFIXES_OF_TESTS
            .iter()
            .any(|prefix| name.starts_with(prefix))
        && !is_of_a_service(name)
}

/// BALLAST_PORT, BALLAST_SERVICE_HOST, BALLAST_PORT_50051_TCP_ADDR and so on.
fn is_of_a_service(name: &str) -> bool {
    PARTS_OF_SERVICES.iter().any(|part| {
        name.match_indices(part).any(|(index, _)| {
            let rest = &name[index + part.len()..];
            let is_numbered = rest
                .strip_prefix('_')
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            rest.is_empty() || is_numbered || *part == "_SERVICE_PORT" && rest.starts_with('_')
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(name: &str) -> Result<(), EnvironmentError> {
        let settings = [DATABASE_URL, "BALLAST_LISTEN", "BALLAST_LANES"];
        let arguments = settings.map(|setting| Arg::new(setting).env(setting));
        // One of them belongs to a command below.
        let [url, listen, lanes] = arguments;
        let serve = Command::new("serve").args([listen, lanes]);
        let command = Command::new("ballast").arg(url).subcommand(serve);
        check(&command, [(name.into(), "x".into())].into_iter())
    }

    #[test]
    fn a_typing_error_is_named_with_what_was_meant() {
        for (name, meant) in [
            ("BALLAST_DATABSE_URL", DATABASE_URL),
            ("BALLAST_DATABASE_URI", DATABASE_URL),
            ("BALLAST_LANE", "BALLAST_LANES"),
            ("BALLAST_LISTN", "BALLAST_LISTEN"),
        ] {
            let mistyped = EnvironmentError::Mistyped {
                name: name.to_owned(),
                nearest: meant.to_owned(),
            };
            assert_eq!(checked(name), Err(mistyped));
        }
        let unknown = EnvironmentError::Unknown("BALLAST_QUITE_ELSE".to_owned());
        assert_eq!(checked("BALLAST_QUITE_ELSE"), Err(unknown));
    }

    #[test]
    fn what_others_set_is_left_alone() {
        for name in [
            DATABASE_URL,
            "BALLAST_TEST_ISOLATION",
            "BALLAST_CI_IMAGES",
            "BALLAST_PORT",
            "BALLAST_SERVICE_HOST",
            "BALLAST_SERVICE_PORT_GRPC",
            "BALLAST_PORT_50051_TCP_ADDR",
            "BALLAST_POSTGRES_PORT_5432_TCP",
            "DATABSE_URL",
        ] {
            assert_eq!(checked(name), Ok(()), "{name}");
        }
    }
}
