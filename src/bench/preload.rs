//! Preload: fills a fresh ledger in bulk, in a state that `verify` finds in order.
//!
//! Every account is opened by one credit. Operation k then moves one minor unit from account k mod n to the next one, so
//! every balance, version and time follows from the numbers alone and all tables are filled side by side. Indexes are
//! made afterwards: random ids cost a sort then, not a random write each. Operation ids are hashes, as random as those
//! that the load brings.

use std::ops::Range;

use indicatif::ProgressBar;
use tokio_postgres::Client;

use super::history::LONG_ACCOUNT_ID;
use super::{BenchError, TableSize};

/// What each account begins with, in minor units: enough for any run.
pub(super) const OPENING_MINOR_UNITS: i64 = 1_000_000_000_000;

/// How many rows one statement makes; between them the bar moves.
const CHUNK_ROW_COUNT: u64 = 200_000;

/// What is loaded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Preload {
    pub(super) table: TableSize,
    /// How many entries the long account has; 0: there is none.
    pub(super) history_entry_count: u64,
}

/// The tables that each of two connections fills, with about as much work for both.
const SHARES: [[&str; 2]; 2] = [["accounts", "operations"], ["balances", "entries"]];

impl Preload {
    /// How many steps the bar has: one for each row, and one for each row that is indexed.
    pub(super) fn step_count(&self) -> u64 {
        let rows = |step: &Step| step.rows.end * step.table_rows;
        SHARES
            .iter()
            .flat_map(|share| self.steps(share))
            .map(|step| rows(&step))
            .sum::<u64>()
            * 2
    }

    /// Fills the ledger over these two connections.
    pub(super) async fn run(
        &self,
        [first, second]: [&Client; 2],
        bar: &ProgressBar,
    ) -> Result<(), BenchError> {
        tokio::try_join!(
            self.fill(first, SHARES[0], bar),
            self.fill(second, SHARES[1], bar)
        )?;
        first.batch_execute("VACUUM (ANALYZE)").await?;
        Ok(first.batch_execute("CHECKPOINT").await?)
    }

    async fn fill(
        &self,
        client: &Client,
        tables: [&str; 2],
        bar: &ProgressBar,
    ) -> Result<(), BenchError> {
        // Each connection sorts in at most so much memory; commits are durable with the checkpoint at the end.
        let settings =
            "SET synchronous_commit = off; SET maintenance_work_mem = '256MB'; SET jit = off";
        client.batch_execute(settings).await?;
        for table in tables {
            let indexes = drop_indexes(client, table).await?;
            let mut row_count = 0;
            for step in self.steps(&[table]) {
                let mut from = step.rows.start;
                while from < step.rows.end {
                    let to = step.rows.end.min(from + CHUNK_ROW_COUNT);
                    client.batch_execute(&self.sql(&step, from..to)).await?;
                    bar.inc((to - from) * step.table_rows);
                    from = to;
                }
                row_count += step.rows.end * step.table_rows;
            }
            for index in &indexes {
                client.batch_execute(index).await?;
            }
            bar.inc(row_count);
        }
        Ok(())
    }

    fn steps(&self, tables: &[&str]) -> Vec<Step> {
        let TableSize {
            account_count,
            operation_count,
        } = self.table;
        let all = [
            ("accounts", ACCOUNTS, account_count, 1),
            ("balances", BALANCES, account_count, 1),
            ("operations", OPENINGS, account_count, 1),
            ("operations", OPERATIONS, operation_count, 1),
            ("operations", LONG_OPERATIONS, self.history_entry_count, 1),
            ("entries", OPENING_ENTRIES, account_count, 1),
            ("entries", ENTRIES, operation_count, 2),
            ("entries", LONG_ENTRIES, self.history_entry_count, 1),
            ("accounts", LONG_ACCOUNT, self.history_entry_count.min(1), 1),
            ("balances", LONG_BALANCE, self.history_entry_count.min(1), 1),
        ];
        let chosen = all.into_iter().filter(|(table, ..)| tables.contains(table));
        chosen
            .map(|(_, sql, count, table_rows)| Step {
                sql,
                rows: 0..count,
                table_rows,
            })
            .collect()
    }

    /// The statement with its numbers. They are numbers of ours, so they need no parameters, whose number must be the same
    /// for all statements.
    fn sql(&self, step: &Step, rows: Range<u64>) -> String {
        let TableSize {
            account_count,
            operation_count,
        } = self.table;
        let numbers = [
            ("{from}", i128::from(rows.start)),
            ("{to}", i128::from(rows.end) - 1),
            ("{accounts}", account_count.into()),
            ("{operations}", operation_count.into()),
            ("{opening}", OPENING_MINOR_UNITS.into()),
            ("{history}", self.history_entry_count.into()),
        ];
        let text = step.sql.replace("{long}", LONG_ACCOUNT_ID);
        numbers.iter().fold(text, |text, (name, number)| {
            text.replace(name, &format!("{number}::bigint"))
        })
    }
}

/// One statement for many rows.
struct Step {
    sql: &'static str,
    rows: Range<u64>,
    /// How many rows of the table each number of `rows` makes.
    table_rows: u64,
}

/// Drops all indexes of a table and returns the statements that make them again.
async fn drop_indexes(client: &Client, table: &str) -> Result<Vec<String>, BenchError> {
    let sql = "SELECT i.indexrelid::regclass::text, c.conname::text, pg_get_constraintdef(c.oid),
                      pg_get_indexdef(i.indexrelid)
               FROM pg_index i
               LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.conrelid = i.indrelid
               WHERE i.indrelid = $1::text::regclass";
    let mut made_again = Vec::new();
    for row in client.query(sql, &[&table]).await? {
        let (index, constraint): (String, Option<String>) = (row.get(0), row.get(1));
        let definition: Option<String> = row.get(2);
        let (drop, make) = match (constraint, definition) {
            (Some(name), Some(definition)) => (
                format!("ALTER TABLE {table} DROP CONSTRAINT \"{name}\""),
                format!("ALTER TABLE {table} ADD CONSTRAINT \"{name}\" {definition}"),
            ),
            _ => (format!("DROP INDEX {index}"), row.get(3)),
        };
        client.batch_execute(&drop).await?;
        made_again.push(make);
    }
    Ok(made_again)
}

const ACCOUNTS: &str = "
    INSERT INTO accounts (account_id, owner_id, currency_code, settlement, create_time)
    SELECT 'account-' || i, 'owner-' || i, 'EUR', false, 'epoch' FROM generate_series({from}, {to}) i";

/// In each whole round of operations an account pays once and receives once; in the last one it may do either. Account 0
/// pays before it receives, all others receive first.
const BALANCES: &str = "
    INSERT INTO balances (account_id, category, currency_code, posted, version, update_time)
    SELECT 'account-' || i, 'main', 'EUR', {opening} - pays + receives,
           1 + 2 * ({operations} / {accounts}) + pays + receives,
           CASE WHEN last < 0 THEN 'epoch'::timestamptz
                ELSE 'epoch'::timestamptz + interval '1 s' + last * interval '1 us' END
    FROM (
        SELECT i, pays, receives,
               CASE WHEN pays = 1 THEN whole + i
                    WHEN receives = 1 THEN whole + i - 1
                    WHEN whole = 0 THEN -1
                    WHEN i = 0 THEN whole - 1
                    ELSE whole - {accounts} + i END AS last
        FROM (
            SELECT i, {operations} - {operations} % {accounts} AS whole,
                   (i < {operations} % {accounts})::integer AS pays,
                   (i >= 1 AND i <= {operations} % {accounts})::integer AS receives
            FROM generate_series({from}, {to}) i
        ) AS n
    ) AS n";

const OPENINGS: &str = "
    INSERT INTO operations (operation_id, kind, amount, currency_code, create_time, destination_account_id,
                            destination_category, destination_version)
    SELECT md5('opening-' || i)::uuid::text, 'CREDIT', {opening}, 'EUR', 'epoch', 'account-' || i, 'main', 1
    FROM generate_series({from}, {to}) i";

const OPENING_ENTRIES: &str = "
    INSERT INTO entries (account_id, category, version, operation_id, amount, posted_after, create_time)
    SELECT 'account-' || i, 'main', 1, md5('opening-' || i)::uuid::text, {opening}, {opening}, 'epoch'
    FROM generate_series({from}, {to}) i";

const OPERATIONS: &str = "
    INSERT INTO operations (operation_id, kind, amount, currency_code, create_time,
                            source_account_id, source_category, source_version,
                            destination_account_id, destination_category, destination_version)
    SELECT md5('operation-' || k)::uuid::text, 'TRANSFER', 1, 'EUR',
           'epoch'::timestamptz + interval '1 s' + k * interval '1 us',
           'account-' || source, 'main', 2 + 2 * round + (source > 0)::integer,
           'account-' || destination, 'main', 2 + 2 * round + (destination = 0)::integer
    FROM (
        SELECT k, k / {accounts} AS round, k % {accounts} AS source, (k + 1) % {accounts} AS destination
        FROM generate_series({from}, {to}) k
    ) AS n";

const ENTRIES: &str = "
    INSERT INTO entries (account_id, category, version, operation_id, amount, posted_after, create_time)
    SELECT 'account-' || account, 'main', version, operation_id, amount, posted_after, create_time
    FROM (
        SELECT k / {accounts} AS round, k % {accounts} AS source, (k + 1) % {accounts} AS destination,
               md5('operation-' || k)::uuid::text AS operation_id,
               'epoch'::timestamptz + interval '1 s' + k * interval '1 us' AS create_time
        FROM generate_series({from}, {to}) k
    ) AS n
    CROSS JOIN LATERAL (VALUES
        (source, 2 + 2 * round + (source > 0)::integer, -1, {opening} - (source = 0)::integer),
        (destination, 2 + 2 * round + (destination = 0)::integer, 1, {opening} + (destination > 0)::integer)
    ) AS side (account, version, amount, posted_after)";

const LONG_ACCOUNT: &str = "
    INSERT INTO accounts (account_id, owner_id, currency_code, settlement, create_time)
    VALUES ('{long}', 'owner-{long}', 'EUR', false, 'epoch')";

const LONG_BALANCE: &str = "
    INSERT INTO balances (account_id, category, currency_code, posted, version, update_time)
    VALUES ('{long}', 'main', 'EUR', {history}, {history},
            'epoch'::timestamptz + {history} * interval '1 s')";

const LONG_OPERATIONS: &str = "
    INSERT INTO operations (operation_id, kind, amount, currency_code, create_time, destination_account_id,
                            destination_category, destination_version)
    SELECT md5('history-' || i)::uuid::text, 'CREDIT', 1, 'EUR', 'epoch'::timestamptz + (i + 1) * interval '1 s',
           '{long}', 'main', i + 1
    FROM generate_series({from}, {to}) i";

const LONG_ENTRIES: &str = "
    INSERT INTO entries (account_id, category, version, operation_id, amount, posted_after, create_time)
    SELECT '{long}', 'main', i + 1, md5('history-' || i)::uuid::text, 1, i + 1,
           'epoch'::timestamptz + (i + 1) * interval '1 s'
    FROM generate_series({from}, {to}) i";
