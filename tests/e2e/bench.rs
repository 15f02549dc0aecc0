//! The benchmark runs, compares, verifies every ledger, and writes down what it found.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::binary::{command, run};
use crate::support::postgres::Database;
use crate::support::{Ballast, within_reason};

/// One short round on a few accounts. Warmed up: on a busy machine a server may spend its first second on connections.
const SHORT: [&str; 9] = round_of("1", "8");
/// The same with one request in flight, which an open loop is compared with.
const ALONE: [&str; 9] = round_of("1", "1");
/// Two halves, of which the second has to lock a balance from outside first.
const IN_HALVES: [&str; 9] = round_of("4", "8");

/// How often a benchmark is run that measured nothing in one of its turns.
const ATTEMPTS_MAX: usize = 3;

const fn round_of(seconds: &'static str, concurrency: &'static str) -> [&'static str; 9] {
    [
        "bench",
        "--rounds",
        "1",
        "--duration-s",
        seconds,
        "--warmup-s",
        "1",
        "--concurrency",
        concurrency,
    ]
}

/// Runs a benchmark that is expected to succeed: what it printed, and its JSON.
async fn measured(folder: &Path, arguments: &[&str]) -> (String, Value) {
    measured_in(folder, &SHORT, arguments).await
}

async fn measured_in(folder: &Path, round: &[&str], arguments: &[&str]) -> (String, Value) {
    let mut attempt = 1;
    loop {
        let (code, stdout, report) = ended_in(folder, round, arguments).await;
        // On a busy machine nothing may be answered in a whole turn, which is a second.
        let is_still = |row: &Value| row["rounds"][0]["ok_per_second"].as_f64() == Some(0.0);
        if attempt < ATTEMPTS_MAX && rows(&report).iter().any(is_still) {
            attempt += 1;
            continue;
        }
        assert_eq!(code, Some(0), "{stdout}");
        return (stdout, report);
    }
}

/// Runs a benchmark that has a report, though some of its requests may fail: its exit code too.
async fn ended_in(
    folder: &Path,
    round: &[&str],
    arguments: &[&str],
) -> (Option<i32>, String, Value) {
    let database = Database::empty().await;
    let (url, json) = (database.url(), folder.join("figures.json"));
    let path = json.to_string_lossy();
    let place = ["--database-url", &url, "--json", &path];
    let arguments = [round, &place, arguments].concat();
    let (code, stdout, stderr) = run(folder, &arguments);
    assert!(
        stdout.contains("every ledger was verified and is in order"),
        "{stdout}{stderr}"
    );
    let text = std::fs::read_to_string(&json).expect("a file");
    let report = serde_json::from_str(&text).expect("the file is JSON");
    (code, stdout, report)
}

fn rows(report: &Value) -> &Vec<Value> {
    report["rows"].as_array().expect("rows")
}

/// Every row has answers, and nothing failed.
fn assert_measured(report: &Value) {
    for row in rows(report) {
        let figures = &row["rounds"][0];
        assert!(
            figures["ok_per_second"].as_f64() > Some(0.0)
                && figures["latency_us"]["p99"].as_u64() > Some(0)
                && figures["errors"]
                    .as_object()
                    .is_some_and(|errors| errors.is_empty()),
            "{row}"
        );
    }
}

#[tokio::test]
async fn a_short_benchmark_measures_every_variant_and_verifies_every_ledger() {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = [
        "--accounts",
        "20",
        "--scenario",
        "uniform,zipf:1.2,mutual",
        "--baseline",
        "transaction,echo",
        "--variant",
        "--lanes 1",
    ];
    let (stdout, report) = measured(folder.path(), &arguments).await;
    assert_eq!(rows(&report).len(), 3 * 4);
    assert_measured(&report);
    assert_eq!(report["environment"]["postgres_settings"]["fsync"], "on");
    assert!(stdout.contains("transaction"), "{stdout}");
}

#[tokio::test]
async fn an_open_loop_measures_what_is_due() {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = [
        "--accounts",
        "20",
        "--scenario",
        "hot,debit,reads,mixed",
        "--rate",
        "200",
        "--baseline",
        "transaction",
    ];
    let (stdout, report) = measured(folder.path(), &arguments).await;
    // Each scenario in both loops, and the baseline in the closed loop of the one that only transfers.
    assert_eq!(rows(&report).len(), 4 * 2 + 1, "{stdout}");
    assert_measured(&report);
    assert!(stdout.contains("skipped: transaction: a baseline only transfers"));
}

#[tokio::test]
async fn every_mode_is_measured_on_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = [
        "--accounts",
        "20",
        "--scenario",
        "uniform,mixed",
        "--mode",
        "unary,batch,stream",
        "--batch-size",
        "4",
        "--rate",
        "200",
        "--baseline",
        "transaction",
    ];
    let (stdout, report) = measured_in(folder.path(), &ALONE, &arguments).await;
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let of_ballast = rows(&report)
        .iter()
        .filter(|row| row["variant"] == "ballast");
    let loads: Vec<[String; 3]> = of_ballast
        .map(|row| ["scenario", "pace", "way"].map(|name| text(row, name)))
        .collect();
    let expected = [
        ["uniform", "1 in flight", "unary"],
        ["uniform", "1 in flight", "batch of 4"],
        ["uniform", "1 in flight", "stream"],
        ["uniform", "200/s", "unary"],
        ["uniform", "200/s", "batch of 4"],
        ["uniform", "200/s", "stream"],
        // What reads is measured by unary calls only.
        ["mixed", "1 in flight", "unary"],
        ["mixed", "200/s", "unary"],
    ];
    assert_eq!(loads, expected.map(|load| load.map(str::to_owned)));
    // Each mode of the open loop is compared with the baseline, which knows only one.
    for mode in ["unary", "batch of 4", "stream"] {
        let compared = stdout.lines().any(|line| {
            line.contains(&format!("uniform, {mode}")) && line.contains("p50 of transaction")
        });
        assert!(compared, "{mode}: {stdout}");
    }
    assert_measured(&report);
    assert!(stdout.contains("skipped: ballast, transaction: batches and streams carry operations"));
}

#[tokio::test]
async fn pgbench_does_the_same_work_and_leaves_a_ledger_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = [
        "--accounts",
        "20",
        "--scenario",
        "uniform,hot,zipf",
        "--baseline",
        "pgbench",
        "--baseline-connections",
        "4",
    ];
    let (stdout, report) = measured(folder.path(), &arguments).await;
    let of_pgbench = rows(&report)
        .iter()
        .filter(|row| row["variant"] == "pgbench");
    assert_eq!(of_pgbench.count(), 2, "{stdout}");
    assert_measured(&report);
    assert!(stdout.contains("skipped: pgbench: pgbench does uniform, hot and mutual only"));
}

#[tokio::test]
async fn preloaded_ledgers_of_any_size_are_in_order_and_compared() {
    let folder = tempfile::tempdir().expect("a folder");
    // Less than one round of operations; rounds and a rest, with one mark for each account; exactly as many as make two.
    let arguments = [
        "--scenario",
        "uniform",
        "--table-size",
        "100,100+37,7+130,5+80",
    ];
    let (stdout, report) = measured(folder.path(), &arguments).await;
    let ledgers: Vec<(u64, u64)> = report["ledgers"]
        .as_array()
        .expect("ledgers")
        .iter()
        .filter_map(|ledger| {
            Some((
                ledger["account_count"].as_u64()?,
                ledger["entry_count"].as_u64()?,
            ))
        })
        .collect();
    assert_eq!(ledgers, [(100, 100), (100, 174), (7, 267), (5, 165)]);
    assert_measured(&report);
    assert!(stdout.contains("100+37"), "{stdout}");
}

#[tokio::test]
async fn a_long_history_and_a_locked_balance_are_shown_in_parts() {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = [
        "--accounts",
        "5000",
        "--scenario",
        "history,locked",
        "--history-entries",
        "2500",
    ];
    let parts = |row: &Value| -> Vec<(String, u64)> {
        let parts = row["rounds"][0]["parts"].as_array().expect("parts");
        parts
            .iter()
            .filter_map(|part| {
                Some((
                    part["name"].as_str()?.to_owned(),
                    part["ok_count"].as_u64()?,
                ))
            })
            .collect()
    };
    let mut attempt = 1;
    let (history, others) = loop {
        let (stdout, report) = measured_in(folder.path(), &IN_HALVES, &arguments).await;
        let [history, locked] = &rows(&report)[..] else {
            panic!("{stdout}")
        };
        let others = parts(locked);
        // On a busy machine the lock may come after the end of the turn.
        if others.len() >= 2 || attempt == ATTEMPTS_MAX {
            break (history.clone(), others);
        }
        attempt += 1;
    };
    let read = parts(&history);
    assert_eq!(read.len(), 6);
    assert!(read.iter().all(|(_, ok_count)| *ok_count > 0), "{read:?}");
    assert!(
        others.len() >= 2
            && others[..2]
                .iter()
                .all(|(name, ok_count)| name.starts_with("others") && *ok_count > 0),
        "{others:?}"
    );
}

/// Those of one kind, by what is divided and what it is divided by.
fn ratio<'a>(report: &'a Value, of: &str, by: &str, load: &str) -> &'a Value {
    let ratios = report["ratios"].as_array().expect("ratios");
    let mut found = ratios.iter().filter(|ratio| {
        let load_of = ratio["load"].as_str().unwrap_or_default();
        ratio["of"] == of && ratio["by"] == by && load_of.starts_with(load)
    });
    let first = found.next();
    first.unwrap_or_else(|| panic!("{of} by {by}, {load}: {ratios:?}"))
}

/// A median, and a range around it.
fn assert_spread(spread: &Value) {
    let number = |name: &str| spread[name].as_f64().expect("a number");
    let (low, median, high) = (number("low"), number("median"), number("high"));
    assert!(0.0 < low && low <= median && median <= high, "{spread}");
}

#[tokio::test]
async fn locked_payers_wait_on_every_instance_while_the_others_are_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = [
        "--accounts",
        "50",
        "--scenario",
        "locked",
        "--locked-payers",
        "2",
        "--instances",
        "2",
    ];
    let (_, stdout, report) = ended_in(folder.path(), &IN_HALVES, &arguments).await;
    let scenarios: Vec<&str> = rows(&report)
        .iter()
        .filter_map(|row| row["scenario"].as_str())
        .collect();
    let expected = [
        // Nobody is locked: what the others are compared with.
        "0 locked payers, merchant first",
        "2 locked payers, merchant first",
        "0 locked payers, merchant last",
        "2 locked payers, merchant last",
    ];
    assert_eq!(scenarios, expected);
    assert_eq!(report["instance_count"], 2);
    for row in rows(&report) {
        // On a busy machine some of the others may wait too long for the merchant, whom both instances lock; nothing else fails.
        let errors = row["rounds"][0]["errors"].as_object().expect("errors");
        assert!(
            errors.keys().all(|error| error == "Aborted CONTENTION"),
            "{row}"
        );
        let parts = row["rounds"][0]["parts"].as_array().expect("parts");
        let part = |name: &str| parts.iter().find(|part| part["name"] == name);
        let others = part("others").expect("others");
        assert!(others["ok_count"].as_u64() > Some(0), "{row}");
        if row["locked_payers"]["count"] == 0 {
            assert_eq!(part("locked payers"), None, "{row}");
            continue;
        }
        // None of them paid: their rows were locked all the time. They were told so.
        let locked = part("locked payers").expect("locked payers");
        assert_eq!(locked["ok_count"], 0, "{row}");
        let told = locked["not_ok"]["Aborted CONTENTION"].as_u64();
        assert!(told >= Some(1), "{row}");
        let merchant = row["locked_payers"]["merchant"].as_str().expect("where");
        let load = format!("merchant {merchant}, unary, 8 in flight");
        let ratio = ratio(&report, "2 locked payers", "none locked", &load);
        for figure in ["throughput", "p50", "p99"] {
            assert_spread(&ratio[figure]);
        }
        // By the turn with the same merchant in which nobody was locked.
        let per_second = |row: &Value| row["rounds"][0]["ok_per_second"].as_f64().expect("a rate");
        let none = rows(&report).iter().find(|other| {
            let locked = &other["locked_payers"];
            locked["count"] == 0 && locked["merchant"] == merchant
        });
        let expected = per_second(row) / per_second(none.expect("a turn without locks"));
        let median = ratio["throughput"]["median"].as_f64().expect("a number");
        assert!(
            (median / expected - 1.0).abs() < 1e-6,
            "{ratio}: {expected}"
        );
    }
    assert!(stdout.contains("to 2 instances of each ballast"));
    assert!(stdout.contains("2 locked payers  none locked"), "{stdout}");
}

/// A ballast at another path, which writes down how it is called.
fn other_build(folder: &Path) -> PathBuf {
    let (path, calls) = (folder.join("other"), folder.join("calls"));
    let binary = env!("CARGO_BIN_EXE_ballast");
    let script = format!(
        "#!/bin/sh\necho \"$*\" >> '{}'\nexec '{binary}' \"$@\"\n",
        calls.display()
    );
    std::fs::write(&path, script).expect("a script");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("it is ours");
    path
}

#[tokio::test]
async fn another_build_is_measured_in_turn_and_is_compared_round_by_round() {
    let folder = tempfile::tempdir().expect("a folder");
    let other = other_build(folder.path()).display().to_string();
    let round = ["bench", "--duration-s", "2", "--warmup-s", "1"];
    let arguments = [
        "--rounds",
        "2",
        "--accounts",
        "20",
        "--scenario",
        "hot",
        // As it was called before.
        "--way",
        "unary:4,stream:16",
        "--instances",
        "2",
        "--against",
        &other,
        // Only this build gets it.
        "--",
        "--lanes",
        "2",
    ];
    let (stdout, report) = measured_in(folder.path(), &round, &arguments).await;
    let loads: Vec<[&str; 3]> = rows(&report)
        .iter()
        .map(|row| ["way", "pace", "variant"].map(|name| row[name].as_str().unwrap_or_default()))
        .collect();
    let expected = [
        ["unary", "4 in flight", "ballast --lanes 2"],
        ["unary", "4 in flight", &other],
        ["stream", "16 in flight", "ballast --lanes 2"],
        ["stream", "16 in flight", &other],
    ];
    assert_eq!(loads, expected);
    assert_measured(&report);
    for load in ["hot, unary, 4 in flight", "hot, stream, 16 in flight"] {
        let ratio = ratio(&report, "ballast --lanes 2", &other, load);
        for figure in ["throughput", "p50", "p99", "server_cpu", "wal"] {
            assert_spread(&ratio[figure]);
        }
    }
    // It made its schema, served, and verified its ledger itself, and knows no newer flags.
    let calls = std::fs::read_to_string(folder.path().join("calls")).expect("it was called");
    let serve = "serve --log warn";
    let expected = ["migrate", serve, serve, "--version", "verify"];
    // Of the last attempt, if there were several.
    let calls: Vec<&str> = calls.lines().collect();
    let before = calls.len().saturating_sub(expected.len());
    assert_eq!(calls[before..], expected);
    let version = format!("{other}: ballast {}", env!("CARGO_PKG_VERSION"));
    assert!(stdout.contains(&version), "{stdout}");
}

#[tokio::test]
async fn a_page_with_all_plots_needs_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("report.html");
    let path = page.to_string_lossy();
    let arguments = [
        "--scenario",
        "uniform",
        "--table-size",
        "20,40",
        "--concurrency",
        "2",
        "--html",
        &path,
    ];
    measured(folder.path(), &arguments).await;
    let page = std::fs::read_to_string(&page).expect("a page");
    for title in [
        "Throughput against concurrency",
        "Throughput against size of the ledger",
        "Throughput over time",
        "Latency",
    ] {
        assert!(page.contains(&format!("<h2>{title}</h2>")), "{title}");
    }
    assert!(page.matches("<path class=\"line c0\"").count() >= 6);
    for outside in ["http:", "https:", "src=", "href=", "NaN", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[tokio::test]
async fn a_running_server_is_measured_from_outside_and_its_money_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let ballast = Ballast::start().await;
    let (address, json) = (
        ballast.address.to_string(),
        folder.path().join("figures.json"),
    );
    let path = json.to_string_lossy().into_owned();
    let folder_path = folder.path().to_owned();
    let ran = tokio::task::spawn_blocking(move || {
        let place = ["--target", &address, "--json", &path];
        let load = ["--accounts", "1100", "--scenario", "mixed"];
        run(&folder_path, &[&SHORT[..], &place, &load].concat())
    });
    let (code, stdout, stderr) = ran.await.expect("it ran");
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("every ledger was verified and is in order"));
    let text = std::fs::read_to_string(&json).expect("a file");
    let report: Value = serde_json::from_str(&text).expect("the file is JSON");
    assert_measured(&report);
    let figures = &rows(&report)[0]["rounds"][0];
    assert!(figures["wal_bytes_per_answer"].is_null(), "{figures}");
    let accounts = "SELECT count(*) FROM accounts WHERE account_id LIKE 'bench-%'";
    let count = ballast.database.sql().await.query_one(accounts, &[]).await;
    assert_eq!(count.expect("a count").get::<_, i64>(0), 1100);
    assert!(ballast.stopped().await, "it drains");
}

/// What a user runs first: nothing but the benchmark, on a PostgreSQL of its own.
#[tokio::test]
async fn without_a_database_it_measures_on_a_private_one_and_its_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("figures.json").display().to_string();
    let arguments = ["--operation-ids", "time-ordered", "--json", &json];
    let arguments = [&SHORT[..], &arguments].concat();
    let (code, stdout, stderr) = run(folder.path(), &arguments);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    for said in [
        "8 KiB written and synced",
        "stalls of 1 ms or more",
        "min_wal_size 1GB",
        "time-ordered operation ids",
        "the WAL got segments",
        "every ledger was verified and is in order",
    ] {
        assert!(stdout.contains(said), "{said}: {stdout}");
    }
    let text = std::fs::read_to_string(&json).expect("a file");
    let report: Value = serde_json::from_str(&text).expect("the file is JSON");
    assert_measured(&report);
    let disk = &report["environment"]["disk_sync_us"];
    assert!(disk["max"].as_u64() > Some(0), "{disk}");
    assert!(disk["max"].as_u64() >= disk["p50"].as_u64(), "{disk}");
    let stalls = &report["environment"]["stalls"];
    let longest_ms = stalls["longest_ms"].as_f64().expect("a number");
    assert!(stalls["total_ms"].as_f64() >= Some(longest_ms), "{stalls}");
    assert_eq!(
        stalls["count"].as_u64() > Some(0),
        longest_ms >= 1.0,
        "{stalls}"
    );
}

/// How long to wait before asking again: who asks all the time takes a processor from what is asked about.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Comes back when a benchmark transfers money in a database of this name.
async fn until_loaded(url: &str) {
    let transfers = "SELECT 1 FROM operations WHERE kind = 'TRANSFER' LIMIT 1";
    loop {
        // Neither the server nor the database nor the table need be there yet.
        if let Ok((sql, connection)) = tokio_postgres::connect(url, tokio_postgres::NoTls).await {
            tokio::spawn(connection);
            if let Ok(Some(_transfer)) = sql.query_opt(transfers, &[]).await {
                return;
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A benchmark that would run for long.
fn spawn_long(folder: &Path, place: &[&str]) -> tokio::process::Child {
    let arguments = [
        &["bench", "--duration-s", "600", "--accounts", "20"][..],
        &["--baseline", "transaction", "--no-checkpoint"],
        place,
    ];
    let mut command = tokio::process::Command::from(command(folder, &arguments.concat()));
    command
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts")
}

/// Tells it to stop, and waits for its end: what it said.
async fn interrupted(bench: tokio::process::Child) -> String {
    let pid = bench.id().and_then(|id| i32::try_from(id).ok());
    kill(Pid::from_raw(pid.expect("it runs")), Signal::SIGTERM).expect("it runs");
    let ended = within_reason("an end", bench.wait_with_output()).await;
    let output = ended.expect("an exit status");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("interrupted before the end"), "{said}");
    said
}

/// The processes that were started with, or for, this folder.
fn processes_of(folder: &Path) -> Vec<Pid> {
    let folder = folder.to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let about = |process: std::fs::DirEntry| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let is_about = ["cmdline", "environ"].iter().any(|file| {
            let bytes = std::fs::read(process.path().join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(&folder)
        });
        is_about.then(|| Pid::from_raw(pid))
    };
    processes.filter_map(about).collect()
}

/// Ends what a failed test left behind.
struct Sweep<'a>(&'a Path);

impl Drop for Sweep<'_> {
    fn drop(&mut self) {
        for pid in processes_of(self.0) {
            // Ended meanwhile, or does so now.
            let _ended = kill(pid, Signal::SIGKILL);
        }
    }
}

#[tokio::test]
async fn one_that_is_told_to_stop_leaves_no_process() {
    let folder = tempfile::Builder::new()
        .permissions(PermissionsExt::from_mode(0o755))
        .tempdir()
        .expect("a folder");
    let _sweep = Sweep(folder.path());
    let path = folder.path().to_string_lossy().into_owned();
    let bench = spawn_long(folder.path(), &["--data-dir", &path]);
    let url = format!("host={path}/run user=ballast dbname=ballast_bench_0_0");
    within_reason("a loaded database", until_loaded(&url)).await;
    assert!(
        processes_of(folder.path()).len() >= 4,
        "the benchmark, two servers and PostgreSQL"
    );

    interrupted(bench).await;
    assert!(
        !folder.path().join("postgres/postmaster.pid").exists(),
        "PostgreSQL stopped in order"
    );
    within_reason("no process left", async {
        while !processes_of(folder.path()).is_empty() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
    .await;
}

#[tokio::test]
async fn one_that_is_told_to_stop_leaves_no_database_on_a_server_of_others() {
    let database = Database::empty().await;
    let folder = tempfile::tempdir().expect("a folder");
    let bench = spawn_long(folder.path(), &["--database-url", &database.url()]);
    let names = format!("ballast_bench_{}_", bench.id().expect("it runs"));
    let first = format!("{names}0_0");
    within_reason(
        "a loaded database",
        until_loaded(&database.url_beside(&first)),
    )
    .await;
    let sql = database.sql().await;
    let count = async || -> i64 {
        let named = "SELECT count(*) FROM pg_database WHERE starts_with(datname::text, $1)";
        let row = sql.query_one(named, &[&names]).await;
        row.expect("a count").get(0)
    };
    assert_eq!(count().await, 2);

    let said = interrupted(bench).await;
    assert_eq!(count().await, 0, "{said}");
}

#[tokio::test]
async fn what_cannot_be_measured_is_said_clearly() {
    let folder = tempfile::tempdir().expect("a folder");
    for (arguments, words) in [
        (&["--scenario", "warm"][..], "must be one of uniform"),
        (&["--scenario", "zipf:-1"], "is not a positive number"),
        (&["--mode", "pigeon"], "must be one of unary, batch, stream"),
        (&["--mode", "stream:none"], "at least 1"),
        (
            &["--against", "/nonexistent/ballast"],
            "No such file or directory",
        ),
        (&["--against", "/tmp"], "it is no file"),
        (&["--against", "/bin/false"], "cannot start /bin/false"),
        (&["--locked-payers", "1"], "add --scenario locked"),
        (
            &[
                "--scenario",
                "locked",
                "--locked-payers",
                "1,9",
                "--accounts",
                "10",
            ],
            "has too few accounts for 9 locked payers, merchant first: it needs 11",
        ),
        (
            &["--baseline", "magic"],
            "must be one of transaction, echo, pgbench",
        ),
        (&["--table-size", "1"], "a transfer needs two accounts"),
        (&["--table-size", "many"], "such as 10k or 10m+5m"),
        (&["--concurrency", "0"], "at least 1"),
        (
            &["--target", "a:1", "--baseline", "echo"],
            "cannot be used with",
        ),
        (&["--target", "127.0.0.1:1"], "cannot start 127.0.0.1:1"),
        (
            &["--target", "127.0.0.1:1", "--scenario", "locked"],
            "nothing to measure",
        ),
        (
            &["--scenario", "reads", "--mode", "stream"],
            "nothing to measure",
        ),
        (
            &["--html", "/nonexistent/page.html"],
            "cannot write /nonexistent/page.html",
        ),
    ] {
        let arguments = [&["bench"], arguments].concat();
        let (code, stdout, stderr) = run(folder.path(), &arguments);
        assert_ne!(code, Some(0), "{arguments:?}");
        assert!(stderr.contains(words), "{arguments:?}: {stdout}{stderr}");
    }
}
