//! `ballast verify`: recomputes the whole ledger. What it finds is on stdout, how far it is on stderr.

use std::future::pending;
use std::io::Write;
use std::time::Duration;

use super::CliError;
use super::args::VerifyArgs;
use crate::embedded::Embedded;
use crate::store::schema;
use crate::store::verify::{self, Progress, Stage};

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

/// A line for a check that begins, runs long or ends. Whoever reads stderr may be gone; the verification goes on.
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
    let _reader_is_gone = writeln!(
        std::io::stderr(),
        "check {number} of {count}, {name}: {what}"
    );
}

async fn verify(database_url: &str) -> Result<(), CliError> {
    let client = schema::connect(database_url, CONNECT_TIMEOUT).await?;
    schema::check(&client).await?;
    let report = verify::run_with(&client, show).await?;
    for (currency, posted) in &report.posted {
        println!("{currency}: all balances together are {posted} minor units");
    }
    for finding in &report.findings {
        println!("finding: {finding}");
    }
    match report.finding_count {
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
