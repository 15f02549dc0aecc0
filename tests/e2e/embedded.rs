//! The private PostgreSQL: it is there as long as its ballast and no longer, whatever either of them does.

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixListener;

use crate::support::binary::{Log, Running, command, ended, run};
use crate::support::recovering;
use crate::support::*;

/// A folder that an unprivileged PostgreSQL may enter, also when the tests run as root.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("permissions");
    folder
}

/// Binaries whose `postgres` runs this script instead of the real one, which it knows as `$real`.
fn stand_in(script: &str) -> tempfile::TempDir {
    let binaries = folder();
    let real = crate::start::real_binaries().display().to_string();
    std::os::unix::fs::symlink(format!("{real}/initdb"), binaries.path().join("initdb"))
        .expect("a link");
    // A shell cannot trap what it was told to ignore, as by a test run in the background.
    let script = format!(
        "#!/bin/sh\nreal={real}/postgres\n[ \"$1\" != -D ] && exec $real \"$@\"\n\
         [ -n \"$STAND_IN\" ] || STAND_IN=1 exec env --default-signal=QUIT sh \"$0\" \"$@\"\n{script}\n"
    );
    executable(&binaries.path().join("postgres"), &script);
    binaries
}

fn executable(path: &Path, script: &str) {
    std::fs::write(path, script).expect("a script");
    std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("executable");
}

fn is_running(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

async fn until_posted(running: &Running, account_id: &str) -> i64 {
    within_reason("an answer", async {
        loop {
            let request = ballast::rpc::proto::GetBalanceRequest {
                account_id: account_id.to_owned(),
                ..Default::default()
            };
            if let Ok(answer) = running.balances().get_balance(request).await {
                let balance = answer.into_inner().balance.expect("a balance");
                return balance.posted_minor_units;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_server_that_was_killed_is_started_again_with_all_that_was_answered() {
    let folder = folder();
    let running = Running::start(folder.path(), &[]);
    let data_dir = folder.path().join(".ballast");
    for round in 1..=2 {
        let transfer = transfer(&format!("before-{round}"), "alice", "bob", 100);
        within_reason("a transfer", async {
            // The connections of the server before are found out one by one.
            while running.balances().transfer(transfer.clone()).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let postmaster = Running::postmaster(&data_dir);
        kill(postmaster, Signal::SIGKILL).expect("it runs");
        within_reason("a word about it", async {
            while running.log.lines("runs again").len() < round {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_ne!(Running::postmaster(&data_dir), postmaster);
        let posted = until_posted(&running, "alice").await;
        assert_eq!(posted, 10_000 - 100 * i64::try_from(round).expect("small"));
    }
    let said = running.log.lines("the embedded PostgreSQL ended by itself");
    assert_eq!(said.len(), 2, "{said:?}");
    let has_all = |line: &String| line.contains("SIGKILL") && line.contains("log=");
    assert!(said.iter().all(has_all), "{said:?}");
    assert_eq!(running.stopped().await.code(), Some(0));
}

#[tokio::test]
async fn demo_accounts_that_never_got_their_money_are_not_offered() {
    let folder = folder();
    let running = Running::start(folder.path(), &[]);
    let offer = "The demo account alice began with 100.00 EUR";
    assert!(running.banner.contains(offer), "{}", running.banner);
    let after = running.banner.split_once("psql \"").expect("a URL").1;
    let url = after.split('"').next().expect("a URL");
    // As it is if a start ends between the accounts and the credit.
    let connected = tokio_postgres::connect(url, tokio_postgres::NoTls).await;
    let (sql, connection) = connected.expect("its database");
    tokio::spawn(connection);
    let delete = "DELETE FROM operations WHERE operation_id = 'demo-opening'";
    assert_eq!(sql.execute(delete, &[]).await.expect("deleted"), 1);
    drop(sql);
    assert_eq!(running.stopped().await.code(), Some(0));
    let running = Running::start(folder.path(), &[]);
    assert!(!running.banner.contains("demo"), "{}", running.banner);
    assert_eq!(running.stopped().await.code(), Some(0));
}

#[tokio::test]
async fn a_server_that_cannot_be_started_again_ends_the_process_with_the_reason() {
    let (folder, binaries) = (folder(), stand_in("exec $real \"$@\""));
    let postgres_bin = binaries.path().to_string_lossy().into_owned();
    let timeout = ["--postgres-restart-timeout-ms", "1000"];
    let arguments = ["--postgres-bin", &postgres_bin, timeout[0], timeout[1]];
    let running = Running::start(folder.path(), &arguments);
    let postgres = binaries.path().join("postgres");
    std::fs::remove_file(&postgres).expect("it was there");
    let postmaster = Running::postmaster(&folder.path().join(".ballast"));
    kill(postmaster, Signal::SIGKILL).expect("it runs");
    let error = running.log.line("error: the embedded").await;
    for part in [
        "could not be kept running",
        "cannot run",
        &*postgres.to_string_lossy(),
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert!(running.log.lines("cannot be started again").len() > 1);
    assert_eq!(running.ended().await.code(), Some(1));
}

#[tokio::test]
async fn a_server_that_ignores_the_fast_stop_is_stopped_at_once() {
    let script = "trap '' INT\ntrap 'kill -QUIT $child; wait $child; exit 0' QUIT\n\
                  $real \"$@\" &\nchild=$!\nwhile kill -0 $child 2>&-; do wait $child; done";
    let (folder, binaries) = (folder(), stand_in(script));
    let postgres_bin = binaries.path().to_string_lossy().into_owned();
    let timeout = ["--postgres-stop-timeout-ms", "500"];
    let arguments = ["--postgres-bin", &postgres_bin, timeout[0], timeout[1]];
    let running = Running::start(folder.path(), &arguments);
    let postmaster = Running::postmaster(&folder.path().join(".ballast"));
    let log = running.log.clone();
    let asked = Instant::now();
    assert_eq!(running.stopped().await.code(), Some(0));
    assert!(asked.elapsed().as_secs() < 60, "not after minutes");
    log.line("did not end on a fast stop").await;
    assert_eq!(log.lines("did not end on an immediate stop").len(), 0);
    assert!(!is_running(postmaster));
    // It recovers, and nothing is lost.
    let running = Running::start(folder.path(), &[]);
    assert_eq!(until_posted(&running, "alice").await, 10_000);
    assert_eq!(running.stopped().await.code(), Some(0));
}

#[tokio::test]
async fn a_server_that_answers_no_signal_is_killed() {
    let folder = folder();
    let running = Running::start(folder.path(), &["--postgres-stop-timeout-ms", "200"]);
    let postmaster = Running::postmaster(&folder.path().join(".ballast"));
    // It does nothing any more, also not what a signal asks for.
    kill(postmaster, Signal::SIGSTOP).expect("it runs");
    let log = running.log.clone();
    assert_eq!(running.stopped().await.code(), Some(0));
    log.line("did not end on a fast stop").await;
    log.line("did not end on an immediate stop").await;
    assert!(!is_running(postmaster));
    let running = Running::start(folder.path(), &[]);
    assert_eq!(until_posted(&running, "alice").await, 10_000);
    assert_eq!(running.stopped().await.code(), Some(0));
}

#[tokio::test]
async fn a_leftover_that_ignores_signals_does_not_hold_up_the_start() {
    let (folder, scripts) = (folder(), folder());
    let first = Running::start(folder.path(), &[]);
    assert_eq!(first.stopped().await.code(), Some(0));
    let cluster = folder.path().join(".ballast/postgres");
    let stand_in = scripts.path().join("postgres");
    executable(
        &stand_in,
        "#!/bin/sh\ntrap '' INT\necho ready\nwhile :; do sleep 1; done\n",
    );
    let mut leftover = Command::new(&stand_in)
        .current_dir(&cluster)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a stand-in");
    let mut ready = String::new();
    let stdout = leftover.stdout.take().expect("piped");
    BufReader::new(stdout)
        .read_line(&mut ready)
        .expect("a word");
    std::fs::write(
        cluster.join("postmaster.pid"),
        format!("{}\n", leftover.id()),
    )
    .expect("a file");
    let asked = Instant::now();
    let second = Running::start(folder.path(), &["--postgres-stop-timeout-ms", "500"]);
    assert!(asked.elapsed().as_secs() < 60, "not after minutes");
    second.log.line("whose ballast was killed").await;
    second.log.line("did not end on a fast stop").await;
    assert!(leftover.wait().expect("a status").code().is_none());
    assert_eq!(until_posted(&second, "alice").await, 10_000);
    assert_eq!(second.stopped().await.code(), Some(0));
}

#[tokio::test]
async fn a_file_with_the_number_of_somebody_else_does_not_hold_up_the_start() {
    let folder = folder();
    let first = Running::start(folder.path(), &[]);
    assert_eq!(first.stopped().await.code(), Some(0));
    // As after a crash of the machine: this number belongs to the test by now.
    let pid_file = folder.path().join(".ballast/postgres/postmaster.pid");
    std::fs::write(pid_file, format!("{}\n", std::process::id())).expect("a file");
    let second = Running::start(folder.path(), &[]);
    assert_eq!(until_posted(&second, "alice").await, 10_000);
    assert_eq!(second.stopped().await.code(), Some(0));
}

/// A `postgres` that only starts when it is told to. Until then the test answers in its place.
struct Recovering {
    binaries: tempfile::TempDir,
    folder: tempfile::TempDir,
}

impl Recovering {
    fn new() -> Self {
        let binaries = stand_in("read -r line <\"$(dirname \"$0\")/go\"\nexec $real \"$@\"");
        let go = binaries.path().join("go");
        let made = Command::new("mkfifo").args(["-m", "666"]).arg(&go).status();
        assert!(made.expect("mkfifo").success());
        let folder = folder();
        Self { binaries, folder }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let postgres_bin = self.binaries.path().to_string_lossy().into_owned();
        let mut all = vec!["--postgres-bin", &postgres_bin];
        all.extend(arguments);
        command(self.folder.path(), &all)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join(".ballast/run/.s.PGSQL.5432")
    }

    /// Answers as a server that recovers, until it is dropped.
    async fn answer(&self) {
        let run = self.socket();
        within_reason("the folder of the socket", async {
            while !run.parent().expect("a folder").exists() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let listener = UnixListener::bind(&run).expect("a socket");
        loop {
            let (mut client, _) = listener.accept().await.expect("a client");
            recovering::answer(&mut client).await;
        }
    }

    /// Lets the real server start.
    fn go(&self) {
        std::fs::remove_file(self.socket()).expect("the test's own socket");
        std::fs::write(self.binaries.path().join("go"), "go\n").expect("it waits");
    }
}

#[tokio::test]
async fn a_start_waits_for_the_recovery_and_says_so() {
    let recovering = Recovering::new();
    let mut child = recovering.command(&[]).spawn().expect("the binary starts");
    let log = Log::of(child.stderr.take().expect("piped"));
    let said = tokio::select! {
        () = recovering.answer() => unreachable!("it answers on"),
        said = log.line("recovers from a crash") => said,
    };
    assert!(said.contains("waited_s="), "{said}");
    recovering.go();
    log.line("health is SERVING").await;
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    kill(pid, Signal::SIGTERM).expect("it runs");
    assert_eq!(ended(&mut child).await.code(), Some(0));
}

#[tokio::test]
async fn a_recovery_that_never_ends_is_given_up_and_leaves_nothing_behind() {
    let recovering = Recovering::new();
    let timeout = ["--postgres-start-timeout-ms", "5000"];
    let mut child = recovering.command(&timeout).spawn().expect("it starts");
    let log = Log::of(child.stderr.take().expect("piped"));
    let error = tokio::select! {
        () = recovering.answer() => unreachable!("it answers on"),
        error = log.line("error: the embedded") => error,
    };
    let has_cure = error.contains("--postgres-start-timeout-ms");
    assert!(error.contains("was not ready after") && has_cure, "{error}");
    assert_eq!(ended(&mut child).await.code(), Some(1));
    // The stand-in is the only reader of the pipe: without it, nobody can open the other end.
    let go = recovering.binaries.path().join("go");
    let is_there = || tokio::net::unix::pipe::OpenOptions::new().open_sender(&go);
    within_reason("the end of the stand-in", async {
        while is_there().is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_folder_of_somebody_else_is_refused_and_stays_as_it_is() {
    use std::os::unix::fs::MetadataExt;
    let folder = folder();
    let theirs = folder.path().join("theirs");
    std::fs::create_dir(&theirs).expect("a folder");
    std::fs::write(theirs.join("notes.txt"), "mine").expect("a file");
    std::fs::write(theirs.join("lock"), "mine").expect("a file");
    let owner = || theirs.metadata().expect("it is there").uid();
    let before = owner();
    for arguments in [
        &["--data-dir", "theirs"][..],
        &["verify", "--data-dir", "theirs"],
    ] {
        let (code, _, stderr) = run(folder.path(), arguments);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("--data-dir"), "{stderr}");
    }
    let (_, _, stderr) = run(folder.path(), &["--data-dir", "theirs"]);
    assert!(
        stderr.contains("holds other files") && stderr.contains("notes.txt"),
        "{stderr}"
    );
    assert_eq!(owner(), before);
    assert_eq!(std::fs::read(theirs.join("lock")).expect("a file"), b"mine");
    assert_eq!(theirs.read_dir().expect("a folder").count(), 2);
    // What a disk of its own has is not somebody's.
    let disk = folder.path().join("disk");
    std::fs::create_dir_all(disk.join("lost+found")).expect("folders");
    let running = Running::start(folder.path(), &["--data-dir", "disk"]);
    assert_eq!(running.stopped().await.code(), Some(0));
}

#[tokio::test]
async fn verify_makes_no_ledger() {
    let folder = folder();
    let (code, _, stderr) = run(folder.path(), &["verify"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("there is no ledger in"), "{stderr}");
    assert_eq!(folder.path().read_dir().expect("a folder").count(), 0);
}

#[tokio::test]
async fn a_full_disk_is_named_before_anything_is_made() {
    let folder = folder();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).expect("a folder");
    if !may_mount(folder.path()) {
        return;
    }
    let mount =
        "mount -t tmpfs -o size=8m,mode=755 tmpfs disk || exit 77; exec \"$0\" --data-dir disk";
    let binary = command(folder.path(), &[]).get_program().to_owned();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", mount])
        .arg(&binary)
        .env("BALLAST_LISTEN", "127.0.0.1:0")
        .current_dir(folder.path())
        .output()
        .expect("it was there a moment ago");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let is_named = stderr.contains("is full") && stderr.contains("a new ledger needs 64 MiB");
    assert!(is_named, "{stderr}");
}

/// Whether this process may mount a disk of its own over `disk` in a folder. A container mostly may not.
fn may_mount(folder: &Path) -> bool {
    let tried = Command::new("unshare")
        .args(["--mount", "mount", "-t", "tmpfs", "tmpfs", "disk"])
        .current_dir(folder)
        .output();
    let may = tried.is_ok_and(|output| output.status.success());
    if !may {
        eprintln!("not shown, since no disk may be mounted here");
    }
    may
}

/// A `ballast` on a small disk of its own, and where that disk is for this process; `None` where no disk may be mounted.
fn on_a_small_disk(folder: &Path, size: &str) -> Option<(Running, PathBuf)> {
    std::fs::create_dir(folder.join("disk")).expect("a folder");
    if !may_mount(folder) {
        return None;
    }
    let mount = format!(
        "mount -t tmpfs -o size={size},mode=755 tmpfs disk && exec \"$0\" --data-dir disk/data"
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", &mount])
        .arg(self::command(folder, &[]).get_program())
        .env("BALLAST_LISTEN", "127.0.0.1:0")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let running = Running::start_command(command);
    let folder = folder.canonicalize().expect("a folder");
    let seen = format!("/proc/{}/root{}/disk", running.pid(), folder.display());
    Some((running, seen.into()))
}

#[tokio::test]
async fn a_server_that_ended_of_a_full_disk_comes_back_when_there_is_room() {
    let folder = folder();
    let Some((running, disk)) = on_a_small_disk(folder.path(), "220m") else {
        return;
    };
    let filler = disk.join("filler");
    let mut filling = std::fs::File::create(&filler).expect("a file");
    while std::io::Write::write_all(&mut filling, &[1; 4096]).is_ok() {}
    drop(filling);
    let url = format!(
        "host='{}/data/run' user=ballast dbname=ballast",
        disk.display()
    );
    let write = "DO $$ BEGIN FOR i IN 1..10000 LOOP
                     PERFORM pg_logical_emit_message(true, 'x', repeat('y', 8000));
                 END LOOP; END $$";
    let (sql, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .expect("a connection");
    tokio::spawn(connection);
    sql.batch_execute(write).await.expect_err("no room");
    running.log.line("PostgreSQL ended by itself").await;
    let said = running.log.line("cannot be started again").await;
    assert!(said.contains("is full"), "{said}");
    std::fs::remove_file(filler).expect("it was there");
    running.log.line("runs again").await;
    assert_eq!(until_posted(&running, "alice").await, 10_000);
    assert_eq!(running.stopped().await.code(), Some(0));
}
