//! The start: one command on an empty machine, the same balances after the next one, and one line that names the cure
//! when it cannot be.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::support::binary::{Log, Running, ended, run};
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
pub fn real_binaries() -> std::path::PathBuf {
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
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
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
        (&["--postgres-bin", &no_binaries], "install it ("),
        (&["migrate"], "BALLAST_DATABASE_URL"),
    ];
    for (arguments, cure) in rows {
        let line = error_line(arguments, at);
        assert!(line.contains(cure), "{line}");
    }
}

/// The last line on stderr of a `ballast` with this variable, and its exit code.
fn with_variable(at: &Path, arguments: &[&str], name: &str, value: &str) -> (Option<i32>, String) {
    let mut command = crate::support::binary::command(at, arguments);
    let output = command.env(name, value).output().expect("the binary runs");
    let stderr = String::from_utf8(output.stderr).expect("text");
    let last = stderr.lines().last().unwrap_or_default().to_owned();
    (output.status.code(), last)
}

#[tokio::test]
async fn a_connection_string_that_cannot_work_says_why() {
    let folder = folder();
    for (url, cure) in [
        ("", "is empty"),
        ("postgresql://app:p@ss@127.0.0.1:1/x", "%40"),
        (
            "postgresql://app@127.0.0.1:1/x?sslmode=require",
            "sslmode=disable",
        ),
        (
            "host=127.0.0.1 port=1 user=app sslmode=verify-full",
            "sslmode=disable",
        ),
        (
            "postgresql://app@127.0.0.1:port/x",
            "write it like postgresql://",
        ),
    ] {
        for command in [&[][..], &["migrate"], &["verify"], &["bench"]] {
            if command == ["bench"] && cfg!(not(feature = "harness")) {
                continue;
            }
            let line = error_line(&[command, &["--database-url", url]].concat(), folder.path());
            assert!(
                line.contains("--database-url") && line.contains(cure),
                "{line}"
            );
            assert!(!line.contains("p@ss"), "{line}");
            let (code, last) = with_variable(folder.path(), command, "BALLAST_DATABASE_URL", url);
            assert_eq!((code, last), (Some(1), line));
        }
    }
    assert_eq!(
        folder.path().read_dir().expect("a folder").count(),
        0,
        "no ledger was made in its place"
    );
}

#[tokio::test]
async fn a_database_that_lets_nobody_in_says_why() {
    let folder = folder();
    let server = Running::start(folder.path(), &[]);
    let socket_dir = folder.path().join(".ballast/run").canonicalize();
    let host = socket_dir.expect("a folder").display().to_string();
    let connect = async |database: &str| {
        let url = format!("host='{host}' user=ballast dbname={database}");
        let connected = tokio_postgres::connect(&url, tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("a connection");
        tokio::spawn(connection);
        client
    };
    let sql = connect("postgres").await;
    // As a server that is meant for others has it.
    let hba: String = sql
        .query_one("SHOW hba_file", &[])
        .await
        .expect("a file")
        .get(0);
    let rules = std::fs::read_to_string(&hba).expect("rules");
    let rules = format!("local all app,guest scram-sha-256\nlocal all banned reject\n{rules}");
    std::fs::write(&hba, rules).expect("rules");
    for statement in [
        "CREATE ROLE app LOGIN PASSWORD 'right'",
        "CREATE ROLE guest LOGIN PASSWORD 'right' CONNECTION LIMIT 0",
        "CREATE ROLE banned LOGIN",
        "CREATE DATABASE fresh",
        "CREATE DATABASE closed",
        "REVOKE CONNECT ON DATABASE closed FROM PUBLIC",
        "SELECT pg_reload_conf()",
    ] {
        sql.batch_execute(statement).await.expect(statement);
    }
    let url = |rest: &str| format!("host='{host}' {rest}");
    within_reason("the rules", async {
        let guest = url("user=banned dbname=fresh");
        while tokio_postgres::connect(&guest, tokio_postgres::NoTls)
            .await
            .is_ok()
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let rows = [
        (
            "user=app password=wrong dbname=fresh",
            ["does not accept the password of role app", "--database-url"],
        ),
        (
            "user=app dbname=fresh",
            [
                "asks role app for a password",
                "postgresql://user:password@",
            ],
        ),
        (
            "user=banned dbname=fresh",
            ["does not let role banned in", "pg_hba.conf"],
        ),
        (
            "user=nobody dbname=fresh",
            ["does not let role nobody in", "create the role"],
        ),
        (
            "user=app password=right dbname=nowhere",
            ["has no database nowhere", "CREATE DATABASE"],
        ),
        (
            "user=app password=right dbname=closed",
            [
                "does not let role app connect to database closed",
                "GRANT CONNECT",
            ],
        ),
        (
            "user=guest password=right dbname=fresh",
            ["has no connection left for role guest", "max_connections"],
        ),
        (
            "port=1 user=app dbname=fresh",
            ["nobody listens at", "check the host, the port"],
        ),
        (
            "user=app password=right dbname=fresh",
            [
                "may not make the tables of ballast",
                "GRANT CREATE ON SCHEMA public",
            ],
        ),
    ];
    for (rest, parts) in rows {
        let url = url(rest);
        for command in [&[][..], &["migrate"]] {
            let arguments = [command, &["--database-url", &url]].concat();
            let line = error_line(&arguments, folder.path());
            assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        }
    }

    // What a role needs is what it does: with an up-to-date schema it makes no table.
    let fresh = url("user=ballast dbname=fresh");
    let (code, _, stderr) = run(folder.path(), &["migrate", "--database-url", &fresh]);
    assert_eq!(code, Some(0), "{stderr}");
    let app = url("user=app password=right dbname=fresh");
    let line = error_line(&["--database-url", &app], folder.path());
    assert!(line.contains("may not use the tables of ballast"), "{line}");
    let grant = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app";
    let granted = connect("fresh").await.batch_execute(grant).await;
    granted.expect("granted");
    let running = Running::start(folder.path(), &["--database-url", &app]);
    assert_eq!(running.stopped().await.code(), Some(0));
    assert_eq!(server.stopped().await.code(), Some(0));
}

/// A way to the database of a test that answers as a server that recovers until it is told that it is ready.
async fn recovering(database: &Database, is_ready: Arc<AtomicBool>) -> String {
    let real: Config = database.url().parse().expect("a connection string");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let password = real.get_password().map(String::from_utf8_lossy);
    let url = format!(
        "host=127.0.0.1 port={port} user={} password='{}' dbname={}",
        real.get_user().expect("a role"),
        password.unwrap_or_default(),
        real.get_dbname().expect("a name")
    );
    let host = real.get_hosts()[0].clone();
    let real_port = real.get_ports().first().copied().unwrap_or(5432);
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.expect("a client");
            if !is_ready.load(Ordering::Relaxed) {
                crate::support::recovering::answer(&mut client).await;
                continue;
            }
            let host = host.clone();
            tokio::spawn(async move {
                match host {
                    Host::Tcp(name) => {
                        let server = TcpStream::connect((name, real_port)).await;
                        let mut server = server.expect("it is there");
                        let _ended = copy_bidirectional(&mut client, &mut server).await;
                    }
                    Host::Unix(folder) => {
                        let socket = folder.join(format!(".s.PGSQL.{real_port}"));
                        let mut server = UnixStream::connect(socket).await.expect("it is there");
                        let _ended = copy_bidirectional(&mut client, &mut server).await;
                    }
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn a_named_database_that_recovers_is_waited_for() {
    let (folder, database) = (folder(), Database::migrated().await);
    let is_ready = Arc::<AtomicBool>::default();
    let url = recovering(&database, is_ready.clone()).await;
    let mut command = crate::support::binary::command(folder.path(), &["--database-url", &url]);
    let mut child = command.spawn().expect("the binary starts");
    let log = Log::of(child.stderr.take().expect("piped"));
    let said = log.line("waiting for the database").await;
    assert!(said.contains("recovers"), "{said}");
    is_ready.store(true, Ordering::Relaxed);
    log.line("health is SERVING").await;
    let pid = i32::try_from(child.id()).expect("a process id");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM).expect("it runs");
    assert_eq!(ended(&mut child).await.code(), Some(0));
}

#[tokio::test]
async fn a_variable_that_is_wrong_is_named_and_an_empty_one_is_absent() {
    let folder = folder();
    let rows = [
        (
            "BALLAST_LANES",
            "two",
            "BALLAST_LANES is \"two\": must be a whole number from 1 to 64",
        ),
        (
            "BALLAST_LISTEN",
            "localhost",
            "BALLAST_LISTEN is \"localhost\": must be an IP address",
        ),
        (
            "BALLAST_ISOLATION",
            "none",
            "must be one of read-committed, serializable",
        ),
        ("BALLAST_NO_MIGRATE", "maybe", "must be true or false"),
        ("BALLAST_LOG", "x=y=z", "try info"),
        (
            "BALLAST_DATABSE_URL",
            "x",
            "BALLAST_DATABASE_URL is; correct or unset it",
        ),
        ("BALLAST_SOMETHING_ELSE", "x", "`ballast --help` lists all"),
    ];
    for (name, value, cure) in rows {
        let (code, line) = with_variable(folder.path(), &[], name, value);
        assert_eq!(code, Some(2), "{line}");
        let is_named = line.starts_with("error: ") && line.contains(name);
        assert!(is_named && line.contains(cure), "{line}");
    }
    assert_eq!(folder.path().read_dir().expect("a folder").count(), 0);
    // What Kubernetes sets for a service of this name is not of ours.
    let database = Database::migrated().await;
    let url = database.url();
    let mut command = crate::support::binary::command(folder.path(), &["--database-url", &url]);
    command
        .env("BALLAST_PORT", "tcp://10.0.0.1:50051")
        .env("BALLAST_SERVICE_PORT_GRPC", "50051")
        .env("BALLAST_TEST_SOMETHING", "x");
    for empty in [
        "BALLAST_LANES",
        "BALLAST_NO_MIGRATE",
        "BALLAST_LOG",
        "BALLAST_ISOLATION",
        "BALLAST_DATABSE_URL",
    ] {
        command.env(empty, "");
    }
    let running = Running::start_command(command);
    assert_eq!(running.stopped().await.code(), Some(0));
}

#[tokio::test]
async fn a_private_database_can_be_forbidden() {
    let folder = folder();
    for command in [&[][..], &["verify"]] {
        let line = error_line(&[command, &["--require-database"]].concat(), folder.path());
        assert!(line.contains("no database is named"), "{line}");
        let name = "BALLAST_REQUIRE_DATABASE";
        let (code, last) = with_variable(folder.path(), command, name, "1");
        assert_eq!((code, last), (Some(1), line));
    }
    assert_eq!(folder.path().read_dir().expect("a folder").count(), 0);
}

#[tokio::test]
async fn a_target_is_a_host_and_a_port() {
    let folder = folder();
    for command in ["health", "bench", "stress"] {
        if command != "health" && cfg!(not(feature = "harness")) {
            continue;
        }
        for (target, cure) in [
            ("http://127.0.0.1:50051", "without http://"),
            ("127.0.0.1", "must be a host and a port"),
            ("127.0.0.1:port", "must be a host and a port"),
        ] {
            let (code, _, stderr) = run(folder.path(), &[command, "--target", target]);
            assert_eq!(code, Some(2), "{command}: {stderr}");
            assert!(stderr.contains(cure), "{command}: {stderr}");
        }
    }
    let (code, line) = with_variable(folder.path(), &["health"], "BALLAST_TARGET", "http://x:1");
    let is_named =
        line.contains("BALLAST_TARGET is \"http://x:1\": must be a host and a port alone");
    assert_eq!((code, is_named), (Some(2), true), "{line}");
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
