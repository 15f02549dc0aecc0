//! Verification: recomputes the whole ledger from its entries and says what is not in order. Reads everything in one
//! snapshot, so it may run while the service runs.
//!
//! | check        | what it goes through | what it says                                                              |
//! |--------------|----------------------|---------------------------------------------------------------------------|
//! | keys         | the catalogue        | a key is missing, and what is there twice                                 |
//! | chains       | all entries, sorted  | entries, balances and marks that do not follow from each other            |
//! | operations   | all operations       | what an operation is and what its accounts are do not match               |
//! | refusals     | refused operations   | reason and facts that were not written for this operation                 |
//! | intents      | operations with legs | entries that were not asked for, and legs without one                     |
//! | legs         | legs of operations   | legs that do not fit their operation                                      |
//! | reversals    | reversals            | reversals that do not mirror their originals, or exceed them              |
//! | accounts     | accounts, balances   | account, balances, state and merges do not match                          |
//! | conservation | all, by currency     | balances are not the sum of entries                                       |
//! | currencies   | by currency          | no currency that an account can have                                      |
//! | cards        | verdicts             | verdict, payment and reversal do not match                                |
//! | card rules   | card rules           | a rule that cannot be read, or never applies                              |
//!
//! What one check takes for granted, another one checks: chains need the keys, conservation needs the chains.

mod intents;
mod refusals;

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::cards;
use super::error::StoreError;

/// The most findings of one check that are kept; those beyond are counted. A thousand say enough about a ledger.
const FINDINGS_MAX: usize = 1000;
/// How often a check that takes long says that it is still running.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What a verification found.
#[derive(Debug)]
pub struct Report {
    /// What is not in order; empty: nothing. Of each check at most a thousand.
    pub findings: Vec<String>,
    /// How many findings there are, those included that were not kept.
    pub finding_count: u64,
    /// The checks in their order, each with what it took.
    pub checks: Vec<Finished>,
    /// Per currency, the sum of all posted balances in minor units. It may exceed an `i64`, so it is text.
    pub posted: Vec<(String, String)>,
    /// How many balances there are.
    pub balance_count: i64,
    /// How many entries there are.
    pub entry_count: i64,
}

/// A check that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its name.
    pub name: &'static str,
    /// How many findings it has.
    pub finding_count: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Where a verification is.
#[derive(Debug)]
pub struct Progress {
    /// The name of the check.
    pub name: &'static str,
    /// Which one it is, from 1.
    pub number: usize,
    /// How many there are.
    pub count: usize,
    /// How many rows it goes through.
    pub row_count: i64,
    /// How long it has been running.
    pub elapsed: Duration,
    /// What it does.
    pub stage: Stage,
}

/// What a check does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It begins.
    Begins,
    /// It has been running for a while.
    Runs,
    /// It has ended.
    Ended {
        /// How many findings it has.
        finding_count: u64,
    },
}

/// How much there is.
#[derive(Debug)]
struct Counts {
    accounts: i64,
    balances: i64,
    operations: i64,
    entries: i64,
    refusals: i64,
    intents: i64,
    reversals: i64,
    legs: i64,
    verdicts: i64,
    rules: i64,
}

/// What a check does.
enum Work {
    /// Looks for the keys.
    Keys,
    /// The statement returns one text per finding.
    Findings(&'static str),
    /// The function has a look at each row of the statement.
    Rows(&'static str, fn(&Row) -> Option<String>),
}

struct Check {
    name: &'static str,
    row_count: fn(&Counts) -> i64,
    work: Work,
}

const CHECKS: [Check; 12] = [
    Check {
        name: "keys",
        row_count: |_| KEYS.len() as i64,
        work: Work::Keys,
    },
    Check {
        name: "chains",
        row_count: |counts| counts.entries,
        work: Work::Findings(include_str!("sql/verify_chains.sql")),
    },
    Check {
        name: "operations",
        row_count: |counts| counts.operations,
        work: Work::Findings(include_str!("sql/verify_operations.sql")),
    },
    Check {
        name: "refusals",
        row_count: |counts| counts.refusals,
        work: Work::Rows(include_str!("sql/verify_refusals.sql"), refusals::fault),
    },
    Check {
        name: "intents",
        row_count: |counts| counts.intents,
        work: Work::Rows(include_str!("sql/verify_intents.sql"), intents::fault),
    },
    Check {
        name: "legs",
        row_count: |counts| counts.legs,
        work: Work::Findings(include_str!("sql/verify_legs.sql")),
    },
    Check {
        name: "reversals",
        row_count: |counts| counts.reversals,
        work: Work::Findings(include_str!("sql/verify_reversals.sql")),
    },
    Check {
        name: "accounts",
        row_count: |counts| counts.accounts,
        work: Work::Findings(include_str!("sql/verify_accounts.sql")),
    },
    Check {
        name: "conservation",
        row_count: |counts| counts.operations,
        work: Work::Findings(include_str!("sql/verify_conservation.sql")),
    },
    Check {
        name: "currencies",
        row_count: |counts| counts.accounts,
        work: Work::Rows(include_str!("sql/verify_currencies.sql"), currency_fault),
    },
    Check {
        name: "cards",
        row_count: |counts| counts.verdicts,
        work: Work::Findings(include_str!("sql/verify_cards.sql")),
    },
    Check {
        name: "card rules",
        row_count: |counts| counts.rules,
        work: Work::Rows(include_str!("sql/verify_rules.sql"), cards::rule_fault),
    },
];

/// A table, the columns in order of their names of which no two rows have the same values, and for which rows that counts
/// (empty: for all).
type Key = (&'static str, &'static str, &'static str);

/// The keys without which there can be duplicates.
const KEYS: [Key; 8] = [
    ("accounts", "account_id", ""),
    ("accounts", "owner_id", "settlement"),
    ("balances", "account_id, category", ""),
    ("operations", "operation_id", ""),
    (
        "operation_legs",
        "account_id, category, operation_id, position",
        "",
    ),
    ("entry_marks", "account_id, category, version", ""),
    ("card_rules", "kind, pattern", ""),
    ("card_verdicts", "attempt, operation_id", ""),
];

/// Recomputes everything in one snapshot.
pub async fn run(client: &Client) -> Result<Report, StoreError> {
    run_with(client, |_| {}).await
}

/// [`run`], and says where it is: when a check begins, every ten seconds, and when it ends.
pub async fn run_with(
    client: &Client,
    progress: impl FnMut(&Progress),
) -> Result<Report, StoreError> {
    // What is sorted or hashed in more than that goes to temporary files.
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
                 SET LOCAL statement_timeout = 0; SET LOCAL work_mem = '64MB'; SET LOCAL jit = off";
    client.batch_execute(begin).await?;
    let report = within_transaction(client, progress).await?;
    client.batch_execute("COMMIT").await?;
    Ok(report)
}

/// Recomputes everything within the transaction that the client is in, as that transaction sees it.
pub async fn within_transaction(
    client: &Client,
    mut progress: impl FnMut(&Progress),
) -> Result<Report, StoreError> {
    let counts = counts(client).await?;
    let (mut findings, mut finding_count, mut checks) = (Vec::new(), 0, Vec::new());
    for (number, check) in (1..).zip(&CHECKS) {
        let begun = Instant::now();
        let row_count = (check.row_count)(&counts);
        let mut say = |stage| {
            progress(&Progress {
                name: check.name,
                number,
                count: CHECKS.len(),
                row_count,
                elapsed: begun.elapsed(),
                stage,
            });
        };
        say(Stage::Begins);
        let found = with_heartbeat(check.work.run(client), || say(Stage::Runs)).await?;
        say(Stage::Ended {
            finding_count: found.count,
        });
        checks.push(Finished {
            name: check.name,
            finding_count: found.count,
            elapsed: begun.elapsed(),
        });
        finding_count += found.count;
        findings.extend(found.into_sorted(check.name));
    }
    let sums = "SELECT currency_code, sum(posted)::text FROM balances GROUP BY currency_code ORDER BY currency_code";
    let posted = client
        .query(sums, &[])
        .await?
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    Ok(Report {
        findings,
        finding_count,
        checks,
        posted,
        balance_count: counts.balances,
        entry_count: counts.entries,
    })
}

async fn counts(client: &Client) -> Result<Counts, StoreError> {
    let row = client
        .query_one(include_str!("sql/verify_counts.sql"), &[])
        .await?;
    Ok(Counts {
        accounts: row.get("accounts"),
        balances: row.get("balances"),
        operations: row.get("operations"),
        entries: row.get("entries"),
        refusals: row.get("refusals"),
        intents: row.get("intents"),
        reversals: row.get("reversals"),
        legs: row.get("legs"),
        verdicts: row.get("verdicts"),
        rules: row.get("rules"),
    })
}

async fn with_heartbeat<T>(work: impl Future<Output = T>, mut beat: impl FnMut()) -> T {
    let mut work = pin!(work);
    loop {
        match tokio::time::timeout(HEARTBEAT, &mut work).await {
            Ok(done) => return done,
            Err(_elapsed) => beat(),
        }
    }
}

/// The findings of one check.
#[derive(Debug, Default)]
struct Found {
    kept: Vec<String>,
    count: u64,
}

impl Found {
    fn add(&mut self, finding: String) {
        self.count += 1;
        if self.kept.len() < FINDINGS_MAX {
            self.kept.push(finding);
        }
    }

    fn into_sorted(mut self, name: &str) -> Vec<String> {
        self.kept.sort_unstable();
        let left_out = self.count - self.kept.len() as u64;
        if left_out > 0 {
            self.kept
                .push(format!("{left_out} more findings of the check {name}"));
        }
        self.kept
    }
}

impl Work {
    async fn run(&self, client: &Client) -> Result<Found, StoreError> {
        let mut found = Found::default();
        match self {
            Self::Keys => find_missing_keys(client, &mut found).await?,
            Self::Findings(sql) => {
                let finding = |row: &Row| Some(row.get(0));
                find(client, sql, finding, &mut found).await?;
            }
            Self::Rows(sql, fault) => find(client, sql, fault, &mut found).await?,
        }
        Ok(found)
    }
}

/// Adds what `fault` says of the rows, one after the other: there may be many.
async fn find(
    client: &Client,
    sql: &str,
    fault: impl Fn(&Row) -> Option<String>,
    found: &mut Found,
) -> Result<(), StoreError> {
    let no_params = std::iter::empty::<&(dyn ToSql + Sync)>();
    let mut rows = pin!(client.query_raw(sql, no_params).await?);
    while let Some(row) = rows.try_next().await? {
        if let Some(finding) = fault(&row) {
            found.add(finding);
        }
    }
    Ok(())
}

/// While a key is there, PostgreSQL lets nothing be twice. Only where one is missing, duplicates are looked for.
async fn find_missing_keys(client: &Client, found: &mut Found) -> Result<(), StoreError> {
    let part = |part: fn(&Key) -> &'static str| KEYS.iter().map(part).collect::<Vec<_>>();
    let (tables, columns, predicates) = (part(|key| key.0), part(|key| key.1), part(|key| key.2));
    let missing = include_str!("sql/verify_keys.sql");
    for row in client
        .query(missing, &[&tables, &columns, &predicates])
        .await?
    {
        let (table, columns, predicate): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        found.add(format!("table {table} has no key ({columns})"));
        let filter = match predicate {
            "" => "true",
            predicate => predicate,
        };
        let duplicates = format!(
            "SELECT format('table {table} has %s rows with ({columns}) = %s', count(*), ROW({columns})::text)
             FROM {table} WHERE {filter} GROUP BY {columns} HAVING count(*) > 1"
        );
        find(client, &duplicates, |row| Some(row.get(0)), found).await?;
    }
    Ok(())
}

/// Whether a code is one of ISO 4217 that money can be in.
pub fn is_money(code: &str) -> bool {
    // Listed, but no money: "no currency" and "for testing".
    iso_currency::Currency::from_code(code).is_some() && !matches!(code, "XXX" | "XTS")
}

fn currency_fault(row: &Row) -> Option<String> {
    let code: &str = row.get(0);
    (!is_money(code)).then(|| format!("accounts are in {code}, which is no currency of ISO 4217"))
}
