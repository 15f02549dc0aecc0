//! Migrations: those of a large ledger take their time, and say how far they are.

use std::process::Stdio;
use std::time::Duration;

use ballast::store::schema;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::support::binary::command;
use crate::support::postgres::Database;
use crate::support::*;

mod embedded {
    refinery::embed_migrations!("migrations");
}

const TIMEOUT: Duration = Duration::from_secs(20);
const NEWEST_BUT_ONE: i32 = 5;

/// A database with the schema of an older version.
async fn older() -> Database {
    let database = Database::empty().await;
    let mut client = schema::connect(&database.url(), TIMEOUT)
        .await
        .expect("connected");
    let mut runner =
        embedded::migrations::runner().set_target(refinery::Target::Version(NEWEST_BUT_ONE as _));
    runner.set_migration_table_name("schema_history");
    runner
        .run_async(&mut client)
        .await
        .expect("the older schema");
    database
}

/// `ballast migrate`, and the lines of its log.
fn migrate(folder: &std::path::Path, url: &str) -> (Child, Lines<BufReader<ChildStderr>>) {
    let mut command = Command::from(command(folder, &["migrate", "--database-url", url]));
    command.stdout(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().expect("the binary starts");
    let stderr = child.stderr.take().expect("stderr is piped");
    (child, BufReader::new(stderr).lines())
}

/// The next line of a log that has this text.
async fn until_line(lines: &mut Lines<BufReader<ChildStderr>>, text: &str) -> String {
    within_reason(text, async {
        loop {
            let line = lines.next_line().await.expect("a log").expect("more of it");
            if line.contains(text) {
                return line;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_migration_says_that_it_begins_what_it_waits_for_and_that_it_is_done() {
    let database = older().await;
    let folder = tempfile::tempdir().expect("a folder");
    // Somebody reads the table that is to be changed.
    let reader = database.sql().await;
    let lock = "BEGIN; LOCK TABLE card_verdicts IN ACCESS SHARE MODE";
    reader.batch_execute(lock).await.expect("locked");
    let pid: i32 = reader
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .expect("a process")
        .get(0);

    let (mut first, mut log) = migrate(folder.path(), &database.url());
    let begins = until_line(&mut log, "a migration begins").await;
    assert!(begins.contains("V6__unsettled_payments"), "{begins}");
    let running = until_line(&mut log, "is still running").await;
    assert!(running.contains("V6__unsettled_payments"), "{running}");
    assert!(
        running.contains(&format!(
            "waits for a lock of the sessions with the process ids {pid}"
        )),
        "{running}"
    );
    // Another instance says what it waits for.
    let (mut second, mut other_log) = migrate(folder.path(), &database.url());
    until_line(
        &mut other_log,
        "the migration by another instance is still running",
    )
    .await;

    reader.batch_execute("ROLLBACK").await.expect("released");
    let done = until_line(&mut log, "a migration is done").await;
    assert!(
        done.contains("V6__unsettled_payments") && done.contains("elapsed_ms"),
        "{done}"
    );
    for child in [&mut first, &mut second] {
        assert!(child.wait().await.expect("an end").success());
    }
    let client = schema::connect(&database.url(), TIMEOUT)
        .await
        .expect("connected");
    schema::check(&client).await.expect("the newest schema");
}

#[tokio::test]
async fn a_migration_takes_longer_than_the_timeouts_of_its_role() {
    let database = older().await;
    let admin = database.admin().await;
    for setting in [
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
    ] {
        let name = database.name();
        let set = format!("ALTER DATABASE {name} SET {setting} = '100ms'");
        admin.batch_execute(&set).await.expect("set");
    }
    let reader = database.sql().await;
    reader
        .batch_execute(
            "SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0;
             BEGIN; LOCK TABLE card_verdicts IN ACCESS SHARE MODE",
        )
        .await
        .expect("locked");
    let folder = tempfile::tempdir().expect("a folder");
    let (mut child, mut log) = migrate(folder.path(), &database.url());
    until_line(&mut log, "is still running").await;
    reader.batch_execute("ROLLBACK").await.expect("released");
    until_line(&mut log, "a migration is done").await;
    assert!(child.wait().await.expect("an end").success());
}
