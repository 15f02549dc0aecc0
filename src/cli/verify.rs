//! `ballast verify`: recomputes the whole ledger.

use std::future::pending;
use std::time::Duration;

use super::CliError;
use super::args::VerifyArgs;
use crate::embedded::Embedded;
use crate::store::{schema, verify};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn run(args: &VerifyArgs) -> Result<(), CliError> {
    args.database.start_logging();
    match &args.database.database_url {
        Some(url) => verify(url).await,
        None => {
            let (folder, binaries) = (args.data_dir.as_deref(), args.postgres_bin.as_deref());
            let embedded = Embedded::start(folder, binaries, pending()).await?;
            let verified = verify(&embedded.database_url()).await;
            embedded.stop().await;
            verified
        }
    }
}

async fn verify(database_url: &str) -> Result<(), CliError> {
    let client = schema::connect(database_url, CONNECT_TIMEOUT).await?;
    schema::check(&client).await?;
    let report = verify::run(&client).await?;
    for (currency, posted) in &report.posted {
        println!("{currency}: all balances together are {posted} minor units");
    }
    for finding in &report.findings {
        println!("finding: {finding}");
    }
    match report.findings.len() {
        0 => {
            println!(
                "in order: {} balances, {} entries",
                report.balance_count, report.entry_count
            );
            Ok(())
        }
        count => Err(CliError::Findings(count)),
    }
}
