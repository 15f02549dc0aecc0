//! Whatever comes, in whatever order batches end: nobody has an account that another one has, and every command is
//! executed, unless the database rejects it.

use proptest::prelude::*;

use super::*;
use crate::domain::Set;

/// What happens to one batch or wait.
#[derive(Debug, Clone)]
struct Fate {
    /// How often others get their turn meanwhile.
    turns: usize,
    /// The account that another session holds.
    contended: Option<AccountId>,
    /// Another session is about to record one of the operation ids.
    is_obstructed: bool,
}

#[derive(Debug, Clone)]
struct Sent {
    command: Command,
    /// The caller leaves when so many others were sent.
    patience: Option<usize>,
    /// How often others get their turn before the next one is sent.
    turns: usize,
}

/// A ledger that notices when two batches or locks have the same account.
#[derive(Default)]
struct Watchful {
    fates: Mutex<VecDeque<Fate>>,
    taken: Mutex<Set<AccountId>>,
    has_overlapped: AtomicBool,
    /// The database rejects every command on this account.
    poison: Option<AccountId>,
}

impl Watchful {
    /// What happens next, after others had their turns.
    async fn fate(&self) -> Option<Fate> {
        let fate = self
            .fates
            .lock()
            .expect("nobody panics in here")
            .pop_front();
        for _ in 0..fate.as_ref().map_or(0, |fate| fate.turns) {
            tokio::task::yield_now().await;
        }
        fate
    }

    fn take<'a>(&self, account_ids: impl IntoIterator<Item = &'a AccountId>) {
        let mut taken = self.taken.lock().expect("nobody panics in here");
        for account_id in account_ids {
            if !taken.insert(account_id.clone()) {
                self.has_overlapped.store(true, Ordering::Relaxed);
            }
        }
    }

    fn give_back<'a>(&self, account_ids: impl IntoIterator<Item = &'a AccountId>) {
        let mut taken = self.taken.lock().expect("nobody panics in here");
        for account_id in account_ids {
            taken.remove(account_id);
        }
    }

    fn is_poisonous(&self, job: &Job) -> bool {
        let poison = self.poison.as_ref();
        poison.is_some_and(|poison| job.account_ids().contains(poison))
    }
}

impl Ledger for Watchful {
    type Hold = Vec<AccountId>;

    async fn await_accounts(
        &self,
        account_ids: &[AccountId],
        _commands: &[Arc<Command>],
        _wait_max: Duration,
    ) -> Result<Vec<AccountId>, StoreError> {
        let contended = self.fate().await.and_then(|fate| fate.contended);
        if contended.is_some_and(|contended| account_ids.contains(&contended)) {
            return Err(StoreError::LockTimeout);
        }
        self.take(account_ids);
        Ok(account_ids.to_vec())
    }

    async fn release(&self, hold: Vec<AccountId>) {
        self.give_back(&hold);
    }

    async fn await_operation(
        &self,
        _operation_id: &OperationId,
        _wait_max: Duration,
    ) -> Result<(), StoreError> {
        match self.fate().await {
            Some(fate) if fate.is_obstructed => Err(StoreError::LockTimeout),
            _ => Ok(()),
        }
    }

    async fn execute(
        &self,
        jobs: &[Job],
        locking: Locking<Vec<AccountId>>,
    ) -> Result<Vec<Verdict>, StoreError> {
        let hold = match locking {
            Locking::Skip => Vec::new(),
            Locking::Held(hold) => hold,
        };
        let account_ids: Set<AccountId> = jobs
            .iter()
            .flat_map(|job| job.account_ids().to_vec())
            .filter(|id| !hold.contains(id))
            .collect();
        self.take(&account_ids);
        let fate = self.fate().await;
        self.give_back(account_ids.iter().chain(&hold));
        if jobs.iter().any(|job| self.is_poisonous(job)) {
            return Err(StoreError::Rejected {
                sqlstate: "22000".to_owned(),
                message: "poison".to_owned(),
            });
        }
        if fate.as_ref().is_some_and(|fate| fate.is_obstructed) {
            return Err(StoreError::LockTimeout);
        }
        let contended = fate.and_then(|fate| fate.contended);
        let contended = contended.filter(|contended| !hold.contains(contended));
        let verdict = |job: &Job| match &contended {
            Some(contended) if job.account_ids().contains(contended) => {
                Verdict::Contended(contended.clone())
            }
            _ if job.claim.start() => posted(job, false),
            _ => Verdict::Withdrawn,
        };
        Ok(jobs.iter().map(verdict).collect())
    }
}

fn any_account() -> impl Strategy<Value = String> {
    // One that everybody wants, some that many want, and others.
    prop_oneof![Just(0), 0..4_u32, 0..80_u32].prop_map(|number| number.to_string())
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let command = prop_oneof![
        any_account().prop_map(|account| credit("operation", &account)),
        (any_account(), any_account())
            .prop_filter("two accounts", |(from, to)| from != to)
            .prop_map(|(from, to)| transfer("operation", &from, &to)),
    ];
    let patience = proptest::option::weighted(0.1, 0..20_usize);
    // Many come at once.
    let turns = prop_oneof![3 => Just(0), 1 => 1..4_usize];
    (command, patience, turns).prop_map(|(command, patience, turns)| Sent {
        command,
        patience,
        turns,
    })
}

fn any_fate() -> impl Strategy<Value = Fate> {
    let account = any_account().prop_map(|account| AccountId::from_stored(&account));
    let contended = proptest::option::weighted(0.2, account);
    let is_obstructed = proptest::bool::weighted(0.1);
    (0..6_usize, contended, is_obstructed).prop_map(|(turns, contended, is_obstructed)| Fate {
        turns,
        contended,
        is_obstructed,
    })
}

fn in_a_day() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}

/// Sends everything, and says how many of those whose callers stayed were executed, or rejected if they had to be.
async fn execute_all(ledger: Arc<Watchful>, config: BatcherConfig, all: &[Sent]) -> usize {
    let (batcher, running) = start(&ledger, config);
    let (mut pending, mut impatient) = (Vec::new(), Vec::new());
    for (number, sent) in all.iter().enumerate() {
        let command = Command {
            operation_id: OperationId::from_stored(&number.to_string()),
            ..sent.command.clone()
        };
        let job = Job::new(Arc::new(command), Arc::default(), in_a_day());
        let is_poisonous = ledger.is_poisonous(&job);
        let answer = batcher.submit_job(job);
        let answer = answer.expect("there is room in the queue");
        match sent.patience {
            Some(patience) => impatient.push((number + patience, answer)),
            None => pending.push((is_poisonous, answer)),
        }
        impatient.retain(|(leaves, _)| *leaves > number);
        for _ in 0..sent.turns {
            tokio::task::yield_now().await;
        }
    }
    drop(impatient);
    let mut decided_count = 0;
    for (is_poisonous, mut answer) in pending {
        let answered = tokio::time::timeout(Duration::from_secs(600), answer.answer()).await;
        let is_right = match answered {
            Ok(Answer::Decided(Ok(_))) => !is_poisonous,
            Ok(Answer::Failed(Failure::Internal)) => is_poisonous,
            _ => false,
        };
        decided_count += usize::from(is_right);
    }
    drop(batcher);
    let ended = tokio::time::timeout(Duration::from_secs(600), running).await;
    assert!(matches!(ended, Ok(Ok(()))), "nothing is left behind");
    decided_count
}

proptest! {
    #[test]
    fn lanes_share_no_account_and_every_command_is_executed(
        all in proptest::collection::vec(any_sent(), 1..200),
        fates in proptest::collection::vec(any_fate(), 0..60),
        lanes in 1..4_usize,
        batch_size_max in prop_oneof![1..8_usize, Just(100)],
        lock_wait_connections in 1..4_usize,
        poison in proptest::option::weighted(0.3, any_account()),
    ) {
        let ledger = Arc::new(Watchful {
            fates: Mutex::new(fates.into()),
            poison: poison.map(|account| AccountId::from_stored(&account)),
            ..Watchful::default()
        });
        let config = BatcherConfig {
            lanes,
            lock_wait_connections,
            batch_size_max,
            lock_wait_max: Duration::from_secs(3600),
            queue_depth_max: 1000,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()?;
        let decided_count = runtime.block_on(execute_all(ledger.clone(), config, &all));
        let expected = all.iter().filter(|sent| sent.patience.is_none()).count();
        prop_assert_eq!(decided_count, expected);
        prop_assert!(!ledger.has_overlapped.load(Ordering::Relaxed));
    }
}
