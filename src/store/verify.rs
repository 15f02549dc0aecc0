//! Verification: recomputes the whole ledger from its entries and says what is not in order. Reads everything in one
//! snapshot, so it may run beside the service.

use tokio_postgres::Client;

use super::error::StoreError;

/// What a verification found.
#[derive(Debug)]
pub struct Report {
    /// What is not in order; empty: nothing.
    pub findings: Vec<String>,
    /// Per currency, the sum of all posted balances in minor units. It may exceed an `i64`, so it is text.
    pub posted: Vec<(String, String)>,
    /// How many balances there are.
    pub balance_count: i64,
    /// How many entries there are.
    pub entry_count: i64,
}

/// Each statement returns one text per finding.
const CHECKS: [&str; 6] = [
    include_str!("sql/verify_balances.sql"),
    include_str!("sql/verify_entries.sql"),
    include_str!("sql/verify_marks.sql"),
    include_str!("sql/verify_merges.sql"),
    include_str!("sql/verify_accounts.sql"),
    include_str!("sql/verify_conservation.sql"),
];

/// Recomputes everything in one snapshot.
pub async fn run(client: &Client) -> Result<Report, StoreError> {
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    let mut findings = Vec::new();
    for check in CHECKS {
        let rows = client.query(check, &[]).await?;
        findings.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    let sums = "SELECT currency_code, sum(posted)::text FROM balances GROUP BY currency_code ORDER BY currency_code";
    let posted = client
        .query(sums, &[])
        .await?
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let counts = "SELECT (SELECT count(*) FROM balances), (SELECT count(*) FROM entries)";
    let counts = client.query_one(counts, &[]).await?;
    client.batch_execute("COMMIT").await?;
    Ok(Report {
        findings,
        posted,
        balance_count: counts.get(0),
        entry_count: counts.get(1),
    })
}
