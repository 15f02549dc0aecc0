//! Payments in doubt: caught in the middle of their commit, when their time runs out.

use std::sync::Arc;
use std::time::Duration;

use ballast::rpc::proto::AuthorizePaymentResponse;
use ballast::server::ServerConfig;

use super::cards::*;
use super::postgres::Database;
use super::*;

/// Blocks what a decided payment has to write, and nothing that it has to read.
pub const BLOCK_WRITES: &str = "LOCK TABLE operations IN SHARE MODE";

/// Statements that wait to write what a payment decided.
pub const WRITERS: &str = "pg_locks WHERE NOT granted AND relation = 'operations'::regclass
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

pub fn deciding_within(card_timeout: Duration) -> impl FnOnce(&mut ServerConfig) {
    move |config| config.card_timeout = card_timeout
}

/// A card's account, and an instance on it whose payments have a second.
pub async fn hurried(before: [i64; 3]) -> (Ballast, Ballast) {
    let mut roomy = Ballast::start().await;
    open_card(&mut roomy, "c", before).await;
    let hurried = Ballast::start_on(
        roomy.database.clone(),
        deciding_within(Duration::from_secs(1)),
    )
    .await;
    (roomy, hurried)
}

pub async fn count(database: &Arc<Database>, rows: &str) -> i64 {
    let sql = database.sql().await;
    let row = sql
        .query_one(&format!("SELECT count(*) FROM {rows}"), &[])
        .await;
    row.expect("a count").get(0)
}

/// Comes back when a query finds this many rows.
pub async fn until_count(database: &Arc<Database>, rows: &str, expected: i64) {
    within_reason(rows, async {
        while count(database, rows).await != expected {}
    })
    .await;
}

/// Whether the answer is that of a payment that was caught in the middle of its commit. If so, comes back when it waits
/// there. What ran out of time before, or got no connection in time, was withdrawn.
pub async fn is_in_doubt(database: &Arc<Database>, late: &AuthorizePaymentResponse) -> bool {
    if late.reason == "OVERLOADED" {
        return false;
    }
    assert_eq!(late.reason, "DEADLINE");
    if late.message.contains("nothing happened") {
        return false;
    }
    let waiting = async { while count(database, WRITERS).await == 0 {} };
    within_reason("a payment that waits to be written", waiting).await;
    true
}

/// Pays until a payment is caught in the middle of its commit, and returns its id. Those before it ran out of time
/// earlier, as happens on a busy machine, and were withdrawn.
pub async fn in_doubt(roomy: &Ballast, cards: &mut Cards, prefix: &str) -> String {
    for number in 0..20 {
        let id = format!("{prefix}-{number}");
        let late = authorize(cards, payment(&id, "c", 10, "5411")).await;
        if is_in_doubt(&roomy.database, &late).await {
            return id;
        }
    }
    panic!("no payment was ever begun")
}
