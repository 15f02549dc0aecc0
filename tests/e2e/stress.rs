//! The stress tool: it checks the money of a run, whatever happens to the servers meanwhile.

use std::time::Instant;

use nix::sys::signal::Signal;

use crate::fleet::{Fleet, deadlocks};
use crate::support::binary::run;
use crate::support::postgres::Database;
use crate::support::*;

#[tokio::test]
async fn the_stress_tool_finds_the_sum_unchanged_while_a_server_is_killed() {
    let fleet = Fleet::start().await;
    let addresses: Vec<_> = fleet
        .processes
        .iter()
        .map(|p| p.address.to_string())
        .collect();
    let (folder, targets) = (fleet.folder.path().to_owned(), addresses.join(","));
    let stressing = tokio::task::spawn_blocking(move || {
        let counts = ["--connections", "80", "--transfers", "800"];
        run(
            &folder,
            &[&["stress", "--target", &targets], &counts[..]].concat(),
        )
    });
    until_recorded(&fleet.database, 100).await;
    fleet.processes[0].signal(Signal::SIGKILL);
    let (code, stdout, stderr) = stressing.await.expect("it ran");
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("the sum is still 10000 EUR"), "{stdout}");
    assert!(stdout.contains("attempts sent again"), "{stdout}");
    assert_eq!(deadlocks(&fleet.database.sql().await).await, 0);
}

#[tokio::test]
async fn the_stress_tool_fails_if_money_came_from_elsewhere() {
    let ballast = Ballast::start().await;
    let (folder, target) = (
        tempfile::tempdir().expect("a folder"),
        ballast.address.to_string(),
    );
    let stressing = tokio::task::spawn_blocking(move || {
        let counts = ["--connections", "8", "--transfers", "400"];
        run(
            folder.path(),
            &[&["stress", "--target", &target], &counts[..]].concat(),
        )
    });
    until_recorded(&ballast.database, 20).await;
    let sql = ballast.database.sql().await;
    let any = "SELECT account_id FROM accounts LIMIT 1";
    let any: String = sql.query_one(any, &[]).await.expect("one").get(0);
    let gift = credit("gift", &any, 5);
    ballast.balances.clone().credit(gift).await.expect("posted");
    let (code, stdout, stderr) = stressing.await.expect("it ran");
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(
        stdout.contains("the sum was 10000 and is 10005 EUR"),
        "{stdout}"
    );
}

/// Comes back when so many transfers are recorded.
async fn until_recorded(database: &Database, count: i64) {
    let recorded = "SELECT count(*) FROM operations WHERE kind = 'TRANSFER'";
    let sql = database.sql().await;
    let give_up = Instant::now() + PATIENCE;
    // On an empty database the table is not there yet.
    let recorded = async || match sql.query_one(recorded, &[]).await {
        Ok(row) => row.get::<_, i64>(0),
        Err(_) => 0,
    };
    while recorded().await < count {
        assert!(Instant::now() < give_up, "the transfers begin");
        tokio::task::yield_now().await;
    }
}
