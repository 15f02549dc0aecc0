//! Four server processes on one database: the real binary, killed in the middle, and clients that go on with the others.
//!
//! `BALLAST_TEST_REPETITIONS` says how often the whole scenario runs, on the same four processes; default 2.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use ballast::store::verify;
use nix::sys::signal::Signal;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use crate::support::binary::Running;
use crate::support::instance::{Accounts, Balances, channel};
use crate::support::postgres::Database;
use crate::support::*;

const PROCESS_COUNT: usize = 4;
const CLIENT_COUNT: usize = 48;
const TRANSFERS_PER_CLIENT: usize = 8;
const OPENING: i64 = 1_000;
/// How often a client sends one operation before it calls that a bug.
const ATTEMPTS_MAX: u32 = 200;

pub struct Fleet {
    pub folder: tempfile::TempDir,
    pub database: Database,
    pub processes: Vec<Running>,
}

impl Fleet {
    pub async fn start() -> Self {
        let (folder, database) = (
            tempfile::tempdir().expect("a folder"),
            Database::empty().await,
        );
        // All at once on an empty database: one migrates it, the others wait for that.
        let starting: Vec<_> = (0..PROCESS_COUNT)
            .map(|_| Self::starting(&folder, &database))
            .collect();
        let mut processes = Vec::new();
        for process in starting {
            processes.push(process.await.expect("it starts"));
        }
        Self {
            folder,
            database,
            processes,
        }
    }

    fn starting(
        folder: &tempfile::TempDir,
        database: &Database,
    ) -> tokio::task::JoinHandle<Running> {
        let (folder, url) = (folder.path().to_owned(), database.url());
        tokio::task::spawn_blocking(move || {
            // A machine that is busy with the clients must not fail the start.
            let patience = ["--connect-timeout-ms", "30000"];
            Running::start(
                &folder,
                &[&["--database-url", &url], &patience[..]].concat(),
            )
        })
    }

    fn balances(&self, process: usize) -> Balances {
        self.processes[process % PROCESS_COUNT].balances()
    }

    fn accounts(&self, process: usize) -> Accounts {
        self.processes[process % PROCESS_COUNT].accounts()
    }

    async fn until_healthy(&self) {
        for process in &self.processes {
            let mut health = HealthClient::new(channel(process.address));
            for service in ["", "ballast.v1.BalanceService", "ballast.v1.AccountService"] {
                let request = HealthCheckRequest {
                    service: service.to_owned(),
                };
                let mut watch = health.watch(request).await.expect("a watch").into_inner();
                loop {
                    let told = watch.message().await.expect("a status").expect("no end");
                    if told.status() == ServingStatus::Serving {
                        break;
                    }
                }
            }
        }
    }
}

/// Everything that one repetition calls its accounts and operations begins with this.
#[derive(Clone)]
struct Names(String);

impl Names {
    fn of(&self, name: &str) -> String {
        format!("{}-{name}", self.0)
    }
}

/// One account, seen and moved through every process.
async fn one_account(fleet: &Fleet, names: &Names) {
    let single = names.of("single");
    for process in 0..PROCESS_COUNT {
        let mut accounts = fleet.accounts(process);
        let opened = accounts.create_account(account(&single)).await;
        let opened = opened.expect("opened or found").into_inner();
        assert_eq!(opened.created, process == 0);
        let request = credit(&names.of(&format!("credit-{process}")), &single, 10);
        let credited = fleet.balances(process).credit(request).await;
        let credited = credited.expect("credited").into_inner();
        let expected = 10 * (process as i64 + 1);
        assert_eq!(credited.balances[0].posted_minor_units, expected);
        let reader = &mut fleet.balances(process + 1);
        assert_eq!(posted(reader, &single).await, expected);
    }
}

/// Two accounts, and transfers through every process in both directions.
async fn two_accounts(fleet: &Fleet, names: &Names) {
    let [a, b] = ["a", "b"].map(|name| names.of(name));
    for name in [&a, &b] {
        let mut accounts = fleet.accounts(1);
        let opened = accounts.create_account(account(name)).await;
        opened.expect("opened");
        let opening = credit(&format!("{name}-opening"), name, OPENING);
        fleet.balances(2).credit(opening).await.expect("credited");
    }
    for process in 0..PROCESS_COUNT {
        let there = transfer(&names.of(&format!("there-{process}")), &a, &b, 7);
        let back = transfer(&names.of(&format!("back-{process}")), &b, &a, 7);
        let balances = &mut fleet.balances(process);
        balances.transfer(there).await.expect("posted");
        balances.transfer(back).await.expect("posted");
    }
    assert_eq!(posted(&mut fleet.balances(0), &a).await, OPENING);
}

/// The same operation at two processes at once: one executes, the other replays.
async fn one_operation_at_two_processes(fleet: &Fleet, names: &Names) {
    let [a, b] = ["a", "b"].map(|name| names.of(name));
    for pair in 0..PROCESS_COUNT {
        let request = transfer(&names.of(&format!("twice-{pair}")), &a, &b, 1);
        let (mut one, mut other) = (fleet.balances(pair), fleet.balances(pair + 1));
        let (first, second) = tokio::join!(one.transfer(request.clone()), other.transfer(request));
        let answers = [first, second].map(|answer| answer.expect("posted").into_inner());
        let replayed = answers.iter().filter(|answer| answer.replayed).count();
        assert_eq!(replayed, 1);
        assert_eq!(answers[0].entries, answers[1].entries);
    }
    let moved = posted(&mut fleet.balances(3), &b).await - OPENING;
    assert_eq!(moved, PROCESS_COUNT as i64);
}

/// What a client may do about an error.
enum Next {
    Refused,
    Again,
}

fn judge(status: &Status) -> Next {
    let details = status.get_error_details();
    match details.error_info().map(|info| info.reason.as_str()) {
        Some("INSUFFICIENT_FUNDS") => Next::Refused,
        // The client's own: the connection broke, or there is nobody at the other end.
        None => Next::Again,
        // Two processes at one account for longer than they wait for each other.
        Some("CONTENTION") => Next::Again,
        Some(surprise) => panic!("{surprise}: {status:?}"),
    }
}

/// What the clients moved, and what was refused, by operation id.
type Outcomes = BTreeMap<String, Option<i64>>;

/// Many clients, both directions, all processes; one is killed when half of the operations are answered.
async fn many_clients_and_a_killed_process(fleet: &mut Fleet, names: &Names, victim: usize) {
    let (answered, killing) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let clients: Vec<_> = (0..CLIENT_COUNT)
        .map(|client| {
            let processes: Vec<_> = (0..PROCESS_COUNT)
                .map(|process| fleet.balances(process))
                .collect();
            let (names, answered, killed) = (names.clone(), answered.clone(), killing.clone());
            tokio::spawn(
                async move { client_of(client, processes, &names, &answered, &killed).await },
            )
        })
        .collect();
    while answered.load(Ordering::Acquire) < CLIENT_COUNT * TRANSFERS_PER_CLIENT / 2 {
        tokio::task::yield_now().await;
    }
    let replacement = Fleet::starting(&fleet.folder, &fleet.database);
    fleet.processes[victim].signal(Signal::SIGKILL);
    killing.cancel();
    let (mut outcomes, mut retried) = (Outcomes::new(), 0);
    for client in clients {
        let (of_client, retries) = client.await.expect("no surprise");
        outcomes.extend(of_client);
        retried += retries;
    }
    assert!(retried > 0, "the killed process was in use");
    let replacement = replacement.await.expect("it starts again");
    let killed = std::mem::replace(&mut fleet.processes[victim], replacement);
    assert_eq!(killed.ended().await.code(), None, "a signal ended it");
    assert_eq!(outcomes.len(), CLIENT_COUNT * TRANSFERS_PER_CLIENT);
    assert_each_happened_as_answered(fleet, names, &outcomes).await;
}

async fn client_of(
    client: usize,
    mut processes: Vec<Balances>,
    names: &Names,
    answered: &AtomicUsize,
    killed: &CancellationToken,
) -> (Outcomes, u32) {
    let [a, b] = ["a", "b"].map(|name| names.of(name));
    let (from, to, sign) = match client % 2 {
        0 => (&a, &b, 1),
        _ => (&b, &a, -1),
    };
    let (mut outcomes, mut retries) = (Outcomes::new(), 0);
    for index in 0..TRANSFERS_PER_CLIENT {
        let id = names.of(&format!("t-{client}-{index}"));
        // However late the process is killed, everybody has something left to do then.
        if index + 1 == TRANSFERS_PER_CLIENT {
            killed.cancelled().await;
        }
        let amount = 1 + ((client * 31 + index * 17) % 120) as i64;
        let mut attempt = 0;
        let moved = loop {
            // First everybody's own process, then, with the same id, the others.
            let process = (client / 2 + attempt as usize) % PROCESS_COUNT;
            let request = transfer(&id, from, to, amount);
            match processes[process].transfer(request).await {
                Ok(_) => break Some(sign * amount),
                Err(status) => match judge(&status) {
                    Next::Refused => break None,
                    Next::Again => attempt += 1,
                },
            }
            assert!(attempt < ATTEMPTS_MAX, "{id} has no answer");
        };
        retries += attempt;
        answered.fetch_add(1, Ordering::AcqRel);
        outcomes.insert(id, moved);
    }
    (outcomes, retries)
}

/// Balances, operations and entries are what the answers say, each id once.
async fn assert_each_happened_as_answered(fleet: &Fleet, names: &Names, outcomes: &Outcomes) {
    let moved: i64 = outcomes.values().flatten().sum();
    let twice = PROCESS_COUNT as i64;
    let [a, b] = ["a", "b"].map(|name| names.of(name));
    let reader = &mut fleet.balances(0);
    let found = [posted(reader, &a).await, posted(reader, &b).await];
    assert_eq!(found, [OPENING - twice - moved, OPENING + twice + moved]);

    let sql = fleet.database.sql().await;
    let query = "SELECT o.operation_id, o.refusal_reason IS NULL AS posted,
                        (SELECT count(*) FROM entries e
                         WHERE e.operation_id = o.operation_id AND e.account_id = ANY($2)) AS entry_count
                 FROM operations o WHERE o.operation_id LIKE $1";
    let (like, accounts) = (names.of("t-%"), [a, b]);
    let rows = sql.query(query, &[&like, &&accounts[..]]).await;
    let rows = rows.expect("the operations");
    assert_eq!(rows.len(), outcomes.len());
    for row in rows {
        let (id, posted, entry_count): (&str, bool, i64) = (row.get(0), row.get(1), row.get(2));
        let expected = outcomes[id].map_or((false, 0), |_| (true, 2));
        assert_eq!((posted, entry_count), expected, "{id}");
    }
}

pub async fn deadlocks(sql: &Client) -> i64 {
    let query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    sql.query_one(query, &[]).await.expect("a count").get(0)
}

fn repetitions() -> usize {
    let named = std::env::var("BALLAST_TEST_REPETITIONS").ok();
    named.map_or(2, |text| text.parse().expect("a number of repetitions"))
}

#[tokio::test]
async fn four_processes_keep_one_ledger_while_one_of_them_is_killed() {
    let mut fleet = Fleet::start().await;
    let (repetitions, started) = (repetitions(), Instant::now());
    for repetition in 0..repetitions {
        let names = Names(format!("r{repetition}"));
        fleet.until_healthy().await;
        one_account(&fleet, &names).await;
        two_accounts(&fleet, &names).await;
        one_operation_at_two_processes(&fleet, &names).await;
        many_clients_and_a_killed_process(&mut fleet, &names, repetition % PROCESS_COUNT).await;
    }
    let took = started.elapsed();
    let sql = fleet.database.sql().await;
    assert_eq!(deadlocks(&sql).await, 0);
    let report = verify::run(&sql).await.expect("the verification runs");
    assert_eq!(report.findings, Vec::<String>::new());
    let single = 10 * PROCESS_COUNT as i64;
    let expected = repetitions as i64 * (2 * OPENING + single);
    assert_eq!(
        report.posted,
        [("EUR".to_owned(), expected.to_string())],
        "the sum of all balances"
    );
    eprintln!(
        "{repetitions} repetitions in {:.1} s: {} processes killed, {} entries, 0 deadlocks, the sum is {expected}",
        took.as_secs_f64(),
        repetitions,
        report.entry_count,
    );
    for process in fleet.processes {
        assert_eq!(process.stopped().await.code(), Some(0));
    }
}
