//! The baseline without gRPC: pgbench calls one stored function that does what the baseline `transaction` does.
//!
//! It is the least that one transaction per request can cost: one round trip, no request to decode, no answer to encode.
//! The function lives in the benchmark's own database only.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::process::Command;

use super::error::BenchError;
use super::ledger::Ledger;
use super::load::{Answer, Measured};
use super::pace::Pace;
use super::scenario::Scenario;

/// The operation's id is random, and as long as those that the load brings.
const FUNCTION: &str = r#"
    CREATE FUNCTION bench_transfer(source_id text, destination_id text, moved bigint) RETURNS void
    LANGUAGE plpgsql AS $$
    DECLARE
        id text := gen_random_uuid()::text;
        source balances%ROWTYPE;
        destination balances%ROWTYPE;
        now timestamptz;
    BEGIN
        IF source_id < destination_id THEN
            SELECT * INTO STRICT source FROM balances WHERE account_id = source_id AND category = 'main' FOR UPDATE;
        END IF;
        SELECT * INTO STRICT destination FROM balances
        WHERE account_id = destination_id AND category = 'main' FOR UPDATE;
        IF source_id > destination_id THEN
            SELECT * INTO STRICT source FROM balances WHERE account_id = source_id AND category = 'main' FOR UPDATE;
        END IF;
        now := clock_timestamp();
        IF source.posted < moved THEN
            RAISE EXCEPTION 'insufficient funds';
        END IF;
        UPDATE balances SET posted = posted - moved, version = version + 1, update_time = now
        WHERE account_id = source_id AND category = 'main';
        UPDATE balances SET posted = posted + moved, version = version + 1, update_time = now
        WHERE account_id = destination_id AND category = 'main';
        INSERT INTO operations (operation_id, kind, amount, currency_code, create_time,
                                source_account_id, source_category, source_version,
                                destination_account_id, destination_category, destination_version)
        VALUES (id, 'TRANSFER', moved, 'EUR', now, source_id, 'main', source.version + 1,
                destination_id, 'main', destination.version + 1);
        INSERT INTO entries (account_id, category, version, operation_id, amount, posted_after, create_time)
        VALUES (source_id, 'main', source.version + 1, id, -moved, source.posted - moved, now),
               (destination_id, 'main', destination.version + 1, id, moved, destination.posted + moved, now);
    END $$"#;

/// pgbench, ready to run on a ledger.
pub(super) struct Pgbench {
    program: PathBuf,
    connection_count: usize,
    /// Holds the script and the logs of a round.
    folder: tempfile::TempDir,
}

/// One round of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    pub(super) scenario: Scenario,
    pub(super) pace: Pace,
    pub(super) duration: Duration,
}

impl Pgbench {
    /// Installs the function in the ledger. `program` is tried first, then pgbench on PATH.
    pub(super) async fn install(
        program: Option<PathBuf>,
        connection_count: usize,
        ledger: &Ledger,
    ) -> Result<Self, BenchError> {
        let beside = program.filter(|program| program.is_file());
        let program = beside.unwrap_or_else(|| PathBuf::from("pgbench"));
        let answered = Command::new(&program).arg("--version").output().await;
        if !answered.is_ok_and(|output| output.status.success()) {
            return Err(BenchError::server(
                "pgbench",
                "no such program beside PostgreSQL's binaries or on PATH; install PostgreSQL's contrib programs, or \
                 leave out --baseline pgbench",
            ));
        }
        ledger.client().batch_execute(FUNCTION).await?;
        Ok(Self {
            program,
            connection_count,
            folder: tempfile::Builder::new()
                .prefix("ballast-pgbench-")
                .tempdir()?,
        })
    }

    /// Runs one round.
    pub(super) async fn run(
        &self,
        ledger: &Ledger,
        round: Round,
        bar: &ProgressBar,
    ) -> Result<Measured, BenchError> {
        let script = self.folder.path().join("transfer.sql");
        std::fs::write(
            &script,
            script_of(round.scenario, ledger.accounts().count()),
        )?;
        let prefix = self.folder.path().join("log");
        let seconds = round.duration.as_secs().max(1);
        let mut command = Command::new(&self.program);
        let in_flight = match round.pace {
            Pace::Closed(count) => count,
            Pace::Open(rate) => {
                command.args(["--rate", &rate.to_string()]);
                usize::MAX
            }
        };
        let client_count = self.connection_count.min(in_flight).max(1);
        let thread_count = client_count.min(2);
        command
            .args(["--no-vacuum", "--protocol=prepared", "--log"])
            .args(["--client", &client_count.to_string()])
            .args(["--jobs", &thread_count.to_string()])
            .args(["--time", &seconds.to_string()])
            .arg("--log-prefix")
            .arg(&prefix)
            .arg("--file")
            .arg(&script)
            .arg(ledger.url())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let running = command.spawn()?.wait_with_output();
        tokio::pin!(running);
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.tick().await;
        let output = loop {
            tokio::select! {
                output = &mut running => break output?,
                _ = ticks.tick() => bar.inc(1),
            }
        };
        let mut measured = Measured::new();
        measured.elapsed = Duration::from_secs(seconds);
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            let last = words.lines().rev().find(|line| line.contains("error"));
            return Err(BenchError::server("pgbench", last.unwrap_or("it failed")));
        }
        self.read_logs(&mut measured)?;
        measured.per_second.resize(seconds as usize, 0);
        Ok(measured)
    }

    /// A line for each transaction: client, number, microseconds, script, second and microsecond of its end.
    fn read_logs(&self, measured: &mut Measured) -> Result<(), BenchError> {
        let mut logs = Vec::new();
        for file in std::fs::read_dir(self.folder.path())? {
            let path = file?.path();
            if path.extension().is_none_or(|extension| extension != "sql") {
                logs.push(path);
            }
        }
        let mut first_us = u64::MAX;
        for log in &logs {
            if let Some(line) = BufReader::new(File::open(log)?).lines().next() {
                first_us = first_us.min(Line::parse(&line?)?.end_us);
            }
        }
        for log in &logs {
            for line in BufReader::new(File::open(log)?).lines() {
                let Line { latency_us, end_us } = Line::parse(&line?)?;
                let since_start = Duration::from_micros(end_us.saturating_sub(first_us));
                let latency = Duration::from_micros(latency_us);
                measured.note(&Answer::Ok, latency, since_start);
            }
            std::fs::remove_file(log)?;
        }
        Ok(())
    }
}

struct Line {
    latency_us: u64,
    end_us: u64,
}

impl Line {
    fn parse(line: &str) -> Result<Self, BenchError> {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().ok());
        let mut number = |skipped: usize| numbers.nth(skipped).flatten();
        let parsed = (number(2), number(1), number(0));
        let (Some(latency_us), Some(second), Some(micros)) = parsed else {
            return Err(BenchError::server(
                "pgbench",
                format!("its log has a line that is not understood: {line}"),
            ));
        };
        Ok(Self {
            latency_us,
            end_us: second * 1_000_000 + micros,
        })
    }
}

/// The script of one transaction: two accounts that differ, and the call.
fn script_of(scenario: Scenario, account_count: u64) -> String {
    let choice = match scenario {
        Scenario::Hot => {
            format!("\\set source random(1, {account_count} - 1)\n\\set destination 0")
        }
        Scenario::Mutual => "\\set source random(0, 1)\n\\set destination 1 - :source".to_owned(),
        _ => format!(
            "\\set source random(0, {account_count} - 1)\n\
             \\set step random(1, {account_count} - 1)\n\
             \\set destination mod(:source + :step, {account_count})"
        ),
    };
    format!(
        "{choice}\nSELECT bench_transfer('account-' || :source, 'account-' || :destination, 1);\n"
    )
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn a_line_of_the_log_is_read_with_and_without_a_lag() {
        for line in [
            "0 199 2241 0 1175850568 995598",
            "0 2 2241 0 1175850568 995598 17",
        ] {
            let Line { latency_us, end_us } = Line::parse(line).expect("a line");
            assert_eq!((latency_us, end_us), (2241, 1_175_850_568_995_598));
        }
        assert!(Line::parse("0 2 failed").is_err());
    }
}
