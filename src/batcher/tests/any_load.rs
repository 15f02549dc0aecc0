//! Whatever comes, in whatever order batches end: lanes never share an account, and every command is executed.

use proptest::prelude::*;

use super::*;
use crate::domain::Set;

/// What happens to one batch.
#[derive(Debug, Clone)]
struct Fate {
    /// How often others get their turn meanwhile.
    turns: usize,
    /// The account that somebody outside holds.
    contended: Option<AccountId>,
}

#[derive(Debug, Clone)]
struct Sent {
    command: Command,
    /// The caller leaves when so many others were sent.
    patience: Option<usize>,
    /// How often others get their turn before the next one is sent.
    turns: usize,
}

/// A ledger that knows which accounts are in whose hands.
#[derive(Default)]
struct Watchful {
    fates: Mutex<VecDeque<Fate>>,
    in_hand: Mutex<Set<AccountId>>,
    has_overlapped: AtomicBool,
    retries: Retries,
}

impl Ledger for Watchful {
    async fn execute(&self, jobs: &[Job], locking: &Locking) -> Result<Vec<Verdict>, StoreError> {
        let fate = self
            .fates
            .lock()
            .expect("nobody panics in here")
            .pop_front();
        let account_ids: Set<AccountId> = jobs
            .iter()
            .flat_map(|job| job.command.movement.account_ids().cloned())
            .collect();
        // Who waits for locks waits for lanes as well.
        let is_lane = *locking == Locking::Skip;
        if is_lane {
            let mut in_hand = self.in_hand.lock().expect("nobody panics in here");
            for account_id in &account_ids {
                if !in_hand.insert(account_id.clone()) {
                    self.has_overlapped.store(true, Ordering::Relaxed);
                }
            }
        }
        for _ in 0..fate.as_ref().map_or(0, |fate| fate.turns) {
            tokio::task::yield_now().await;
        }
        if is_lane {
            let mut in_hand = self.in_hand.lock().expect("nobody panics in here");
            in_hand.retain(|account_id| !account_ids.contains(account_id));
        }
        let contended = fate.and_then(|fate| fate.contended);
        if contended.is_some() && !is_lane {
            return Err(StoreError::LockTimeout);
        }
        let verdict = |job: &Job| {
            let mut account_ids = job.command.movement.account_ids();
            match &contended {
                Some(contended) if account_ids.any(|id| id == contended) => {
                    Verdict::Contended(contended.clone())
                }
                _ if job.claim.start() => receipt(job, false),
                _ => Verdict::Withdrawn,
            }
        };
        Ok(jobs.iter().map(verdict).collect())
    }

    fn retries(&self) -> &Retries {
        &self.retries
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
    (0..6_usize, contended).prop_map(|(turns, contended)| Fate { turns, contended })
}

/// Sends everything, and says how many of those whose callers stayed were executed.
async fn execute_all(ledger: Arc<Watchful>, config: BatcherConfig, all: &[Sent]) -> usize {
    let (batcher, running) = Batcher::start(&Handle::current(), ledger, config);
    let (mut pending, mut impatient) = (Vec::new(), Vec::new());
    for (number, sent) in all.iter().enumerate() {
        let answer = batcher.submit(sent.command.clone(), later());
        let answer = answer.expect("there is room in the queue");
        match sent.patience {
            Some(patience) => impatient.push((number + patience, answer)),
            None => pending.push(answer),
        }
        impatient.retain(|(leaves, _)| *leaves > number);
        for _ in 0..sent.turns {
            tokio::task::yield_now().await;
        }
    }
    drop(impatient);
    let mut decided_count = 0;
    for mut answer in pending {
        let answered = tokio::time::timeout(Duration::from_secs(60), answer.answer()).await;
        decided_count += usize::from(matches!(answered, Ok(Answer::Decided(Ok(_)))));
    }
    drop(batcher);
    let ended = tokio::time::timeout(Duration::from_secs(60), running).await;
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
    ) {
        let ledger = Arc::new(Watchful {
            fates: Mutex::new(fates.into()),
            ..Watchful::default()
        });
        let config = BatcherConfig {
            lanes,
            batch_size_max,
            lock_wait_max: Duration::from_secs(3600),
            queue_depth_max: 1000,
            ..config()
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
