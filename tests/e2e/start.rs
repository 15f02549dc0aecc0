//! The start: one command on an empty machine, the same balances after the next one, and one line that names the cure
//! when it cannot be.

use std::path::Path;

use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;

use crate::support::binary::{Running, run};
use crate::support::postgres::Database;
use crate::support::*;

/// A folder that an unprivileged PostgreSQL may enter, also when the tests run as root.
fn folder() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))
        .expect("permissions");
    folder
}

/// The one line of an error, without the log before it.
fn error_line(arguments: &[&str], at: &Path) -> String {
    let (code, _, stderr) = run(at, arguments);
    assert_eq!(code, Some(1), "{stderr}");
    let lines: Vec<_> = stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    assert_eq!(stderr.lines().last(), Some(lines[0]), "the cure comes last");
    lines[0].to_owned()
}

#[tokio::test]
async fn without_any_configuration_it_starts_serves_and_finds_its_balances_again() {
    let folder = folder();
    let first = Running::start(folder.path(), &[]);
    assert!(
        first.banner.contains(".ballast"),
        "the banner says where the data lives: {}",
        first.banner
    );
    let mut balances = first.balances();
    assert_eq!(posted(&mut balances, "alice").await, 10_000);
    // The two transfers that the banner suggests.
    balances
        .transfer(transfer("first-transfer", "alice", "bob", 2_500))
        .await
        .expect("posted");
    let refused = Rejection::of(
        balances
            .transfer(transfer("too-much", "alice", "bob", 100_000_000))
            .await,
    );
    refused.expect(tonic::Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
    first.signal(Signal::SIGINT);
    assert_eq!(first.ended().await.code(), Some(0));
    assert!(
        !folder
            .path()
            .join(".ballast/postgres/postmaster.pid")
            .exists(),
        "its PostgreSQL stopped too"
    );

    let second = Running::start(folder.path(), &[]);
    assert_eq!(posted(&mut second.balances(), "alice").await, 7_500);
    let line = error_line(&[], folder.path());
    assert!(
        line.contains("another ballast uses the data folder"),
        "{line}"
    );

    // Killed, it leaves its PostgreSQL behind; the next start takes over, and nothing that was answered is lost.
    second
        .balances()
        .transfer(transfer("before-the-end", "alice", "bob", 500))
        .await
        .expect("posted");
    second.signal(Signal::SIGKILL);
    second.ended().await;
    let third = Running::start(folder.path(), &[]);
    assert_eq!(posted(&mut third.balances(), "alice").await, 7_000);
    assert_eq!(third.stopped().await.code(), Some(0));
    let (code, stdout, stderr) = run(folder.path(), &["verify"]);
    assert_eq!(
        (code, stdout.contains("in order")),
        (Some(0), true),
        "{stdout}{stderr}"
    );
}

/// A folder of PostgreSQL's own binaries, on PATH or where Debian keeps them.
fn real_binaries() -> std::path::PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let folders =
        std::env::split_paths(&path).chain(versions.map(|version| version.path().join("bin")));
    let mut real = folders.filter_map(|folder| {
        let initdb = folder.join("initdb").canonicalize().ok()?;
        initdb.parent().map(Path::to_owned)
    });
    real.next().expect("PostgreSQL's binaries")
}

/// A PostgreSQL that is never ready, as after a crash with much to recover. It says so through a pipe.
fn never_ready(binaries: &Path) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let real = real_binaries().display().to_string();
    let pipe = binaries.join("hangs");
    let made = std::process::Command::new("mkfifo")
        .args(["-m", "666"])
        .arg(&pipe)
        .status();
    assert!(made.expect("mkfifo").success());
    std::os::unix::fs::symlink(format!("{real}/initdb"), binaries.join("initdb")).expect("a link");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" != -D ] && exec {real}/postgres \"$@\"\necho > {}\nexec sleep 3600\n",
        pipe.display()
    );
    let postgres = binaries.join("postgres");
    std::fs::write(&postgres, script).expect("a script");
    std::fs::set_permissions(&postgres, std::fs::Permissions::from_mode(0o755))
        .expect("executable");
    pipe
}

#[tokio::test]
async fn a_signal_stops_it_also_while_its_database_is_not_ready() {
    let (folder, binaries) = (folder(), self::folder());
    let pipe = never_ready(binaries.path());
    let postgres_bin = binaries.path().to_string_lossy().into_owned();
    let arguments = ["--postgres-bin", &postgres_bin];
    let command = crate::support::binary::command(folder.path(), &arguments);
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let mut pipe = tokio::net::unix::pipe::OpenOptions::new()
        .open_receiver(pipe)
        .expect("a pipe");
    tokio::select! {
        hangs = pipe.readable() => hangs.expect("it hangs"),
        ended = child.wait() => panic!("it ended before: {ended:?}"),
    }
    pipe.read_u8().await.expect("it hangs");
    let pid = i32::try_from(child.id().expect("it runs")).expect("a process id");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM).expect("it is there");
    let ended = tokio::time::timeout(std::time::Duration::from_secs(30), child.wait()).await;
    let status = ended.expect("at once, not when it gives up");
    assert_eq!(status.expect("a status").code(), Some(0));
}

#[tokio::test]
async fn health_asks_the_server_of_the_same_environment() {
    let database = Database::migrated().await;
    let running = Running::start(folder().path(), &["--database-url", &database.url()]);
    let health = |listen: String| {
        let folder = folder();
        let mut command = crate::support::binary::command(folder.path(), &["health"]);
        command
            .env("BALLAST_LISTEN", listen)
            .output()
            .expect("the binary runs")
            .status
            .code()
    };
    // The server reports what it last found; the first look at the database may be a moment away.
    let mut code = health(running.address.to_string());
    while code != Some(0) {
        tokio::task::yield_now().await;
        code = health(running.address.to_string());
    }
    assert_eq!(
        health(format!("0.0.0.0:{}", running.address.port())),
        Some(0)
    );
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address");
    assert_eq!(health(nobody.to_string()), Some(1));
    assert_eq!(running.stopped().await.code(), Some(0));
}

#[tokio::test]
async fn what_cannot_be_names_its_cure_in_one_line() {
    let folder = folder();
    let at = folder.path();
    let database = Database::migrated().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    let file = at.join("file");
    std::fs::write(&file, "").expect("a file");
    let below_a_file = file.join("data").to_string_lossy().into_owned();
    let no_binaries = at.to_string_lossy().into_owned();
    let url = database.url();
    let rows: [(&[&str], &str); 6] = [
        (&["--database-url", &url, "--listen", &taken], "--listen"),
        (
            &["--database-url", "postgresql://nobody@127.0.0.1:1/x"],
            "check the host, the port",
        ),
        (&["--database-url", "nonsense"], "--database-url"),
        (&["--data-dir", &below_a_file], "--data-dir"),
        (&["--postgres-bin", &no_binaries], "apt install postgresql"),
        (&["migrate"], "BALLAST_DATABASE_URL"),
    ];
    for (arguments, cure) in rows {
        let line = error_line(arguments, at);
        assert!(line.contains(cure), "{line}");
    }
}

#[tokio::test]
async fn an_older_schema_is_migrated_or_refused_and_a_newer_one_refused() {
    let (folder, empty) = (folder(), Database::empty().await);
    let url = empty.url();
    let line = error_line(&["--database-url", &url, "--no-migrate"], folder.path());
    assert!(line.contains("run `ballast migrate`"), "{line}");
    let (code, stdout, stderr) = run(folder.path(), &["migrate", "--database-url", &url]);
    assert_eq!(
        (code, stdout.contains("the schema is at version")),
        (Some(0), true),
        "{stderr}"
    );
    let running = Running::start(folder.path(), &["--database-url", &url, "--no-migrate"]);
    assert!(
        !running.banner.contains("alice"),
        "no demo in a database that somebody named"
    );
    assert_eq!(running.stopped().await.code(), Some(0));
    let (code, stdout, _) = run(folder.path(), &["verify", "--database-url", &url]);
    assert_eq!((code, stdout.contains("in order")), (Some(0), true));

    let sql = empty.sql().await;
    let from_the_future = "INSERT INTO schema_history (version, name, applied_on, checksum)
                           VALUES (999, 'future', '2026-01-01T00:00:00Z', '1')";
    sql.batch_execute(from_the_future)
        .await
        .expect("a newer schema");
    for arguments in [
        &["--database-url", url.as_str()][..],
        &["--database-url", &url, "--no-migrate"],
    ] {
        let line = error_line(arguments, folder.path());
        assert!(line.contains("start a newer ballast"), "{line}");
    }
    sql.batch_execute("DELETE FROM schema_history WHERE version = 999")
        .await
        .expect("gone");
    sql.batch_execute("UPDATE schema_history SET checksum = '1'")
        .await
        .expect("changed");
    let line = error_line(&["--database-url", &url], folder.path());
    assert!(line.contains("applied with other content"), "{line}");
}

#[tokio::test]
async fn a_database_that_forgets_is_refused_unless_allowed() {
    let (folder, database) = (folder(), Database::migrated().await);
    let url = database.url();
    let sql = database.sql().await;
    let name: String = sql
        .query_one("SELECT current_database()", &[])
        .await
        .expect("a name")
        .get(0);
    sql.batch_execute(&format!(
        "ALTER DATABASE {name} SET synchronous_commit = off"
    ))
    .await
    .expect("set");
    let line = error_line(&["--database-url", &url], folder.path());
    assert!(
        line.contains("synchronous_commit is off") && line.contains("--allow-data-loss"),
        "{line}"
    );
    let running = Running::start(
        folder.path(),
        &["--database-url", &url, "--allow-data-loss"],
    );
    assert_eq!(running.stopped().await.code(), Some(0));
}

#[tokio::test]
async fn a_database_that_begins_to_forget_while_it_is_served_does_not_for_its_sessions() {
    let ballast = Ballast::start().await;
    let sql = ballast.database.sql().await;
    // New connections begin with it; those of the write path are made for the first operation.
    sql.batch_execute(
        "CREATE TABLE commits (setting text NOT NULL);
         CREATE FUNCTION note_commit() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO commits VALUES (current_setting('synchronous_commit'));
             RETURN NULL;
         END $$;
         CREATE TRIGGER note_commit AFTER INSERT ON operations EXECUTE FUNCTION note_commit();
         DO $$ BEGIN
             EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database());
         END $$",
    )
    .await
    .expect("set");
    let mut accounts = ballast.accounts.clone();
    accounts.create_account(account("a")).await.expect("opened");
    let mut balances = ballast.balances.clone();
    balances.credit(credit("c", "a", 1)).await.expect("posted");
    let rows = sql.query("SELECT DISTINCT setting FROM commits", &[]).await;
    let settings: Vec<String> = rows.expect("rows").iter().map(|row| row.get(0)).collect();
    assert_eq!(settings, ["on"]);
}

#[tokio::test]
async fn a_ledger_that_somebody_changed_is_not_in_order() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    open(&mut ballast, "b", 100).await;
    let (folder, url) = (folder(), ballast.database.url());
    let sql = ballast.database.sql().await;
    for (change, finding) in [
        (
            "UPDATE balances SET posted = posted + 1 WHERE account_id = 'a'",
            "balance a/main",
        ),
        (
            "UPDATE operations SET destination_posted_after = 7 WHERE operation_id = 'a-opening'",
            "entry a/main",
        ),
        (
            "UPDATE operations SET destination_previous_id = 'x' WHERE operation_id = 'b-opening'",
            "entry b/main",
        ),
        (
            "UPDATE balances SET last_operation_id = 'x' WHERE account_id = 'b'",
            "balance b/main",
        ),
        (
            "INSERT INTO entry_marks VALUES (16, now(), 'b', 'main', 'b-opening')",
            "mark b/main version 16",
        ),
        (
            "DELETE FROM operations WHERE operation_id = 'a-opening'",
            "balance a/main says posted 101 version 1, its entries say 0 and 0",
        ),
        (
            "UPDATE balances SET sibling_count = 3 WHERE account_id = 'a'",
            "account a",
        ),
        (
            "UPDATE operations SET amount = 99 WHERE operation_id = 'b-opening'",
            "EUR balances",
        ),
    ] {
        sql.batch_execute(change).await.expect("changed");
        let (code, stdout, _) = run(folder.path(), &["verify", "--database-url", &url]);
        assert_eq!(
            (code, stdout.contains(&format!("finding: {finding}"))),
            (Some(1), true),
            "{change}: {stdout}"
        );
    }
}
