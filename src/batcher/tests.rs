//! The coalescing loop alone, on a ledger that does what the test says: what goes into which batch, who waits for whom,
//! and what callers hear when the ledger fails.

mod any_load;
mod groups;
mod pipelines;
mod seeded;

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::*;
use crate::domain::{
    AccountId, Amount, BalanceKey, Category, Currency, Movement, Note, Operation, OperationId,
    Outcome, Receipt, Timestamp,
};
use crate::store::{InDoubt, Locking, Outcome as StoreOutcome, StoreError, Verdict, Work};

/// What the ledger does with the next batch.
enum Script {
    Decide,
    Replay,
    Contended(&'static str),
    Fail(StoreError),
    Panic,
    /// Waits for `gate`, then decides.
    Gated,
}

/// What becomes of the next wait for another session. Without one left, it is granted.
enum Waited {
    /// After `wait_gate` was opened.
    Granted,
    /// After `wait_gate` was opened.
    Late,
}

/// A ledger that notes the batches and waits it gets. Without a script left, it decides.
#[derive(Default)]
struct Scripted {
    scripts: Mutex<VecDeque<Script>>,
    waits: Mutex<VecDeque<Waited>>,
    batches: Mutex<Vec<Vec<String>>>,
    /// Of each batch: whether it held locks before.
    held: Mutex<Vec<bool>>,
    /// What was waited for.
    awaited: Mutex<Vec<String>>,
    released: Mutex<Vec<String>>,
    wait_gate: Notify,
    arrived: Notify,
    gate: Notify,
}

impl Scripted {
    fn new(scripts: impl IntoIterator<Item = Script>) -> Arc<Self> {
        Arc::new(Self {
            scripts: Mutex::new(scripts.into_iter().collect()),
            ..Self::default()
        })
    }

    fn with_waits(
        scripts: impl IntoIterator<Item = Script>,
        waits: impl IntoIterator<Item = Waited>,
    ) -> Arc<Self> {
        Arc::new(Self {
            scripts: Mutex::new(scripts.into_iter().collect()),
            waits: Mutex::new(waits.into_iter().collect()),
            ..Self::default()
        })
    }

    fn held(&self) -> Vec<bool> {
        self.held.lock().expect("no test panics in here").clone()
    }

    fn awaited(&self) -> Vec<String> {
        self.awaited.lock().expect("no test panics in here").clone()
    }

    async fn wait(&self, what: String) -> Result<(), StoreError> {
        self.awaited
            .lock()
            .expect("no test panics in here")
            .push(what);
        self.arrived.notify_one();
        let waited = self
            .waits
            .lock()
            .expect("no test panics in here")
            .pop_front();
        match waited {
            None => Ok(()),
            Some(waited) => {
                self.wait_gate.notified().await;
                match waited {
                    Waited::Granted => Ok(()),
                    Waited::Late => Err(StoreError::LockTimeout),
                }
            }
        }
    }

    fn batches(&self) -> Vec<Vec<String>> {
        self.batches.lock().expect("no test panics in here").clone()
    }
}

fn receipt(command: &Arc<Command>, replayed: bool) -> Receipt {
    let outcome = Outcome::Posted(<_>::default());
    let operation = Operation {
        command: command.clone(),
        outcome,
        create_time: Timestamp::default(),
    };
    Receipt {
        operation: Arc::new(operation),
        replayed,
    }
}

/// All of the job was posted.
fn posted(job: &Job, replayed: bool) -> Verdict {
    match job.work() {
        Work::Command(command) => Verdict::Decided(Ok(receipt(command, replayed))),
        Work::Group(commands) => {
            let receipts = commands.iter().map(|command| receipt(command, replayed));
            Verdict::GroupDecided(Ok(receipts.collect()))
        }
    }
}

fn start<L: Ledger>(ledger: &Arc<L>, config: BatcherConfig) -> (Batcher, JoinHandle<()>) {
    let (runtime, ledger) = (Handle::current(), ledger.clone());
    Batcher::start(&runtime, ledger, Observer::default(), config)
}

fn names(account_ids: &[AccountId]) -> String {
    let names: Vec<&str> = account_ids.iter().map(AccountId::as_str).collect();
    names.join(",")
}

impl Ledger for Scripted {
    type Hold = String;

    async fn await_accounts(
        &self,
        account_ids: &[AccountId],
        _commands: &[Arc<Command>],
        _wait_max: Duration,
    ) -> Result<String, StoreError> {
        let names = names(account_ids);
        self.wait(names.clone()).await?;
        Ok(names)
    }

    async fn release(&self, hold: String) {
        self.released
            .lock()
            .expect("no test panics in here")
            .push(hold);
    }

    async fn await_operation(
        &self,
        operation_id: &OperationId,
        _wait_max: Duration,
    ) -> Result<(), StoreError> {
        self.wait(operation_id.to_string()).await
    }

    async fn execute(
        &self,
        jobs: &[Job],
        locking: Locking<String>,
    ) -> Result<Vec<Verdict>, StoreError> {
        let ids = jobs
            .iter()
            .flat_map(Job::commands)
            .map(|command| command.operation_id.to_string())
            .collect();
        self.batches
            .lock()
            .expect("no test panics in here")
            .push(ids);
        self.held
            .lock()
            .expect("no test panics in here")
            .push(matches!(locking, Locking::Held(_)));
        self.arrived.notify_one();
        let script = self
            .scripts
            .lock()
            .expect("no test panics in here")
            .pop_front();
        match script.unwrap_or(Script::Decide) {
            Script::Gated => self.gate.notified().await,
            Script::Fail(error) => return Err(error),
            Script::Panic => panic!("a bug in the ledger"),
            Script::Contended(account) => {
                let contended = AccountId::from_stored(account);
                let verdict = |job: &Job| match job.account_ids().contains(&contended) {
                    true => Verdict::Contended(contended.clone()),
                    false => posted(job, false),
                };
                return Ok(jobs.iter().map(verdict).collect());
            }
            Script::Replay => return Ok(jobs.iter().map(|job| posted(job, true)).collect()),
            Script::Decide => {}
        }
        let decide = |job: &Job| {
            if job.claim.start() {
                posted(job, false)
            } else {
                Verdict::Withdrawn
            }
        };
        Ok(jobs.iter().map(decide).collect())
    }
}

fn config() -> BatcherConfig {
    BatcherConfig {
        lanes: 2,
        lock_wait_connections: 1,
        batch_size_max: 100,
        queue_depth_max: 100,
        lock_wait_max: Duration::from_secs(2),
    }
}

fn credit(operation: &str, account: &str) -> Command {
    let destination = BalanceKey {
        account_id: AccountId::from_stored(account),
        category: Category::main(),
    };
    Command::of_movement(
        OperationId::from_stored(operation),
        Movement::Credit { destination },
        (
            Amount::new(1).expect("one is an amount"),
            Currency::new("EUR").expect("EUR is a currency"),
        ),
        Note::default(),
    )
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Sends a command and comes back when the batcher has it: while every lane is busy, in its inbox.
async fn send(batcher: &Batcher, operation: &str, account: &str) -> JoinHandle<Answer> {
    send_command(batcher, credit(operation, account)).await
}

async fn send_command(batcher: &Batcher, command: Command) -> JoinHandle<Answer> {
    let batcher = batcher.clone();
    let sent = tokio::spawn(async move { batcher.execute(command, later()).await });
    // The runtime of the test has one thread and runs tasks in order: one turn to send it, one to take it.
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
    sent
}

async fn decided(sent: JoinHandle<Answer>) -> bool {
    match sent.await.expect("no panic") {
        Answer::Decided(Ok(receipt)) => !receipt.replayed,
        other => panic!("not decided: {other:?}"),
    }
}

async fn failure(sent: JoinHandle<Answer>) -> Failure {
    match sent.await.expect("no panic") {
        Answer::Failed(failure) => failure,
        other => panic!("not failed: {other:?}"),
    }
}

#[tokio::test]
async fn commands_gather_while_a_lane_has_their_account_and_others_go_on() {
    let ledger = Scripted::new([Script::Gated]);
    let (batcher, _running) = start(&ledger, config());
    let first = send(&batcher, "1", "hot").await;
    let waiting = [
        send(&batcher, "2", "hot").await,
        send(&batcher, "3", "hot").await,
    ];
    let other = send(&batcher, "4", "cold").await;
    assert!(
        decided(other).await,
        "the second lane is free for another account"
    );
    ledger.gate.notify_one();
    assert!(decided(first).await);
    for sent in waiting {
        assert!(decided(sent).await);
    }
    assert_eq!(ledger.batches(), [vec!["1"], vec!["4"], vec!["2", "3"]]);
}

#[tokio::test]
async fn what_came_while_every_lane_was_busy_goes_with_what_waited_before() {
    let ledger = Scripted::new([Script::Gated, Script::Gated]);
    let (batcher, _running) = start(&ledger, config());
    let first = send(&batcher, "1", "hot").await;
    let waiting = send(&batcher, "2", "hot").await;
    let second = send(&batcher, "3", "cold").await;
    // Both lanes are busy.
    let late = send(&batcher, "4", "warm").await;
    ledger.gate.notify_one();
    assert!(decided(first).await && decided(waiting).await && decided(late).await);
    assert_eq!(ledger.batches(), [vec!["1"], vec!["3"], vec!["2", "4"]]);
    ledger.gate.notify_one();
    assert!(decided(second).await);
}

#[tokio::test(start_paused = true)]
async fn a_free_lane_gathers_as_many_as_the_busy_one_has_unless_that_takes_long() {
    let ledger = Scripted::new([Script::Gated, Script::Gated]);
    let (batcher, _running) = start(&ledger, config());
    let first = send(&batcher, "1", "hot").await;
    let mut waiting = Vec::new();
    for operation in ["2", "3", "4", "5"] {
        waiting.push(send(&batcher, operation, "hot").await);
    }
    ledger.gate.notify_one();
    assert!(decided(first).await);
    // A batch of four runs, behind the gate.
    let large = vec!["2", "3", "4", "5"];
    let mut few = Vec::new();
    for operation in ["6", "7", "8"] {
        few.push(send(&batcher, operation, operation).await);
    }
    assert_eq!(ledger.batches(), [vec!["1"], large.clone()]);
    let started = Instant::now();
    let enough = send(&batcher, "9", "warm").await;
    for sent in few {
        assert!(decided(sent).await);
    }
    assert!(decided(enough).await);
    assert_eq!(started.elapsed(), Duration::ZERO, "four are enough");
    let late = send(&batcher, "10", "cold").await;
    assert!(decided(late).await, "the busy lane may never come back");
    assert!(started.elapsed() <= Duration::from_millis(60));
    ledger.gate.notify_one();
    for sent in waiting {
        assert!(decided(sent).await);
    }
    assert_eq!(
        ledger.batches(),
        [vec!["1"], large, vec!["6", "7", "8", "9"], vec!["10"]]
    );
}

#[tokio::test(start_paused = true)]
async fn a_free_lane_waits_for_no_more_than_are_worth_a_transaction() {
    let ledger = Scripted::new([Script::Gated, Script::Gated]);
    let config = BatcherConfig {
        queue_depth_max: 1000,
        ..config()
    };
    let (batcher, _running) = start(&ledger, config);
    let mut sent = Vec::new();
    // Behind the first, a batch of 90.
    for operation in 0..91 {
        sent.push(send(&batcher, &operation.to_string(), "hot").await);
    }
    ledger.gate.notify_one();
    while ledger.batches().len() < 2 {
        ledger.arrived.notified().await;
    }
    let started = Instant::now();
    let others: Vec<String> = (100..132).map(|operation| operation.to_string()).collect();
    for operation in &others {
        assert_eq!(ledger.batches().len(), 2, "before {operation}");
        sent.push(send(&batcher, operation, operation).await);
    }
    assert!(decided(sent.pop().expect("the last one")).await);
    assert_eq!(ledger.batches()[2], others);
    assert_eq!(started.elapsed(), Duration::ZERO, "they are enough");
    ledger.gate.notify_one();
    for answer in sent {
        assert!(decided(answer).await);
    }
}

#[tokio::test]
async fn a_lane_leaves_their_share_to_the_others_but_not_what_they_cannot_do() {
    let ledger = Scripted::new((0..4).map(|_| Script::Gated));
    let config = BatcherConfig {
        queue_depth_max: 1000,
        ..config()
    };
    let (batcher, _running) = start(&ledger, config);
    let mut sent = vec![
        send(&batcher, "first", "x").await,
        send(&batcher, "second", "y").await,
    ];
    // Both lanes are busy. What comes is for an account each, and then for the first of these.
    let names = |numbers: std::ops::Range<u32>| numbers.map(|number| number.to_string());
    for operation in names(100..200) {
        sent.push(send(&batcher, &operation, &operation).await);
    }
    for operation in names(200..220) {
        sent.push(send(&batcher, &operation, "100").await);
    }
    ledger.gate.notify_one();
    while ledger.batches().len() < 3 {
        tokio::task::yield_now().await;
    }
    // With the one that still runs they are 121.
    let first_share: Vec<String> = names(100..161).chain(names(200..220)).collect();
    assert_eq!(ledger.batches()[2], first_share);
    for answer in sent {
        while !answer.is_finished() {
            ledger.gate.notify_one();
            tokio::task::yield_now().await;
        }
        assert!(decided(answer).await);
    }
    assert_eq!(ledger.batches()[3], names(161..200).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_lane_leaves_nothing_that_another_one_would_not_begin_with() {
    let ledger = Scripted::new([Script::Gated, Script::Gated]);
    let (batcher, _running) = start(&ledger, config());
    let mut sent = Vec::new();
    for operation in 0..40 {
        let operation = operation.to_string();
        let command = credit(&operation, &operation);
        sent.push(batcher.submit(command, later()).expect("there is room"));
    }
    let started = Instant::now();
    while ledger.batches().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(ledger.batches()[0].len(), 40);
    ledger.gate.notify_one();
    for mut answer in sent {
        assert!(matches!(answer.answer().await, Answer::Decided(Ok(_))));
    }
    assert_eq!(started.elapsed(), Duration::ZERO, "nothing waited for more");
}

#[tokio::test]
async fn an_older_command_on_an_account_goes_first_also_when_it_is_left_to_another_lane() {
    let ledger = Scripted::new([Script::Gated, Script::Gated]);
    let config = BatcherConfig {
        queue_depth_max: 1000,
        ..config()
    };
    let (batcher, _running) = start(&ledger, config);
    let mut sent = Vec::new();
    for operation in 100..200 {
        let operation = operation.to_string();
        sent.push(batcher.submit(credit(&operation, &operation), later()));
    }
    // What it pays comes from an account whose own commands are left to the other lane.
    sent.push(batcher.submit(transfer("pays", "199", "100"), later()));
    while ledger.batches().is_empty() {
        tokio::task::yield_now().await;
    }
    let first = &ledger.batches()[0];
    assert_eq!(first.len(), 51, "its share of 101");
    assert!(!first.contains(&"pays".to_owned()));
    for answer in sent {
        let mut answer = answer.expect("there is room");
        ledger.gate.notify_one();
        assert!(matches!(answer.answer().await, Answer::Decided(Ok(_))));
    }
    let order = ledger.batches().concat();
    let place = |operation: &str| order.iter().position(|id| id == operation);
    assert!(place("199") < place("pays"));
}

#[tokio::test]
async fn many_commands_on_one_account_go_in_the_order_in_which_they_came() {
    let ledger = Scripted::new((0..60).map(|_| Script::Gated));
    let (batcher, _running) = start(
        &ledger,
        BatcherConfig {
            batch_size_max: 2,
            ..config()
        },
    );
    let expected: Vec<String> = (100..150).map(|number| number.to_string()).collect();
    let mut sent = Vec::new();
    for operation in &expected {
        sent.push(send(&batcher, operation, "hot").await);
    }
    for answer in sent {
        while !answer.is_finished() {
            ledger.gate.notify_one();
            tokio::task::yield_now().await;
        }
        assert!(decided(answer).await);
    }
    assert_eq!(ledger.batches().concat(), expected);
}

#[tokio::test]
async fn a_batch_has_a_largest_size() {
    let ledger = Scripted::new([Script::Gated]);
    let (batcher, _running) = start(
        &ledger,
        BatcherConfig {
            batch_size_max: 2,
            lanes: 1,
            ..config()
        },
    );
    let mut sent = Vec::new();
    for index in 0..6 {
        sent.push(send(&batcher, &index.to_string(), "a").await);
    }
    ledger.gate.notify_one();
    for sent in sent {
        assert!(decided(sent).await);
    }
    assert_eq!(
        ledger.batches(),
        [vec!["0"], vec!["1", "2"], vec!["3", "4"], vec!["5"]]
    );
}

#[tokio::test]
async fn a_contended_account_is_waited_for_and_what_came_meanwhile_goes_along() {
    let ledger = Scripted::with_waits([Script::Contended("locked")], [Waited::Granted]);
    let (batcher, _running) = start(
        &ledger,
        BatcherConfig {
            lanes: 1,
            ..config()
        },
    );
    let locked = send(&batcher, "1", "locked").await;
    while ledger.awaited().is_empty() {
        ledger.arrived.notified().await;
    }
    let behind = send(&batcher, "2", "locked").await;
    assert!(
        decided(send(&batcher, "3", "other").await).await,
        "the only lane is not held up"
    );
    ledger.wait_gate.notify_one();
    assert!(decided(locked).await && decided(behind).await);
    assert_eq!(ledger.batches(), [vec!["1"], vec!["3"], vec!["1", "2"]]);
    assert_eq!(ledger.held(), [false, false, true]);
    assert_eq!(ledger.awaited(), ["locked"]);
}

/// The locked account is granted while a lane has the other one: its lock is kept, and used as soon as the lane is done.
#[tokio::test]
async fn a_granted_lock_is_kept_until_the_other_account_is_free() {
    let ledger = Scripted::with_waits(
        [Script::Contended("payer"), Script::Gated],
        [Waited::Granted],
    );
    let (batcher, _running) = start(&ledger, config());
    let command = transfer("pays", "payer", "merchant");
    let pays = {
        let batcher = batcher.clone();
        tokio::spawn(async move { batcher.execute(command, later()).await })
    };
    while ledger.awaited().is_empty() {
        ledger.arrived.notified().await;
    }
    let busy = send(&batcher, "busy", "merchant").await;
    let behind = send(&batcher, "behind", "merchant").await;
    ledger.wait_gate.notify_one();
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ledger.batches().len(), 2, "it holds the lock and waits");
    ledger.gate.notify_one();
    assert!(decided(busy).await && decided(pays).await && decided(behind).await);
    assert_eq!(ledger.batches()[2], ["pays", "behind"]);
    assert_eq!(ledger.held(), [false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_granted_lock_that_cannot_be_used_is_given_back() {
    let ledger = Scripted::with_waits(
        [Script::Contended("payer"), Script::Gated],
        [Waited::Granted],
    );
    let (batcher, _running) = start(&ledger, config());
    let pays = batcher
        .submit(transfer("pays", "payer", "merchant"), later())
        .expect("there is room");
    while ledger.awaited().is_empty() {
        ledger.arrived.notified().await;
    }
    let busy = send(&batcher, "busy", "merchant").await;
    ledger.wait_gate.notify_one();
    // Time stands still in this test unless nothing else happens.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        *ledger.released.lock().expect("no panic"),
        ["payer"],
        "a lane has the merchant for very long"
    );
    ledger.gate.notify_one();
    assert!(decided(busy).await);
    let mut pays = pays;
    assert!(matches!(pays.answer().await, Answer::Decided(Ok(_))));
    assert_eq!(ledger.held(), [false, false, false]);
}

/// Two accounts that another instance has in turns: one lock alone would never be enough.
#[tokio::test]
async fn accounts_that_come_back_soon_are_waited_for_together() {
    let contended = |account| Script::Contended(account);
    let ledger = Scripted::new([
        contended("a"),
        contended("b"),
        contended("a"),
        contended("b"),
    ]);
    let (batcher, _running) = start(&ledger, config());
    let mut both = batcher
        .submit(transfer("both", "a", "b"), later())
        .expect("there is room");
    assert!(matches!(both.answer().await, Answer::Decided(Ok(_))));
    assert_eq!(ledger.awaited(), ["a", "b", "a,b", "a,b"]);
}

#[tokio::test(start_paused = true)]
async fn an_operation_id_that_somebody_else_records_is_waited_for_without_its_neighbours() {
    let late = || Script::Fail(StoreError::LockTimeout);
    // The batch of three, its half, and then the one that is in the way.
    let scripts = [Script::Gated, late(), Script::Decide, late(), late()];
    let ledger = Scripted::with_waits(scripts, [Waited::Granted]);
    let (batcher, _running) = start(
        &ledger,
        BatcherConfig {
            lanes: 1,
            ..config()
        },
    );
    let mut sent = Vec::new();
    for operation in ["0", "1", "2", "3"] {
        sent.push(send(&batcher, operation, "a").await);
    }
    ledger.gate.notify_one();
    let obstructed = sent.remove(2);
    for sent in sent {
        assert!(decided(sent).await);
    }
    let again = send(&batcher, "2", "b").await;
    assert!(decided(send(&batcher, "4", "a").await).await);
    assert_eq!(ledger.awaited(), ["2"]);
    ledger.wait_gate.notify_one();
    assert!(decided(obstructed).await && decided(again).await);
    let batches = ledger.batches();
    assert_eq!(
        batches[1..6].concat(),
        ["1", "2", "3", "1", "2", "3", "2", "3"]
    );
    assert_eq!(
        batches[6],
        ["4"],
        "the same id did not get into its way again"
    );
    assert_eq!(batches[7], ["2", "2"]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_alone_stays_alone_for_a_while() {
    let rejected = || {
        Script::Fail(StoreError::Rejected {
            sqlstate: "22000".to_owned(),
            message: "poison".to_owned(),
        })
    };
    // All pay the merchant; the payer `bad` is rejected: the batch of two, and each of them alone.
    let scripts = [
        Script::Gated,
        rejected(),
        Script::Decide,
        rejected(),
        Script::Gated,
        rejected(),
    ];
    let ledger = Scripted::new(scripts);
    let (batcher, _running) = start(
        &ledger,
        BatcherConfig {
            lanes: 1,
            ..config()
        },
    );
    let pay = |operation: &str, payer: &str| {
        send_command(&batcher, transfer(operation, payer, "merchant"))
    };
    let first = send(&batcher, "first", "merchant").await;
    let (good, bad) = (pay("good", "a").await, pay("bad", "bad").await);
    ledger.gate.notify_one();
    assert!(decided(first).await && decided(good).await);
    assert_eq!(failure(bad).await, Failure::Internal);
    // From now on it is alone, and the others go together.
    let running = pay("running", "b").await;
    let bad = pay("bad-2", "bad").await;
    let others = [pay("c", "c").await, pay("d", "d").await];
    ledger.gate.notify_one();
    assert!(decided(running).await);
    for other in others {
        assert!(decided(other).await);
    }
    assert_eq!(failure(bad).await, Failure::Internal);
    // What is executed ends it, and the pause is over by then.
    assert!(decided(pay("bad-3", "bad").await).await);
    let batches = ledger.batches();
    assert_eq!(
        batches,
        [
            vec!["first"],
            vec!["good", "bad"],
            vec!["good"],
            vec!["bad"],
            vec!["running"],
            vec!["bad-2"],
            vec!["c", "d"],
            vec!["bad-3"],
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_never_comes_is_contention() {
    let contended = || Script::Contended("locked");
    let ledger = Scripted::with_waits([contended()], (0..1000).map(|_| Waited::Late));
    let (batcher, _running) = start(
        &ledger,
        BatcherConfig {
            lock_wait_max: Duration::ZERO,
            ..config()
        },
    );
    let sent = send(&batcher, "1", "locked").await;
    assert_eq!(
        failure(sent).await,
        Failure::Contention {
            account_id: Some(AccountId::from_stored("locked"))
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_rejected_runs_in_halves() {
    let rejected = || StoreError::Rejected {
        sqlstate: "22000".to_owned(),
        message: "poison".to_owned(),
    };
    let scripts = [
        Script::Gated,
        Script::Fail(rejected()),
        Script::Decide,
        Script::Fail(rejected()),
        Script::Fail(rejected()),
        Script::Decide,
    ];
    let ledger = Scripted::new(scripts);
    let (batcher, _running) = start(
        &ledger,
        BatcherConfig {
            lanes: 1,
            ..config()
        },
    );
    let mut sent = Vec::new();
    for index in 0..4 {
        sent.push(send(&batcher, &index.to_string(), "a").await);
    }
    ledger.gate.notify_one();
    let poisonous = sent.remove(2);
    for sent in sent {
        assert!(decided(sent).await);
    }
    assert_eq!(failure(poisonous).await, Failure::Internal);
}

#[tokio::test(start_paused = true)]
async fn a_lost_race_is_repeated_within_bounds() {
    let ledger = Scripted::new([Script::Fail(StoreError::Serialization), Script::Decide]);
    let observer = Observer::default();
    let (batcher, _running) = Batcher::start(
        &Handle::current(),
        ledger.clone(),
        observer.clone(),
        config(),
    );
    assert!(decided(send(&batcher, "1", "a").await).await);
    assert_eq!(observer.counts().retries, 1);
    let ledger = Scripted::new((0..1000).map(|_| Script::Fail(StoreError::Serialization)));
    let observer = Observer::default();
    let (batcher, _running) = Batcher::start(
        &Handle::current(),
        ledger.clone(),
        observer.clone(),
        config(),
    );
    assert_eq!(
        failure(send(&batcher, "1", "a").await).await,
        Failure::Contention { account_id: None }
    );
    assert_eq!(ledger.batches().len(), 20);
    assert_eq!(observer.counts().retries, 19);
}

fn lost_commit(operation: &str) -> Script {
    let outcome = StoreOutcome::Unknown(vec![InDoubt {
        operation_id: OperationId::from_stored(operation),
        create_time: Timestamp::default(),
    }]);
    Script::Fail(StoreError::Unavailable {
        outcome,
        cause: "connection reset".to_owned(),
    })
}

#[tokio::test(start_paused = true)]
async fn a_lost_commit_is_resolved_and_is_the_first_answer() {
    let ledger = Scripted::new([lost_commit("1"), Script::Replay]);
    let (batcher, _running) = start(&ledger, config());
    assert!(
        decided(send(&batcher, "1", "a").await).await,
        "found, and not called a replay"
    );
    assert_eq!(
        ledger.held(),
        [false, true],
        "its locks may still be held: it waits for them"
    );
    assert_eq!(ledger.awaited(), ["a"]);
}

/// The lost commit did not happen, and another instance recorded the operation meanwhile for somebody else.
#[tokio::test(start_paused = true)]
async fn what_another_instance_recorded_after_a_lost_commit_is_a_replay() {
    let outcome = StoreOutcome::Unknown(vec![InDoubt {
        operation_id: OperationId::from_stored("1"),
        create_time: Timestamp::from_micros(7),
    }]);
    let lost = Script::Fail(StoreError::Unavailable {
        outcome,
        cause: "connection reset".to_owned(),
    });
    let ledger = Scripted::new([lost, Script::Replay]);
    let (batcher, _running) = start(&ledger, config());
    assert!(!decided(send(&batcher, "1", "a").await).await);
}

#[tokio::test(start_paused = true)]
async fn a_lost_commit_that_cannot_be_resolved_is_said_to_be_unknown() {
    // Whatever goes wrong afterwards, the first commit may have happened.
    for afterwards in [
        StoreError::unavailable("down"),
        StoreError::LockTimeout,
        StoreError::Serialization,
    ] {
        let fail = move |_| Script::Fail(afterwards.clone());
        let ledger = Scripted::new([lost_commit("1")].into_iter().chain((0..1000).map(fail)));
        let (batcher, _running) = start(&ledger, config());
        let expected = Failure::DatabaseUnavailable {
            outcome_unknown: true,
        };
        assert_eq!(failure(send(&batcher, "1", "a").await).await, expected);
    }
    // Its account is locked from outside meanwhile: to wait for that, as if nothing had happened, would end in CONTENTION.
    let ledger = Scripted::new([lost_commit("1"), Script::Contended("a")]);
    let (batcher, _running) = start(&ledger, config());
    let expected = Failure::DatabaseUnavailable {
        outcome_unknown: true,
    };
    assert_eq!(failure(send(&batcher, "1", "a").await).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_withdraws_what_was_not_started() {
    let ledger = Scripted::new([Script::Gated]);
    let (batcher, _running) = start(&ledger, config());
    let soon = Instant::now() + Duration::from_millis(10);
    let answer = batcher.execute(credit("1", "a"), soon).await;
    assert!(
        matches!(
            answer,
            Answer::Failed(Failure::Deadline {
                outcome_unknown: false
            })
        ),
        "{answer:?}"
    );
    let soon = Instant::now() + Duration::from_millis(10);
    let waiting = batcher.execute(credit("2", "a"), soon).await;
    assert!(
        matches!(
            waiting,
            Answer::Failed(Failure::Deadline {
                outcome_unknown: false
            })
        ),
        "{waiting:?}"
    );
    ledger.gate.notify_one();
    assert!(decided(send(&batcher, "3", "a").await).await);
    assert_eq!(
        ledger.batches(),
        [vec!["1"], vec!["3"]],
        "the second one was never executed"
    );
}

/// The caller's own timer may be late; the deadline is not.
#[tokio::test(start_paused = true)]
async fn what_is_late_is_never_sent() {
    let ledger = Scripted::new([Script::Gated]);
    let (batcher, _running) = start(&ledger, config());
    let too_late = Failure::Deadline {
        outcome_unknown: false,
    };
    let refused = batcher.submit(credit("1", "a"), Instant::now());
    assert_eq!(refused.err(), Some(too_late.clone()));
    let first = send(&batcher, "2", "a").await;
    let soon = Instant::now() + Duration::from_millis(10);
    let mut late = batcher.submit(credit("3", "a"), soon).expect("in time");
    tokio::time::sleep_until(soon).await;
    ledger.gate.notify_one();
    assert!(decided(first).await);
    let answer = late.answer().await;
    assert!(
        matches!(&answer, Answer::Failed(failure) if *failure == too_late),
        "{answer:?}"
    );
    assert_eq!(ledger.batches(), [["2"]]);
}

#[tokio::test]
async fn a_full_queue_refuses_and_a_closed_one_too() {
    let ledger = Scripted::new([Script::Gated]);
    let (batcher, running) = start(
        &ledger,
        BatcherConfig {
            queue_depth_max: 4,
            lanes: 1,
            ..config()
        },
    );
    let first = send(&batcher, "0", "a").await;
    let mut sent = Vec::new();
    for index in 1..20 {
        sent.push(send(&batcher, &index.to_string(), "a").await);
    }
    let refused = sent.iter().filter(|sent| sent.is_finished()).count();
    assert_eq!(refused, 19 - 4, "two wait in the loop, two in its inbox");
    batcher.close();
    assert_eq!(
        failure(send(&batcher, "late", "a").await).await,
        Failure::ShuttingDown
    );
    ledger.gate.notify_one();
    assert!(decided(first).await);
    drop(batcher);
    running.await.expect("the loop ends when all is answered");
    let mut decided_count = 0;
    for sent in sent {
        match sent.await.expect("no panic") {
            Answer::Decided(_) => decided_count += 1,
            Answer::Failed(failure) => assert_eq!(failure, Failure::Overloaded),
        }
    }
    assert_eq!(decided_count, 4);
}

#[tokio::test]
async fn a_lane_that_dies_takes_no_account_with_it() {
    let ledger = Scripted::new([Script::Panic]);
    let (batcher, _running) = start(
        &ledger,
        BatcherConfig {
            lanes: 1,
            ..config()
        },
    );
    let lost = send(&batcher, "1", "a").await;
    assert_eq!(
        failure(lost).await,
        Failure::DatabaseUnavailable {
            outcome_unknown: false
        }
    );
    assert!(decided(send(&batcher, "2", "a").await).await);
}

fn transfer(operation: &str, from: &str, to: &str) -> Command {
    let source = crate::domain::Source {
        account_id: AccountId::from_stored(from),
        categories: vec![Category::main()],
    };
    let destination = BalanceKey {
        account_id: AccountId::from_stored(to),
        category: Category::main(),
    };
    let movement = Movement::transfer(source, destination, None).expect("two accounts");
    let Command {
        operation_id,
        currency,
        note,
        ..
    } = credit(operation, to);
    let amount = Amount::new(1).expect("one is an amount");
    Command::of_movement(operation_id, movement, (amount, currency), note)
}

/// Two accounts that lanes have all the time, in turns: whoever needs both must get both all the same.
#[tokio::test]
async fn a_transfer_between_two_busy_accounts_gets_its_turn() {
    let ledger = Scripted::new((0..200).map(|_| Script::Gated));
    let (batcher, _running) = start(&ledger, config());
    let mut sent = vec![
        send(&batcher, "a-0", "a").await,
        send(&batcher, "b-0", "b").await,
    ];
    let (both, command) = (batcher.clone(), transfer("both", "a", "b"));
    let both = tokio::spawn(async move { both.execute(command, later()).await });
    for round in 1..100 {
        // While one batch ends, the next commands on its account are waiting already, and the other lane goes on.
        for account in ["a", "b"] {
            sent.push(send(&batcher, &format!("{account}-{round}"), account).await);
        }
        ledger.gate.notify_one();
        tokio::task::yield_now().await;
        if both.is_finished() {
            break;
        }
    }
    assert!(decided(both).await);
    assert!(
        sent.len() < 100,
        "after some blocks, not at the end of the load"
    );
}

/// A job that reserved its accounts waits for a batch that does not end. The others are not made to wait with it.
#[tokio::test(start_paused = true)]
async fn a_batch_in_trouble_ends_the_reservations_of_those_who_wait_for_it() {
    let ledger = Scripted::new((0..6).map(|_| Script::Gated));
    let (batcher, _running) = start(&ledger, config());
    let mut sent = vec![
        send(&batcher, "a-0", "a").await,
        send(&batcher, "b-0", "b").await,
    ];
    let both = send_command(&batcher, transfer("both", "a", "b")).await;
    // Each time one of the two accounts becomes free, and the other one has its next batch.
    for (operation, account) in [("a-1", "a"), ("b-1", "b"), ("a-2", "a"), ("b-2", "b")] {
        sent.push(send(&batcher, operation, account).await);
        ledger.gate.notify_one();
        while ledger.batches().len() < sent.len() {
            tokio::task::yield_now().await;
        }
    }
    let began = Instant::now();
    let younger = send(&batcher, "a-3", "a").await;
    ledger.gate.notify_one();
    assert!(decided(younger).await);
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(900), "reserved: {waited:?}");
    assert!(waited <= Duration::from_millis(1100), "{waited:?}");
    assert!(!both.is_finished());
    ledger.gate.notify_one();
    assert!(decided(both).await);
    for sent in sent {
        assert!(decided(sent).await);
    }
}

/// Nobody else comes by: what a lock-wait connection no longer needs must reach an ordinary lane by itself.
#[tokio::test(start_paused = true)]
async fn what_waits_behind_an_abandoned_command_goes_on() {
    let ledger = Scripted::with_waits([Script::Contended("x")], [Waited::Late]);
    let (batcher, _running) = start(&ledger, config());
    let hasty = batcher.submit(credit("1", "x"), later());
    let behind = send(&batcher, "2", "x").await;
    while ledger.awaited().is_empty() {
        tokio::task::yield_now().await;
    }
    drop(hasty);
    ledger.wait_gate.notify_one();
    assert!(decided(behind).await);
    assert_eq!(ledger.batches(), [["1"], ["2"]]);
    assert_eq!(ledger.awaited(), ["x", "x"]);
}

fn group_of(operations: &[(&str, &str)]) -> Arc<[Arc<Command>]> {
    let command = |(operation, account): &(&str, &str)| Arc::new(credit(operation, account));
    operations.iter().map(command).collect()
}

async fn send_group(batcher: &Batcher, group: Arc<[Arc<Command>]>) -> JoinHandle<GroupAnswer> {
    let batcher = batcher.clone();
    let sent = tokio::spawn(async move { batcher.execute_group(group, later()).await });
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
    sent
}

async fn receipts(sent: JoinHandle<GroupAnswer>) -> Vec<String> {
    match sent.await.expect("no panic") {
        Answer::Decided(Ok(receipts)) => receipts
            .iter()
            .map(|receipt| receipt.operation.command.operation_id.to_string())
            .collect(),
        other => panic!("not decided: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_observer_is_told_of_batches_and_waits() {
    let ledger = Scripted::with_waits(
        [Script::Gated, Script::Contended("locked")],
        [Waited::Granted],
    );
    let observer = Observer::default();
    let config = BatcherConfig {
        lanes: 1,
        ..config()
    };
    let (batcher, running) =
        Batcher::start(&Handle::current(), ledger.clone(), observer.clone(), config);
    let first = send(&batcher, "first", "a").await;
    let group = send_group(&batcher, group_of(&[("1", "a"), ("2", "locked")])).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    ledger.gate.notify_one();
    assert!(decided(first).await);
    while ledger.awaited().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(observer.counts().queue_depth, 1);
    tokio::time::sleep(Duration::from_millis(40)).await;
    ledger.wait_gate.notify_one();
    assert_eq!(receipts(group).await.len(), 2);
    drop(batcher);
    running.await.expect("the loop ends");
    let counts = observer.counts();
    assert_eq!((counts.batches, counts.commands), (3, 1 + 2 + 2));
    assert_eq!((counts.lock_waits, counts.queue_depth), (1, 0));
    assert!(counts.lock_wait >= Duration::from_millis(40), "{counts:?}");
    // The group waited before its first batch and, all in all, before its second.
    assert!(
        counts.queue_wait >= Duration::from_millis(30 + 70),
        "{counts:?}"
    );
}
