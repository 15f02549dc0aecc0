//! `ballast verify`: recomputes the whole ledger.

use std::time::Duration;

use super::CliError;
use super::args::DatabaseArgs;
use crate::store::{schema, verify};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn run(args: &DatabaseArgs) -> Result<(), CliError> {
    args.start_logging();
    let client = schema::connect(args.required()?, CONNECT_TIMEOUT).await?;
    schema::check(&client).await?;
    let report = verify::run(&client).await?;
    for (currency, posted) in &report.posted {
        println!("{currency}: balances sum up to {posted} minor units, as credits minus debits do");
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
