//! Seeded schedules: a ledger with real locks, sessions of others that take them at random, and jobs of one to six accounts and
//! atomic groups on few accounts and tiny lanes. In each schedule every job is answered in time, no two batches have the same
//! account, nothing happens twice or after it was withdrawn, and jobs of one account are decided in the order in which they came.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::domain::{MemberRefused, Refusal};

/// How many schedules one run tries.
const SCHEDULE_COUNT: u64 = 2_000;
/// One that is to be tried alone: the number that a failure named.
const SEED: &str = "BALLAST_TEST_SEED";
/// Far more than a schedule takes, in the time of the test.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

/// Who has the lock of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// A transaction of ours.
    Ours(u64),
    /// Another session.
    Other(u64),
}

/// The database: who has which lock, which operation ids are being recorded, and what was decided.
#[derive(Default)]
struct World {
    locks: BTreeMap<AccountId, Owner>,
    recording: BTreeSet<OperationId>,
    /// Of each job that was decided, its operation ids; in the order of the decisions.
    decided: Vec<Vec<OperationId>>,
    transaction_count: u64,
    /// Two transactions of ours met at one account.
    has_overlapped: bool,
}

/// How a schedule is set up.
#[derive(Debug, Clone, Copy)]
struct Setup {
    accounts: usize,
    lanes: usize,
    lock_wait_connections: usize,
    batch_size_max: usize,
    jobs: usize,
    sessions: usize,
    /// Whether a job may end with CONTENTION.
    has_short_lock_waits: bool,
    /// Whether other sessions record operation ids of ours, and the database rejects what is on one of the accounts.
    has_trouble: bool,
    /// The most accounts of a job.
    accounts_max: usize,
}

impl Setup {
    fn any(random: &mut StdRng) -> Self {
        Self {
            accounts: random.random_range(4..=12),
            lanes: random.random_range(1..=3),
            lock_wait_connections: random.random_range(1..=3),
            batch_size_max: *[1, 3, 8, 1000].choose(random).expect("not empty"),
            jobs: random.random_range(10..=60),
            sessions: random.random_range(0..=3),
            has_short_lock_waits: random.random_bool(0.2),
            has_trouble: random.random_bool(0.2),
            accounts_max: random.random_range(1..=6),
        }
    }

    /// Whether jobs of one account are surely decided in order: none is taken out of a batch that fails, and none is left
    /// behind because its batch is full.
    fn keeps_order(&self) -> bool {
        !self.has_trouble && (self.sessions == 0 || self.batch_size_max == 1000)
    }
}

/// See the module.
struct Simulated {
    world: Mutex<World>,
    random: Mutex<StdRng>,
    poison: Option<AccountId>,
    /// How long a transaction takes.
    batch_ms: RangeInclusive<u64>,
    /// A lock or an operation id became free.
    freed: Notify,
}

/// Locks that were granted, of one transaction.
#[derive(Debug)]
struct Granted {
    transaction: u64,
    account_ids: Vec<AccountId>,
}

impl Simulated {
    fn new(random: StdRng, poison: Option<AccountId>) -> Self {
        Self {
            world: Mutex::default(),
            random: Mutex::new(random),
            poison,
            batch_ms: 0..=4,
            freed: Notify::new(),
        }
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().expect("nobody panics in here")
    }

    fn random<T>(&self, choose: impl FnOnce(&mut StdRng) -> T) -> T {
        choose(&mut self.random.lock().expect("nobody panics in here"))
    }

    async fn pause(&self, ms: RangeInclusive<u64>) {
        let ms = self.random(|random| random.random_range(ms));
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    fn begin(&self) -> u64 {
        let mut world = self.world();
        world.transaction_count += 1;
        world.transaction_count
    }

    /// Takes the lock if it is free. False: another session has it.
    fn try_lock(&self, account_id: &AccountId, owner: Owner) -> bool {
        let mut world = self.world();
        match (world.locks.get(account_id), owner) {
            (None, _) => {
                world.locks.insert(account_id.clone(), owner);
                true
            }
            (Some(Owner::Ours(_)), Owner::Ours(_)) => {
                world.has_overlapped = true;
                false
            }
            (Some(_), _) => false,
        }
    }

    fn unlock<'a>(&self, account_ids: impl IntoIterator<Item = &'a AccountId>) {
        for account_id in account_ids {
            self.world().locks.remove(account_id);
        }
        self.freed.notify_waiters();
    }

    /// Waits until `is_done`, at most until `end`. False: it was not in time.
    async fn until(&self, end: Instant, is_done: impl Fn() -> bool) -> bool {
        loop {
            let freed = self.freed.notified();
            if is_done() {
                return true;
            }
            if tokio::time::timeout_at(end, freed).await.is_err() {
                return is_done();
            }
        }
    }

    async fn lock_all(
        &self,
        account_ids: &[AccountId],
        owner: Owner,
        wait_max: Duration,
    ) -> Result<(), StoreError> {
        for (index, account_id) in account_ids.iter().enumerate() {
            let end = Instant::now() + wait_max;
            if !self.until(end, || self.try_lock(account_id, owner)).await {
                self.unlock(&account_ids[..index]);
                return Err(StoreError::LockTimeout);
            }
        }
        Ok(())
    }

    fn decide(&self, job: &Job) -> Verdict {
        if (job.deadline <= Instant::now() && job.claim.withdraw()) || !job.claim.start() {
            return Verdict::Withdrawn;
        }
        let ids = job.commands().iter();
        let ids = ids.map(|command| command.operation_id.clone()).collect();
        self.world().decided.push(ids);
        match job.work() {
            Work::Group(_) if self.random(|random| random.random_bool(0.2)) => {
                let account_id = job.account_ids()[0].clone();
                let refusal = Refusal::AccountNotFound { account_id };
                Verdict::GroupDecided(Err(MemberRefused { index: 0, refusal }))
            }
            Work::Group(_) | Work::Command(_) => posted(job, false),
        }
    }

    /// Another session: it takes some accounts at a time, in the order of their ids, and keeps them for a while.
    async fn disturb(&self, number: u64, accounts: &[AccountId]) {
        for _ in 0..self.random(|random| random.random_range(1..8)) {
            self.pause(0..=20).await;
            let count = self.random(|random| random.random_range(1..=3));
            let mut account_ids: Vec<AccountId> =
                self.random(|random| accounts.sample(random, count).cloned().collect());
            account_ids.sort_unstable();
            let owner = Owner::Other(number);
            let locked = self.lock_all(&account_ids, owner, ANSWERED_WITHIN).await;
            assert!(locked.is_ok(), "a lock of ours was kept for ever");
            let is_long = self.random(|random| random.random_bool(0.1));
            self.pause(0..=if is_long { 400 } else { 10 }).await;
            self.unlock(&account_ids);
        }
    }

    /// Another session that is about to record operation ids of ours.
    async fn record(&self, job_count: usize) {
        for _ in 0..3 {
            self.pause(0..=30).await;
            let id = self.random(|random| random.random_range(0..job_count));
            let id = OperationId::from_stored(&id.to_string());
            self.world().recording.insert(id.clone());
            self.pause(0..=100).await;
            self.world().recording.remove(&id);
            self.freed.notify_waiters();
        }
    }
}

impl Ledger for Simulated {
    type Hold = Granted;

    async fn execute(
        &self,
        jobs: &[Job],
        locking: Locking<Granted>,
    ) -> Result<Vec<Verdict>, StoreError> {
        let Granted {
            transaction,
            mut account_ids,
        } = match locking {
            Locking::Held(granted) => granted,
            Locking::Skip => Granted {
                transaction: self.begin(),
                account_ids: Vec::new(),
            },
        };
        let mut contended = BTreeSet::new();
        let wanted: BTreeSet<&AccountId> = jobs.iter().flat_map(Job::account_ids).collect();
        for account_id in wanted {
            if account_ids.contains(account_id) {
                continue;
            }
            match self.try_lock(account_id, Owner::Ours(transaction)) {
                true => account_ids.push(account_id.clone()),
                false => drop(contended.insert(account_id.clone())),
            }
        }
        self.pause(self.batch_ms.clone()).await;
        let is_poisonous = |job: &Job| {
            let poison = self.poison.as_ref();
            poison.is_some_and(|poison| job.account_ids().contains(poison))
        };
        let is_obstructed = |job: &Job| {
            let world = self.world();
            let mut commands = job.commands().iter();
            commands.any(|command| world.recording.contains(&command.operation_id))
        };
        let result = if self.random(|random| random.random_bool(0.02)) {
            Err(StoreError::Serialization)
        } else if jobs.iter().any(is_poisonous) {
            Err(StoreError::Rejected {
                sqlstate: "22000".to_owned(),
                message: "poison".to_owned(),
            })
        } else if jobs.iter().any(is_obstructed) {
            Err(StoreError::LockTimeout)
        } else {
            let verdict = |job: &Job| {
                let mut account_ids = job.account_ids().iter();
                match account_ids.find(|id| contended.contains(*id)) {
                    Some(account_id) => Verdict::Contended(account_id.clone()),
                    None => self.decide(job),
                }
            };
            Ok(jobs.iter().map(verdict).collect())
        };
        self.unlock(&account_ids);
        result
    }

    async fn await_accounts(
        &self,
        account_ids: &[AccountId],
        _commands: &[Arc<Command>],
        wait_max: Duration,
    ) -> Result<Granted, StoreError> {
        assert!(account_ids.is_sorted(), "locks are taken in one order");
        let transaction = self.begin();
        self.lock_all(account_ids, Owner::Ours(transaction), wait_max)
            .await?;
        Ok(Granted {
            transaction,
            account_ids: account_ids.to_vec(),
        })
    }

    async fn release(&self, granted: Granted) {
        self.unlock(&granted.account_ids);
    }

    async fn await_operation(
        &self,
        operation_id: &OperationId,
        wait_max: Duration,
    ) -> Result<(), StoreError> {
        let end = Instant::now() + wait_max;
        let is_free = || !self.world().recording.contains(operation_id);
        match self.until(end, is_free).await {
            true => Ok(()),
            false => Err(StoreError::LockTimeout),
        }
    }
}

/// What a job's caller was told: whether it was decided, or why not.
type Told = Result<(), Failure>;

fn told<D>(answer: Answer<D>) -> Told {
    match answer {
        Answer::Decided(_) => Ok(()),
        Answer::Failed(failure) => Err(failure),
    }
}

/// A job of the schedule.
struct Sent {
    operation_ids: Vec<OperationId>,
    account_ids: Vec<AccountId>,
    is_group: bool,
    /// It may end late: its deadline is short.
    is_hurried: bool,
    /// `None`: its caller left.
    told: JoinHandle<Option<Told>>,
}

async fn run(seed: u64) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    let setup = Setup::any(&mut random);
    let accounts: Vec<AccountId> = (0..setup.accounts)
        .map(|number| AccountId::from_stored(&format!("{number:02}")))
        .collect();
    let poison = setup.has_trouble.then(|| accounts[0].clone());
    let of_ledger = StdRng::seed_from_u64(random.random());
    let ledger = Arc::new(Simulated::new(of_ledger, poison));
    let config = BatcherConfig {
        lanes: setup.lanes,
        lock_wait_connections: setup.lock_wait_connections,
        batch_size_max: setup.batch_size_max,
        queue_depth_max: 1000,
        lock_wait_max: match setup.has_short_lock_waits {
            true => Duration::from_millis(50),
            false => Duration::from_secs(3600),
        },
    };
    let (batcher, running) = start(&ledger, config);
    let mut others = JoinSet::new();
    for number in 0..setup.sessions as u64 {
        let (ledger, accounts) = (ledger.clone(), accounts.clone());
        others.spawn(async move { ledger.disturb(number, &accounts).await });
    }
    if setup.has_trouble {
        let (ledger, job_count) = (ledger.clone(), setup.jobs);
        others.spawn(async move { ledger.record(job_count).await });
    }
    let mut sent = Vec::new();
    for number in 0..setup.jobs {
        let one = send_one(&batcher, &mut random, &setup, &accounts, number);
        sent.push(one);
        let pause_ms = match random.random_range(0..4) {
            0 => Some(random.random_range(0..4)),
            _ => None,
        };
        match pause_ms {
            Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            None => tokio::task::yield_now().await,
        }
    }
    check(&ledger, &setup, sent).await?;
    drop(batcher);
    let ended = tokio::time::timeout(ANSWERED_WITHIN, async {
        while let Some(ended) = others.join_next().await {
            ended.map_err(|error| error.to_string())?;
        }
        running.await.map_err(|error| error.to_string())
    });
    ended.await.map_err(|_| "it does not end".to_owned())??;
    let world = ledger.world();
    match world.has_overlapped || !world.locks.is_empty() {
        true => Err(format!("locks: {:?}", world.locks)),
        false => Ok(()),
    }
}

fn send_one(
    batcher: &Batcher,
    random: &mut StdRng,
    setup: &Setup,
    accounts: &[AccountId],
    number: usize,
) -> Sent {
    let count = random
        .random_range(1..=setup.accounts_max)
        .min(accounts.len());
    let account_ids: Vec<AccountId> = accounts.sample(random, count).cloned().collect();
    let is_hurried = random.random_bool(0.1);
    let deadline = Instant::now()
        + match is_hurried {
            true => Duration::from_millis(random.random_range(1..50)),
            false => Duration::from_secs(86_400),
        };
    let leaves_after = random
        .random_bool(0.1)
        .then(|| Duration::from_millis(random.random_range(0..30)));
    let is_group = random.random_bool(0.15);
    let name = |index: usize| match index {
        0 => number.to_string(),
        _ => format!("{number}-{index}"),
    };
    let commands: Vec<Arc<Command>> = match is_group {
        true => account_ids
            .iter()
            .enumerate()
            .map(|(index, id)| Arc::new(credit(&name(index), id.as_str())))
            .collect(),
        false => vec![Arc::new(credit(&name(0), account_ids[0].as_str()))],
    };
    let ids = commands.iter();
    let operation_ids = ids.map(|command| command.operation_id.clone()).collect();
    let stays =
        async move |answered: &mut (dyn Future<Output = Told> + Send + Unpin)| match leaves_after {
            Some(after) => tokio::time::timeout(after, answered).await.ok(),
            None => Some(answered.await),
        };
    let told = if is_group {
        let batcher = batcher.clone();
        tokio::spawn(async move {
            let answered =
                Box::pin(
                    async move { told(batcher.execute_group(commands.into(), deadline).await) },
                );
            stays(&mut { answered }).await
        })
    } else {
        let job = Job::new(commands[0].clone(), Arc::default(), deadline).on(&account_ids);
        let pending = batcher.submit_job(job);
        tokio::spawn(async move {
            let answered = Box::pin(async move { told(pending?.answer().await) });
            stays(&mut { answered }).await
        })
    };
    Sent {
        operation_ids,
        account_ids,
        is_group,
        is_hurried,
        told,
    }
}

/// Waits for all answers, and compares them with what happened.
async fn check(ledger: &Simulated, setup: &Setup, sent: Vec<Sent>) -> Result<(), String> {
    let end = Instant::now() + ANSWERED_WITHIN;
    let (mut must_be_decided, mut must_not_be) = (BTreeSet::new(), BTreeSet::new());
    let mut on_one_account: BTreeMap<OperationId, AccountId> = BTreeMap::new();
    let mut order = BTreeMap::new();
    for (number, one) in sent.into_iter().enumerate() {
        let id = &one.operation_ids[0];
        let Ok(told) = tokio::time::timeout_at(end, one.told).await else {
            return Err(format!("{id} on {:?} has no answer", one.account_ids));
        };
        let is_poisonous = ledger
            .poison
            .as_ref()
            .is_some_and(|poison| one.account_ids.contains(poison));
        match told.map_err(|panic| panic.to_string())? {
            // Its caller left.
            None => {}
            Some(Ok(())) if is_poisonous => return Err(format!("{id} was decided")),
            Some(Ok(())) => drop(must_be_decided.insert(one.operation_ids.clone())),
            Some(Err(failure)) => {
                let is_expected = match &failure {
                    Failure::Deadline { .. } => one.is_hurried,
                    Failure::Contention { account_id: None } => true,
                    Failure::Contention { .. } => setup.has_short_lock_waits,
                    Failure::Internal => is_poisonous,
                    _ => false,
                };
                if !is_expected {
                    return Err(format!("{id}: {failure:?}"));
                }
                if !failure.is_outcome_unknown() {
                    must_not_be.insert(one.operation_ids.clone());
                }
            }
        }
        order.insert(id.clone(), number);
        if one.account_ids.len() == 1 && !one.is_group {
            on_one_account.insert(id.clone(), one.account_ids[0].clone());
        }
    }
    let world = ledger.world();
    let decided: BTreeSet<_> = world.decided.iter().cloned().collect();
    if decided.len() != world.decided.len() {
        return Err("something was decided twice".to_owned());
    }
    if let Some(ids) = must_be_decided.difference(&decided).next() {
        return Err(format!("{ids:?} did not happen"));
    }
    if let Some(ids) = must_not_be.intersection(&decided).next() {
        return Err(format!("{ids:?} happened all the same"));
    }
    let mut last: BTreeMap<&AccountId, (usize, &OperationId)> = BTreeMap::new();
    for id in world.decided.iter().map(|ids| &ids[0]) {
        let Some(account_id) = on_one_account.get(id).filter(|_| setup.keeps_order()) else {
            continue;
        };
        let number = order[id];
        let before = last.insert(account_id, (number, id));
        if before.is_some_and(|(before, _)| before > number) {
            return Err(format!("{id} came before {before:?}"));
        }
    }
    Ok(())
}

/// Eight accounts, of which each lane always has one: a job that needs all of them gets its turn all the same.
async fn busy_accounts(seed: u64) -> Result<(), String> {
    let accounts: Vec<AccountId> = (0..8)
        .map(|number| AccountId::from_stored(&number.to_string()))
        .collect();
    let ledger = Arc::new(Simulated {
        batch_ms: 2..=2,
        ..Simulated::new(StdRng::seed_from_u64(seed), None)
    });
    let config = BatcherConfig {
        lanes: 3,
        batch_size_max: 1,
        ..config()
    };
    let (batcher, _running) = start(&ledger, config);
    let mut load = JoinSet::new();
    for account_id in &accounts {
        for caller in 0..2 {
            let (batcher, account) = (batcher.clone(), account_id.to_string());
            load.spawn(async move {
                for number in 0.. {
                    let operation_id = format!("{account}-{caller}-{number}");
                    let command = credit(&operation_id, &account);
                    told(batcher.execute(command, later()).await)?;
                }
                Ok::<_, Failure>(())
            });
        }
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    let before = ledger.world().transaction_count;
    let command = Arc::new(credit("all", "0"));
    let job = Job::new(command, Arc::default(), later()).on(&accounts);
    let mut pending = batcher.submit_job(job).map_err(|it| format!("{it:?}"))?;
    told(pending.answer().await).map_err(|it| format!("{it:?}"))?;
    // At most 16 jobs were there before. It is blocked five times, each time for a batch; one that is repeated makes a pause, in
    // which the other lanes have some more.
    match ledger.world().transaction_count - before {
        0..=60 => Ok(()),
        count => Err(format!("decided after {count} batches")),
    }
}

/// Runs a schedule in a time of its own.
fn alone(schedule: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(schedule)
}

#[test]
fn in_each_schedule_every_job_is_answered_and_nothing_happens_twice() {
    let seeds = match std::env::var(SEED) {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("a number");
            seed..seed + 1
        }
        Err(_) => 0..SCHEDULE_COUNT,
    };
    for seed in seeds {
        if let Err(problem) = alone(run(seed)) {
            panic!("{SEED}={seed}: {problem}");
        }
    }
}

#[test]
fn a_job_of_many_busy_accounts_is_executed_after_a_bounded_number_of_batches() {
    for seed in 0..50 {
        assert_eq!(alone(busy_accounts(seed)), Ok(()), "seed {seed}");
    }
}
