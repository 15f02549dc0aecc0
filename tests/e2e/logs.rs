//! The log and the signals: whoever reads the log, or stopped reading it, changes nothing; and one who asks to stop gets it.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, pipe};
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::binary::{Log, Running, command, ended, run};
use crate::support::postgres::Database;
use crate::support::*;

fn folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))
        .expect("permissions");
    folder
}

fn pipes() -> (PipeReader, PipeWriter) {
    pipe().expect("a pipe")
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).expect("a process id");
    kill(Pid::from_raw(pid), signal).expect("the process is there");
}

fn is_running(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Reads the lines of `ballast 2>&1` until the banner has said where it listens.
fn address(output: &mut impl BufRead) -> std::net::SocketAddr {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(output.read_line(&mut line).expect("a line") > 0);
        let words: Vec<_> = line.split_whitespace().collect();
        if let ["gRPC", address, ..] = words[..] {
            return address.parse().expect("an address");
        }
    }
}

#[tokio::test]
async fn a_reader_that_leaves_stops_nothing_and_holds_up_no_stop() {
    for last in [Signal::SIGTERM, Signal::SIGINT] {
        let folder = folder();
        let (reader, writer) = pipes();
        let mut both = command(folder.path(), &["--log", "debug"]);
        both.stdout(writer.try_clone().expect("a pipe"))
            .stderr(writer);
        let mut child = both.spawn().expect("the binary starts");
        drop(both);
        let mut output = BufReader::new(reader);
        let address = address(&mut output);
        let postmaster = Running::postmaster(&folder.path().join(".ballast"));
        // As head does after its lines, and tee when Ctrl-C reaches it.
        drop(output);
        let mut balances = ballast::rpc::proto::balance_service_client::BalanceServiceClient::new(
            crate::support::instance::channel(address),
        );
        for round in 0..20 {
            let transfer = transfer(&format!("t-{round}"), "alice", "bob", 1);
            balances.transfer(transfer).await.expect("posted");
        }
        signal(&child, last);
        assert_eq!(ended(&mut child).await.code(), Some(0), "{last}");
        assert!(!is_running(postmaster), "{last}");
    }
}

#[tokio::test]
async fn a_banner_that_nobody_reads_is_no_reason_to_end() {
    let (folder, database) = (folder(), Database::migrated().await);
    let (reader, writer) = pipes();
    drop(reader);
    let mut unread = command(folder.path(), &["--database-url", &database.url()]);
    unread.stdout(writer);
    let mut child = unread.spawn().expect("the binary starts");
    let log = Log::of(child.stderr.take().expect("piped"));
    log.line("health is SERVING").await;
    signal(&child, Signal::SIGTERM);
    assert_eq!(ended(&mut child).await.code(), Some(0));

    // Nor is a result: what counts is the exit code.
    let (reader, writer) = pipes();
    drop(reader);
    let mut unread = command(
        folder.path(),
        &["verify", "--database-url", &database.url()],
    );
    unread.stdout(writer);
    let mut child = unread.spawn().expect("it starts");
    assert_eq!(ended(&mut child).await.code(), Some(0));
}

#[tokio::test]
async fn a_reader_that_stands_still_costs_lines_which_are_counted() {
    let (folder, database) = (folder(), Database::migrated().await);
    let (reader, writer) = pipes();
    let arguments = ["--database-url", &database.url(), "--log", "trace"];
    let mut slow = command(folder.path(), &arguments);
    slow.stderr(writer);
    let running = Running::start_command(slow);
    // The queue holds 8,192 lines and the pipe 64 KiB; each call writes many.
    let (mut accounts, mut balances) = (running.accounts(), running.balances());
    accounts.create_account(account("a")).await.expect("opened");
    for round in 0..600 {
        let credit = credit(&format!("c-{round}"), "a", 1);
        within_reason("an answer", balances.credit(credit))
            .await
            .expect("posted");
    }
    let mut output = BufReader::new(reader);
    let reading = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        while !line.contains("log lines were dropped") {
            line.clear();
            assert!(output.read_line(&mut line).expect("a line") > 0, "the end");
        }
        (output, line)
    });
    let (_stands_still_again, line) = within_reason("the count", reading).await.expect("no panic");
    assert!(line.contains("dropped="), "{line}");
    assert_eq!(posted(&mut balances, "a").await, 600);
    assert_eq!(running.stopped().await.code(), Some(0));
}

#[tokio::test]
async fn signals_that_come_together_are_one_request_to_stop() {
    for (first, second) in [
        (Signal::SIGTERM, Signal::SIGINT),
        (Signal::SIGHUP, Signal::SIGTERM),
    ] {
        let folder = folder();
        let running = Running::start(folder.path(), &[]);
        let postmaster = Running::postmaster(&folder.path().join(".ballast"));
        let log = running.log.clone();
        // As timeout sends them: to the process, and to its group.
        running.signal(first);
        running.signal(second);
        assert_eq!(running.ended().await.code(), Some(0));
        assert!(!is_running(postmaster));
        assert_eq!(log.lines("at once"), log.lines("a second signal"));
    }
}

#[tokio::test]
async fn a_later_second_signal_ends_it_at_once_and_its_postgres_too() {
    let folder = folder();
    let running = Running::start(folder.path(), &[]);
    let data_dir = folder.path().join(".ballast");
    let postmaster = Running::postmaster(&data_dir);
    let socket_dir = data_dir.join("run").canonicalize().expect("a folder");
    let url = format!(
        "host='{}' user=ballast dbname=ballast",
        socket_dir.display()
    );
    let (sql, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .expect("a connection");
    tokio::spawn(connection);
    let lock = "BEGIN; SELECT 1 FROM balances WHERE account_id = 'alice' FOR UPDATE";
    sql.batch_execute(lock).await.expect("locked");
    let mut balances = running.balances();
    let request = transfer("held-up", "alice", "bob", 1);
    let in_flight = tokio::spawn(async move { balances.transfer(request).await });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    within_reason("a transfer that waits", async {
        while sql
            .query_one(waiting, &[])
            .await
            .expect("a count")
            .get::<_, i64>(0)
            == 0
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let log = running.log.clone();
    running.signal(Signal::SIGTERM);
    log.line("draining").await;
    // Longer than what counts as together.
    tokio::time::sleep(Duration::from_millis(700)).await;
    running.signal(Signal::SIGTERM);
    assert_eq!(running.ended().await.code(), Some(130));
    assert!(!is_running(postmaster));
    assert_eq!(log.lines("error: stopped at once").len(), 1);
    in_flight.await.expect("no panic").expect_err("unanswered");
    let (code, stdout, stderr) = run(folder.path(), &["verify"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
}

#[tokio::test]
async fn a_verification_that_is_stopped_leaves_no_postgres_behind() {
    let folder = folder();
    let running = Running::start(folder.path(), &[]);
    assert_eq!(running.stopped().await.code(), Some(0));
    let mut verify = command(folder.path(), &["verify", "--log", "debug"]);
    let mut child = verify.stdout(Stdio::null()).spawn().expect("it starts");
    let log = Log::of(child.stderr.take().expect("piped"));
    let pid_file = folder.path().join(".ballast/postgres/postmaster.pid");
    within_reason("its PostgreSQL", async {
        while !pid_file.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    signal(&child, Signal::SIGINT);
    log.line("stopping").await;
    ended(&mut child).await;
    assert!(!pid_file.exists());
}
