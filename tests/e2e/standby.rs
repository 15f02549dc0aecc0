//! Databases that answer and take no writes: health says NOT_SERVING, the log says why and what to do, reads go on, and
//! all is well again by itself when the database takes writes again.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use ballast::rpc::proto::{DeleteMccRuleRequest, SetMccRuleRequest};
use ballast::store::NEEDED_PRIVILEGES;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::binary::{Running, command, run};
use crate::support::cards::*;
use crate::support::instance::channel;
use crate::support::postgres::{Database, OwnServer};
use crate::support::*;

async fn until_health(address: std::net::SocketAddr, wanted: ServingStatus) {
    let watched = async {
        let mut health = HealthClient::new(channel(address));
        let request = HealthCheckRequest {
            service: "ballast.v1.BalanceService".to_owned(),
        };
        let mut changes = health.watch(request).await.expect("a watch").into_inner();
        loop {
            let told = changes.message().await.expect("a status").expect("no end");
            if told.status() == wanted {
                break;
            }
        }
    };
    within_reason(&format!("{wanted:?}"), watched).await;
}

async fn assert_no_writes(ballast: &mut Ballast, operation_id: &str) {
    let answer = ballast.balances.debit(debit(operation_id, "a", 1)).await;
    let rejection = Rejection::of(answer).expect(Code::Unavailable, "DATABASE_UNAVAILABLE");
    assert_eq!(rejection.facts(), [("outcome", "none")]);
}

/// Posts, sooner or later: the first batches after a change may still find an old connection.
async fn debit_until_posted(ballast: &mut Ballast, operation_id: &str) {
    let posting = async {
        while let Err(status) = ballast.balances.debit(debit(operation_id, "a", 1)).await {
            Rejection::of_status(&status).expect(Code::Unavailable, "DATABASE_UNAVAILABLE");
        }
    };
    within_reason("a posted debit", posting).await;
}

#[tokio::test]
async fn a_server_that_becomes_a_standby_leaves_the_rotation_until_it_is_promoted() {
    let server = OwnServer::start().await;
    let database = server.migrated().await;
    let mut ballast = Ballast::start_on(database.clone(), |_| {}).await;
    open(&mut ballast, "a", 10).await;
    until_health(ballast.address, ServingStatus::Serving).await;

    let _standby = server.become_standby().await;
    until_health(ballast.address, ServingStatus::NotServing).await;
    while ballast.balances.debit(debit("first", "a", 1)).await.is_ok() {}
    assert_no_writes(&mut ballast, "second").await;
    assert_eq!(posted(&mut ballast.balances, "a").await, 10);

    let sql = database.sql().await;
    sql.batch_execute("SELECT pg_promote()")
        .await
        .expect("promoted");
    until_health(ballast.address, ServingStatus::Serving).await;
    debit_until_posted(&mut ballast, "second").await;
    assert_eq!(posted(&mut ballast.balances, "a").await, 9);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn an_instance_starts_on_a_standby_and_says_what_to_do() {
    let server = OwnServer::start().await;
    let database = server.migrated().await;
    let server = server.become_standby().await;
    let folder = tempfile::tempdir().expect("a folder");
    let url = database.url();
    // Nothing is to be migrated, so nothing is wrong.
    let (code, _, errors) = run(folder.path(), &["migrate", "--database-url", &url]);
    assert_eq!(code, Some(0), "{errors}");

    let path = folder.path().join("log");
    let mut ballast = command(folder.path(), &["--database-url", &url]);
    ballast.stderr(Stdio::from(std::fs::File::create(&path).expect("a log")));
    let running = Running::start_command(ballast);
    let cause =
        "the database is a standby, which is read-only; point --database-url at the primary";
    let told = async {
        while !std::fs::read_to_string(&path)
            .expect("a log")
            .contains(cause)
        {
            tokio::task::yield_now().await;
        }
    };
    within_reason("the cause", told).await;
    until_health(running.address, ServingStatus::NotServing).await;
    let sql = database.sql().await;
    sql.batch_execute("SELECT pg_promote()")
        .await
        .expect("promoted");
    until_health(running.address, ServingStatus::Serving).await;
    let mut accounts = running.accounts();
    let opening = async { while accounts.create_account(account("a")).await.is_err() {} };
    within_reason("an opened account", opening).await;
    assert_eq!(running.stopped().await.code(), Some(0));
    let log = std::fs::read_to_string(&path).expect("a log");
    let warnings = log.lines().filter(|line| line.contains("NOT_SERVING"));
    assert_eq!(warnings.count(), 1, "one for each change: {log}");
    drop(server);
}

#[tokio::test]
async fn a_database_that_turns_read_only_leaves_the_rotation_and_comes_back() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 10).await;
    until_health(ballast.address, ServingStatus::Serving).await;
    let sql = ballast.database.sql().await;
    let name = ballast.database.name().to_owned();
    // For sessions that begin from now on. Those that there are go on writing; health looks at a new one.
    let alter = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    sql.batch_execute(&alter).await.expect("set");
    until_health(ballast.address, ServingStatus::NotServing).await;
    let refused = async {
        let mut number = 0;
        while let Ok(_by_an_old_session) = ballast
            .balances
            .debit(debit(&format!("d-{number}"), "a", 1))
            .await
        {
            number += 1;
        }
    };
    within_reason("a refused write", refused).await;
    assert_no_writes(&mut ballast, "e").await;
    posted(&mut ballast.balances, "a").await;

    let reset = format!("ALTER DATABASE {name} RESET default_transaction_read_only");
    sql.batch_execute(&reset).await.expect("reset");
    until_health(ballast.address, ServingStatus::Serving).await;
    // At once: no session that began read-only is left.
    ballast
        .balances
        .debit(debit("e", "a", 1))
        .await
        .expect("posted");
    for number in 0..8 {
        let request = account(&format!("n-{number}"));
        ballast
            .accounts
            .create_account(request)
            .await
            .expect("opened");
    }
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_failed_write_is_looked_into_at_once() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 10).await;
    until_health(ballast.address, ServingStatus::Serving).await;
    let sql = ballast.database.sql().await;
    let name = ballast.database.name();
    let alter = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'ballast batches'";
    sql.batch_execute(&format!("{alter}; {end}"))
        .await
        .expect("set");
    let refused = async {
        let mut number = 0;
        while let Ok(_by_an_old_session) = ballast
            .balances
            .debit(debit(&format!("d-{number}"), "a", 1))
            .await
        {
            number += 1;
        }
    };
    within_reason("a refused write", refused).await;
    // Before the next look at a new connection, which comes every 10 s by itself.
    let noticed = until_health(ballast.address, ServingStatus::NotServing);
    let noticed = tokio::time::timeout(Duration::from_secs(8), noticed).await;
    noticed.expect("health knows");
}

#[tokio::test]
async fn migrations_of_a_read_only_database_are_refused_with_the_cause_and_the_cure() {
    let (folder, database) = (
        tempfile::tempdir().expect("a folder"),
        Database::empty().await,
    );
    let sql = database.sql().await;
    let name = database.name();
    let alter = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    sql.batch_execute(&alter).await.expect("set");
    let url = database.url();
    for command in ["serve", "migrate"] {
        let (code, _, errors) = run(folder.path(), &[command, "--database-url", &url]);
        assert_eq!(code, Some(1), "{errors}");
        for words in [
            "the schema is at version 0",
            "the database is read-only (default_transaction_read_only is on",
            "point --database-url at a server that takes writes",
        ] {
            assert!(errors.contains(words), "{errors}");
        }
    }
}

/// A role of one test, with a password. Roles belong to a whole server.
async fn role_of(database: &Database, privileges: &[(&str, &[&str])]) -> (String, String) {
    let sql = database.sql().await;
    let role = format!("{}_role", database.name());
    let create = format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'");
    sql.batch_execute(&create).await.expect("a role");
    for (table, privileges) in privileges {
        let privileges = privileges.join(", ");
        let grant = format!("GRANT {privileges} ON {table} TO {role}");
        sql.batch_execute(&grant).await.expect("granted");
    }
    let url = database.url_as(&role, "secret");
    (role, url)
}

/// Its role goes with the database.
async fn drop_role(database: &Database, role: &str) {
    let sql = database.sql().await;
    let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    sql.batch_execute(&drop).await.expect("dropped");
}

#[tokio::test]
async fn a_role_that_may_only_read_cannot_start_and_is_told_what_it_lacks() {
    let (folder, database) = (
        tempfile::tempdir().expect("a folder"),
        Database::migrated().await,
    );
    let reads = NEEDED_PRIVILEGES.map(|(table, _)| (table, &["SELECT"][..]));
    let (role, url) = role_of(&database, &reads).await;
    let starting = command(folder.path(), &["--database-url", &url]);
    let mut starting = tokio::process::Command::from(starting);
    let ended = within_reason("its end", starting.kill_on_drop(true).output()).await;
    let ended = ended.expect("the binary runs");
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{errors}");
    for words in [
        format!("the role {role} lacks INSERT, UPDATE on accounts; INSERT, UPDATE on balances; "),
        "grant it, or name the owner of the tables in --database-url".to_owned(),
    ] {
        assert!(errors.contains(&words), "{errors}");
    }
    drop_role(&database, &role).await;
}

#[tokio::test]
async fn what_health_asks_for_is_what_ballast_needs() {
    let database = std::sync::Arc::new(Database::migrated().await);
    let sql = database.sql().await;
    let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'";
    let tables = sql.query(tables, &[]).await.expect("the tables");
    let tables: BTreeSet<String> = tables.iter().map(|row| row.get(0)).collect();
    let named: BTreeSet<String> = NEEDED_PRIVILEGES.map(|(table, _)| table.to_owned()).into();
    assert_eq!(named, tables, "each table is named");

    let (role, url) = role_of(&database, &NEEDED_PRIVILEGES).await;
    let change = |config: &mut ballast::server::ServerConfig| config.store.database_url = url;
    let mut ballast = Ballast::start_on(database.clone(), change).await;
    until_health(ballast.address, ServingStatus::Serving).await;
    for name in ["a", "b"] {
        open(&mut ballast, name, 100).await;
    }
    // More than 16 entries make a mark, and a category makes a balance.
    for number in 0..20 {
        let request = transfer(&format!("t-{number}"), "a", "b", 1);
        ballast.balances.transfer(request).await.expect("posted");
    }
    let mut to_food = credit("food", "b", 10);
    to_food.category = "FOOD".to_owned();
    ballast.balances.credit(to_food).await.expect("posted");
    let mut cards = ballast.cards();
    let paid = authorize(&mut cards, payment("p", "b", 3, "5411")).await;
    assert_eq!(paid.code, "00");
    let rule = SetMccRuleRequest {
        mcc: "1234".to_owned(),
        category: "FOOD".to_owned(),
    };
    cards.set_mcc_rule(rule).await.expect("set");
    let rule = DeleteMccRuleRequest {
        mcc: "1234".to_owned(),
    };
    cards.delete_mcc_rule(rule).await.expect("deleted");
    // Again: a verdict is given about it.
    let again = authorize(&mut cards, payment("p", "b", 3, "5411")).await;
    assert_eq!(again.code, "00");
    let merged = ballast.balances.merge_accounts(merge("m", "b", "a")).await;
    merged.expect("posted");

    // One privilege less, and it leaves the rotation until it has it again.
    let revoke = format!("REVOKE INSERT ON entry_marks FROM {role}");
    sql.batch_execute(&revoke).await.expect("revoked");
    until_health(ballast.address, ServingStatus::NotServing).await;
    let grant = format!("GRANT INSERT ON entry_marks TO {role}");
    sql.batch_execute(&grant).await.expect("granted");
    until_health(ballast.address, ServingStatus::Serving).await;
    ballast.assert_in_order().await;
    assert!(ballast.stopped().await);
    drop_role(&database, &role).await;
}
