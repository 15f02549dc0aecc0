//! `ballast verify`: recomputes the whole ledger. What it finds is on stdout, how far it is on stderr.

use std::time::Duration;

use clap::Args;

use super::args::{LedgerArgs, Place};
use super::error::CliError;
use super::signals::{PLAIN_WORDS, stop_on_signals};
use crate::embedded::Embedded;
use crate::output;
use crate::store::schema;
use crate::store::verify::{self, Progress, Stage};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    ledger: LedgerArgs,
}

pub(super) async fn run(args: &VerifyArgs) -> Result<(), CliError> {
    args.ledger.start_logging();
    let config = match args.ledger.place(true)? {
        Place::Named(url) => return verify(&url).await,
        Place::Private(config) => config,
    };
    // A private PostgreSQL does not stay when somebody does not want to wait.
    let stop = stop_on_signals(PLAIN_WORDS)?;
    let embedded = Embedded::start(config, &stop).await?;
    let verified = stop.unless_asked(verify(&embedded.database_url())).await;
    embedded.stop(stop.forced()).await;
    verified.unwrap_or(Err(CliError::StoppedAtOnce))
}

/// A line for a check that begins, runs long or ends.
fn show(progress: &Progress) {
    let Progress {
        name,
        number,
        count,
        row_count,
        elapsed,
        stage,
    } = progress;
    let seconds = elapsed.as_secs_f64();
    let what = match stage {
        Stage::Begins => format!("{row_count} rows"),
        Stage::Runs => format!("still running after {seconds:.0} s"),
        Stage::Ended { finding_count: 1 } => format!("done in {seconds:.1} s, 1 finding"),
        Stage::Ended { finding_count } => {
            format!("done in {seconds:.1} s, {finding_count} findings")
        }
    };
    output::say(format_args!("check {number} of {count}, {name}: {what}"));
}

async fn verify(database_url: &str) -> Result<(), CliError> {
    let client = schema::connect(database_url, CONNECT_TIMEOUT).await?;
    schema::check(&client).await?;
    let report = verify::run_with(&client, show).await?;
    // In a terminal the progress comes before the result.
    output::finish();
    for (currency, posted) in &report.posted {
        output::print(format_args!(
            "{currency}: all balances together are {posted} minor units"
        ))?;
    }
    for finding in &report.findings {
        output::print(format_args!("finding: {finding}"))?;
    }
    match report.finding_count {
        0 => {
            output::print(format_args!(
                "in order: {} balances, {} entries",
                report.balance_count, report.entry_count
            ))?;
            Ok(())
        }
        count => Err(CliError::Findings(count)),
    }
}
