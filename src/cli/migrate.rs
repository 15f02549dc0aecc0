//! `ballast migrate`: brings a database to this version's schema.

use std::time::Duration;

use super::args::DatabaseArgs;
use super::error::CliError;
use crate::output;
use crate::store::schema;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn run(args: &DatabaseArgs) -> Result<(), CliError> {
    args.start_logging();
    let mut client = schema::connect(args.required()?, CONNECT_TIMEOUT).await?;
    schema::migrate_telling(&mut client, args.required()?, CONNECT_TIMEOUT).await?;
    output::print(format_args!(
        "the schema is at version {}",
        schema::newest()
    ))?;
    Ok(())
}
