//! Preload: fills a fresh ledger in bulk, in a state that `verify` finds in order.
//!
//! Every account is opened by one credit. Operation k then moves one minor unit from account k mod n to the next one, so
//! every balance, version and time follows from the numbers alone and all tables are filled side by side. Indexes are
//! made afterwards: random ids cost a sort then, not a random write each. Operation ids are hashes, as random as those
//! that the load brings.

use std::ops::Range;

use indicatif::ProgressBar;
use tokio_postgres::Client;

use crate::bench::error::BenchError;
use crate::bench::load::LONG_ACCOUNT_ID;
use crate::bench::table_size::TableSize;

/// What each account begins with, in minor units: enough for any run.
pub(in crate::bench) const OPENING_MINOR_UNITS: i64 = 1_000_000_000_000;

/// How many rows one statement makes; between them the bar moves.
const CHUNK_ROW_COUNT: u64 = 200_000;

/// What is loaded.
#[derive(Debug, Clone, Copy)]
pub(in crate::bench) struct Preload {
    pub(in crate::bench) table: TableSize,
    /// How many entries the long account has; 0: there is none.
    pub(in crate::bench) history_entry_count: u64,
}

/// The tables that each of two connections fills, with about as much work for both.
const SHARES: [&[&str]; 2] = [&["operations"], &["accounts", "balances", "entry_marks"]];

impl Preload {
    /// How many steps the bar has: one for each row, and one for each row that is indexed.
    pub(in crate::bench) fn step_count(&self) -> u64 {
        SHARES
            .iter()
            .flat_map(|share| self.steps(share))
            .map(|step| step.rows.end)
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
        )
        .map(drop)
    }

    async fn fill(
        &self,
        client: &Client,
        tables: &[&str],
        bar: &ProgressBar,
    ) -> Result<(), BenchError> {
        // Each connection sorts in at most so much memory; commits are durable with the checkpoint at the end.
        let settings =
            "SET synchronous_commit = off; SET maintenance_work_mem = '256MB'; SET jit = off";
        client.batch_execute(settings).await?;
        for &table in tables {
            let indexes = drop_indexes(client, table).await?;
            let mut row_count = 0;
            for step in self.steps(&[table]) {
                let mut from = step.rows.start;
                while from < step.rows.end {
                    let to = step.rows.end.min(from + CHUNK_ROW_COUNT);
                    client.batch_execute(&self.sql(&step, from..to)).await?;
                    bar.inc(to - from);
                    from = to;
                }
                row_count += step.rows.end;
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
            ("accounts", ACCOUNTS, account_count),
            ("balances", BALANCES, account_count),
            ("operations", OPENINGS, account_count),
            ("operations", OPERATIONS, operation_count),
            ("operations", LONG_OPERATIONS, self.history_entry_count),
            ("entry_marks", MARKS, self.mark_count()),
            ("entry_marks", LONG_MARKS, self.history_entry_count / 16),
            ("accounts", LONG_ACCOUNT, self.history_entry_count.min(1)),
            ("balances", LONG_BALANCE, self.history_entry_count.min(1)),
        ];
        let chosen = all.into_iter().filter(|(table, ..)| tables.contains(table));
        chosen
            .map(|(_, sql, count)| Step {
                sql,
                rows: 0..count,
            })
            .collect()
    }

    /// At least as many marks as the operations make: in every eighth round the entry that an account makes first has one.
    fn mark_count(&self) -> u64 {
        let TableSize {
            account_count,
            operation_count,
        } = self.table;
        operation_count.div_ceil(account_count) / 8 * account_count
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
    INSERT INTO balances (account_id, category, currency_code, posted, version, update_time, last_operation_id)
    SELECT 'account-' || i, 'main', 'EUR', {opening} - pays + receives,
           1 + 2 * ({operations} / {accounts}) + pays + receives,
           CASE WHEN last < 0 THEN 'epoch'::timestamptz
                ELSE 'epoch'::timestamptz + interval '1 s' + last * interval '1 us' END,
           md5(CASE WHEN last < 0 THEN 'opening-' || i ELSE 'operation-' || last END)::uuid::text
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
                            destination_category, destination_version, destination_posted_after)
    SELECT md5('opening-' || i)::uuid::text, 'CREDIT', {opening}, 'EUR', 'epoch', 'account-' || i, 'main', 1, {opening}
    FROM generate_series({from}, {to}) i";

/// The entry before a payment is made by the operation before. An account received before that in the round before, and in
/// the first round there was only its opening.
const OPERATIONS: &str = "
    INSERT INTO operations (operation_id, kind, amount, currency_code, create_time,
                            source_account_id, source_category, source_version, source_posted_after,
                            source_previous_id,
                            destination_account_id, destination_category, destination_version,
                            destination_posted_after, destination_previous_id)
    SELECT md5('operation-' || k)::uuid::text, 'TRANSFER', 1, 'EUR',
           'epoch'::timestamptz + interval '1 s' + k * interval '1 us',
           'account-' || source, 'main', 2 + 2 * round + (source > 0)::integer,
           {opening} - (source = 0)::integer,
           md5(CASE WHEN k = 0 THEN 'opening-0' ELSE 'operation-' || k - 1 END)::uuid::text,
           'account-' || destination, 'main', 2 + 2 * round + (destination = 0)::integer,
           {opening} + (destination > 0)::integer,
           md5(CASE WHEN k + 1 < {accounts} THEN 'opening-' || k + 1
                    ELSE 'operation-' || k + 1 - {accounts} END)::uuid::text
    FROM (
        SELECT k, k / {accounts} AS round, k % {accounts} AS source, (k + 1) % {accounts} AS destination
        FROM generate_series({from}, {to}) k
    ) AS n";

/// The entry of an even version is the account's first in its round: all receive it, account 0 pays.
const MARKS: &str = "
    INSERT INTO entry_marks (account_id, category, version, operation_id, create_time)
    SELECT 'account-' || account, 'main', version, md5('operation-' || k)::uuid::text,
           'epoch'::timestamptz + interval '1 s' + k * interval '1 us'
    FROM (
        SELECT account, version, (version / 2 - 1) * {accounts} + greatest(account - 1, 0) AS k
        FROM (
            SELECT i % {accounts} AS account, 16 * (i / {accounts} + 1) AS version
            FROM generate_series({from}, {to}) i
        ) AS n
    ) AS n
    WHERE k < {operations}";

const LONG_ACCOUNT: &str = "
    INSERT INTO accounts (account_id, owner_id, currency_code, settlement, create_time)
    VALUES ('{long}', 'owner-{long}', 'EUR', false, 'epoch')";

const LONG_BALANCE: &str = "
    INSERT INTO balances (account_id, category, currency_code, posted, version, update_time, last_operation_id)
    VALUES ('{long}', 'main', 'EUR', {history}, {history},
            'epoch'::timestamptz + {history} * interval '1 s', md5('history-' || {history} - 1)::uuid::text)";

const LONG_OPERATIONS: &str = "
    INSERT INTO operations (operation_id, kind, amount, currency_code, create_time, destination_account_id,
                            destination_category, destination_version, destination_posted_after,
                            destination_previous_id)
    SELECT md5('history-' || i)::uuid::text, 'CREDIT', 1, 'EUR', 'epoch'::timestamptz + (i + 1) * interval '1 s',
           '{long}', 'main', i + 1, i + 1, CASE WHEN i > 0 THEN md5('history-' || i - 1)::uuid::text END
    FROM generate_series({from}, {to}) i";

const LONG_MARKS: &str = "
    INSERT INTO entry_marks (account_id, category, version, operation_id, create_time)
    SELECT '{long}', 'main', 16 * i + 16, md5('history-' || 16 * i + 15)::uuid::text,
           'epoch'::timestamptz + (16 * i + 16) * interval '1 s'
    FROM generate_series({from}, {to}) i";
