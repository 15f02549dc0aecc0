//! Load: sends the requests and takes the time.
//!
//! A closed loop keeps a number of requests in flight. An open loop sends at a rate, whatever comes back; a latency then
//! counts from the moment at which the request was due, so a server that stalls cannot hide the requests that it kept
//! from being sent (coordinated omission).

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};

use super::BenchError;
use super::history::LongAccount;
use super::measured::{Answer, Measured};
use super::scenario::{Accounts, Calls, Facts, OperationIds, Scenario};
use super::way::{self, Feed, Parcel, Way};
use crate::rpc::proto::balance_service_client::BalanceServiceClient;

/// How fast the requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// So many requests in flight, always.
    Closed(usize),
    /// So many requests per second, come what may.
    Open(u64),
}

impl Pace {
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Closed(_))
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(count) => write!(f, "{count} in flight"),
            Self::Open(rate) => write!(f, "{rate}/s"),
        }
    }
}

/// In an open loop: the most operations in flight before those that are due are counted as not sent.
const IN_FLIGHT_MAX: usize = 50_000;
/// How many tasks send an open loop's unary calls and batches.
const OPEN_SENDER_COUNT: usize = 8;
/// How much longer a warm-up may be, so that the server has answered before it is measured.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer: a batch has some hundred bytes for each of its members.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The operations in [`Scenario::Locked`], by name, in the order in which they are shown.
pub(super) const LOCKED_PARTS: [&str; 3] = [
    "others, nothing locked",
    "others, one balance locked",
    "on the locked balance",
];

/// The operations in [`Scenario::LockedPayers`], by name, in the order in which they are shown.
pub(super) const PAYER_PARTS: [&str; 2] = ["others", "locked payers"];

/// One turn of load.
pub(super) struct Load {
    /// Of each server process; connections are spread over them.
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) connection_count: usize,
    pub(super) scenario: Scenario,
    pub(super) way: Way,
    pub(super) accounts: Accounts,
    pub(super) operation_ids: OperationIds,
    pub(super) long_account: Option<Arc<LongAccount>>,
    pub(super) pace: Pace,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
}

/// The load runs and is not measured yet; that of a new [`Shared`].
const WARMING_UP: u8 = 0;
/// What is answered now counts.
const MEASURING: u8 = 1;
/// Nothing is sent any more.
const STOPPING: u8 = 2;

/// What all senders look at.
#[derive(Default)]
pub(super) struct Shared {
    phase: AtomicU8,
    /// Cancelled when nothing is to be sent any more, for who sleeps until something is due.
    stopping: CancellationToken,
    locked: AtomicBool,
    in_flight: AtomicUsize,
    /// The first answer that counts has come, in the warm-up mostly.
    is_answered: AtomicBool,
    answered: Notify,
    started: OnceLock<Instant>,
    ended: OnceLock<Instant>,
    parts: Parts,
}

/// How the operations of a turn are told apart.
#[derive(Debug, Clone, Copy, Default)]
enum Parts {
    #[default]
    None,
    /// By [`LOCKED_PARTS`].
    ByTime,
    /// By [`PAYER_PARTS`].
    ByPayer,
}

impl Parts {
    fn of(scenario: Scenario) -> Self {
        match scenario {
            Scenario::Locked => Self::ByTime,
            Scenario::LockedPayers(_) => Self::ByPayer,
            _ => Self::None,
        }
    }

    /// The part of an operation.
    fn name(self, facts: Facts, is_locked: bool) -> Option<&'static str> {
        let [free, locked, apart] = LOCKED_PARTS;
        let [others, payers] = PAYER_PARTS;
        match (self, facts.is_apart, is_locked) {
            (Self::None, ..) => None,
            (Self::ByTime, false, false) => Some(free),
            (Self::ByTime, false, true) => Some(locked),
            // Neither one of the others nor locked.
            (Self::ByTime, true, false) => None,
            (Self::ByTime, true, true) => Some(apart),
            (Self::ByPayer, false, _) => Some(others),
            (Self::ByPayer, true, _) => Some(payers),
        }
    }
}

impl Shared {
    /// The turn is over. In one step: an answer of an open loop is either in time or late.
    pub(super) fn end(&self) {
        self.ended.get_or_init(Instant::now);
        self.phase.store(STOPPING, Ordering::Release);
        self.stopping.cancel();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.phase.load(Ordering::Acquire) == STOPPING
    }

    pub(super) fn is_measuring(&self) -> bool {
        self.phase.load(Ordering::Acquire) == MEASURING
    }

    fn book(&self, measured: &mut Measured, facts: Facts, answer: &Answer) {
        measured.book(facts, answer);
        if !facts.is_apart && !self.is_answered.load(Ordering::Relaxed) {
            self.is_answered.store(true, Ordering::Relaxed);
            self.answered.notify_one();
        }
    }

    /// Books an answer, and counts it if it is measured.
    pub(super) fn note(
        &self,
        measured: &mut Measured,
        facts: Facts,
        answer: &Answer,
        latency: Duration,
    ) {
        self.book(measured, facts, answer);
        if self.is_measuring() {
            self.note_measured(measured, facts, answer, latency);
        }
    }

    /// In an open loop: counts so many as in flight if there is room for them.
    pub(super) fn admit(&self, count: usize) -> bool {
        let with = |in_flight: usize| Some(in_flight + count).filter(|sum| *sum <= IN_FLIGHT_MAX);
        let (set, get) = (Ordering::AcqRel, Ordering::Acquire);
        self.in_flight.fetch_update(set, get, with).is_ok()
    }

    /// In an open loop: so many are answered.
    pub(super) fn dismiss(&self, count: usize) {
        self.in_flight.fetch_sub(count, Ordering::AcqRel);
    }

    /// In an open loop: so many were due and could not be sent.
    pub(super) fn note_not_sent(&self, measured: &mut Measured, count: usize, why: &str) {
        if self.phase.load(Ordering::Acquire) != WARMING_UP {
            let reason = format!("not sent: {why}");
            *measured.all.errors.entry(reason).or_default() += count as u64;
        }
    }

    /// In an open loop: waits until something is due, or the turn is over. What was due before its end is still sent, since
    /// a stall at the end must show; false: that was the last of it.
    pub(super) async fn until_due(
        &self,
        schedule: &mut Schedule,
        send: impl FnMut(Instant),
    ) -> bool {
        tokio::select! {
            () = sleep_until(schedule.due) => {}
            () = self.stopping.cancelled() => {}
        }
        let ended = self.ended.get().copied();
        schedule.take_due(ended.unwrap_or_else(Instant::now), send);
        ended.is_none()
    }

    /// In an open loop: what is still in flight is answered after the end, but its time until then counts, since a stall
    /// must show.
    pub(super) fn note_open(
        &self,
        measured: &mut Measured,
        facts: Facts,
        answer: &Answer,
        latency: Duration,
    ) {
        self.book(measured, facts, answer);
        match self.phase.load(Ordering::Acquire) {
            WARMING_UP => {}
            MEASURING => self.note_measured(measured, facts, answer, latency),
            _ if facts.is_apart => {}
            _ => measured.all.note_late(answer, latency),
        }
    }

    fn note_measured(
        &self,
        measured: &mut Measured,
        facts: Facts,
        answer: &Answer,
        latency: Duration,
    ) {
        let is_locked = self.locked.load(Ordering::Acquire);
        if let Some(name) = self.parts.name(facts, is_locked) {
            measured.part(name).note(answer, latency);
        }
        if !facts.is_apart {
            let since_start = self.started.get().map(Instant::elapsed).unwrap_or_default();
            measured.note(answer, latency, since_start);
        }
    }
}

/// What is to be done while the load runs.
pub(super) trait Watch {
    /// The warm-up is over.
    async fn start(&mut self) -> Result<(), BenchError>;
    /// A second of the load has passed, warm-up included.
    fn second(&mut self);
    /// Half of the measured time is over. True if a balance is locked from now on.
    async fn half(&mut self) -> Result<bool, BenchError>;
    /// The measured time is over.
    async fn end(&mut self) -> Result<(), BenchError>;
}

impl Load {
    /// Runs the load.
    pub(super) async fn run(&self, watch: &mut impl Watch) -> Result<Measured, BenchError> {
        let shared = Arc::new(Shared {
            parts: Parts::of(self.scenario),
            ..Shared::default()
        });
        let mut senders = self.spawn_senders(&shared)?;
        if !self.warmup.is_zero() {
            passing(self.warmup, watch).await;
            // On a busy machine the first connection may take longer. A server that never answers is measured, too.
            let _silent = timeout(FIRST_ANSWER_TIMEOUT, shared.answered.notified()).await;
        }
        watch.start().await?;
        let started = *shared.started.get_or_init(Instant::now);
        shared.phase.store(MEASURING, Ordering::Release);
        passing(self.duration / 2, watch).await;
        shared.locked.store(watch.half().await?, Ordering::Release);
        let left = self.duration.saturating_sub(started.elapsed());
        passing(left, watch).await;
        shared.end();
        watch.end().await?;
        let mut measured = Measured::new();
        if let Scenario::LockedPayers(locked) = self.scenario
            && locked.count > 0
        {
            // Shown even if none of them had an answer.
            for name in PAYER_PARTS {
                measured.part(name);
            }
        }
        while let Some(sender) = senders.join_next().await {
            measured.add(&sender.map_err(|panic| BenchError::Database(panic.to_string()))?);
        }
        let paid_count = measured
            .parts
            .get(PAYER_PARTS[1])
            .map_or(0, |part| part.ok_count);
        if paid_count > 0 {
            // Their rows were not locked, so the turn shows nothing.
            let paid = "OK for a locked payer".to_owned();
            measured.all.errors.insert(paid, paid_count);
        }
        let elapsed = shared
            .ended
            .get_or_init(Instant::now)
            .duration_since(started);
        measured.elapsed = elapsed;
        // The second in which the turn ended is not a whole one.
        measured.per_second.resize(elapsed.as_secs() as usize, 0);
        Ok(measured)
    }

    fn spawn_senders(&self, shared: &Arc<Shared>) -> Result<JoinSet<Measured>, BenchError> {
        let clients = self.clients();
        let client = |index: usize| clients[index % clients.len()].clone();
        let calls = || Calls::new(self.scenario, self.accounts.clone(), self.operation_ids);
        let mut senders = JoinSet::new();
        if let Some(long_account) = &self.long_account {
            senders.spawn(long_account.clone().probe(client(0), shared.clone()));
            return Ok(senders);
        }
        if let Scenario::LockedPayers(locked) = self.scenario {
            for index in 0..locked.count {
                let calls = calls()?.of_locked(index);
                let client = client(index as usize);
                senders.spawn(way::call(client, calls, None, shared.clone()));
            }
        }
        match self.pace {
            Pace::Closed(count) => {
                let callers = self.way.callers(count, self.connection_count);
                let mut payer_count = 0;
                for (index, size) in callers.into_iter().enumerate() {
                    let calls = calls()?.of_others(payer_count, size);
                    payer_count += size;
                    let (client, shared) = (client(index), shared.clone());
                    match self.way {
                        Way::Stream => {
                            let feed = Feed::Window(size);
                            senders.spawn(way::stream(client, calls, feed, shared))
                        }
                        way => senders.spawn(way::call(client, calls, way.batch_size(), shared)),
                    };
                }
            }
            Pace::Open(rate) if self.way == Way::Stream => {
                for (index, client) in clients.iter().enumerate() {
                    let schedule = Schedule::part(rate as f64, index, clients.len());
                    let (calls, feed) = (calls()?, Feed::Due(schedule));
                    senders.spawn(way::stream(client.clone(), calls, feed, shared.clone()));
                }
            }
            Pace::Open(rate) => {
                let batch_size = self.way.batch_size();
                for index in 0..OPEN_SENDER_COUNT {
                    let rate = rate as f64 / batch_size.unwrap_or(1) as f64;
                    let schedule = Schedule::part(rate, index, OPEN_SENDER_COUNT);
                    // Each begins with another connection, since all of them begin at about the same time.
                    let (mut clients, calls) = (clients.clone(), calls()?);
                    clients.rotate_left(index % self.connection_count);
                    senders.spawn(open(clients, calls, batch_size, shared.clone(), schedule));
                }
            }
        }
        Ok(senders)
    }

    fn clients(&self) -> Vec<Client> {
        spread(&self.endpoints, self.connection_count)
            .map(|endpoint| {
                BalanceServiceClient::new(endpoint.connect_lazy())
                    .max_decoding_message_size(ANSWER_BYTES_MAX)
            })
            .collect()
    }
}

/// Where each of so many connections goes: to all of them alike.
fn spread(endpoints: &[Endpoint], connection_count: usize) -> impl Iterator<Item = &Endpoint> {
    endpoints.iter().cycle().take(connection_count)
}

pub(super) type Client = BalanceServiceClient<Channel>;

async fn passing(duration: Duration, watch: &mut impl Watch) {
    let end = Instant::now() + duration;
    let mut next = Instant::now();
    while next < end {
        next = end.min(next + Duration::from_secs(1));
        sleep_until(next).await;
        watch.second();
    }
}

/// When what one sender of an open loop sends is due.
pub(super) struct Schedule {
    /// The next of it.
    due: Instant,
    interval: Duration,
}

impl Schedule {
    /// That of the sender of this index among `count`, which together send `rate` calls per second, evenly.
    pub(super) fn part(rate: f64, index: usize, count: usize) -> Self {
        let after = |calls: usize| Duration::from_secs_f64(calls as f64 / rate);
        Self {
            due: Instant::now() + after(index),
            interval: after(count),
        }
    }

    /// Sends everything that is due by then: the timer is coarser than the interval at high rates.
    fn take_due(&mut self, by: Instant, mut send: impl FnMut(Instant)) {
        while self.due <= by {
            send(self.due);
            self.due += self.interval;
        }
    }
}

/// Sends what is due. Each request notes its own answer as it comes, so that a latency ends with the answer and not when
/// somebody has time to look at it.
async fn open(
    clients: Vec<Client>,
    mut calls: Calls,
    batch_size: Option<usize>,
    shared: Arc<Shared>,
    mut schedule: Schedule,
) -> Measured {
    let measured = Arc::new(Mutex::new(Measured::new()));
    let sending = TaskTracker::new();
    let mut sent_count = 0;
    let mut send = |due| {
        let parcel = Parcel::next(&mut calls, batch_size);
        let size = parcel.size();
        if !shared.admit(size) {
            return shared.note_not_sent(&mut locked(&measured), size, "too many in flight");
        }
        let mut client = clients[sent_count % clients.len()].clone();
        sent_count += 1;
        let (shared, measured) = (shared.clone(), measured.clone());
        sending.spawn(async move {
            let answers = parcel.send(&mut client).await;
            let latency = answers.came - due;
            shared.dismiss(size);
            let mut measured = locked(&measured);
            for (facts, answer) in answers.all {
                shared.note_open(&mut measured, facts, &answer, latency);
            }
        });
    };
    while shared.until_due(&mut schedule, &mut send).await {}
    sending.close();
    sending.wait().await;
    std::mem::replace(&mut locked(&measured), Measured::new())
}

/// What a sender that panicked has noted counts too.
fn locked(measured: &Mutex<Measured>) -> MutexGuard<'_, Measured> {
    measured.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_spread_over_all_servers() {
        let servers = ["http://a", "http://b"].map(Endpoint::from_static);
        let hosts: Vec<Option<&str>> = spread(&servers, 4)
            .map(|endpoint| endpoint.uri().host())
            .collect();
        assert_eq!(hosts, [Some("a"), Some("b"), Some("a"), Some("b")]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_due_before_the_end_is_sent_and_nothing_after_it() {
        let (shared, start) = (Shared::default(), Instant::now());
        // Once in an hour; this one is due at once.
        let mut schedule = Schedule::part(1.0 / 3600.0, 0, 1);
        let mut sent = Vec::new();
        let mut send = |due: Instant| sent.push((due - start).as_secs());
        assert!(shared.until_due(&mut schedule, &mut send).await);
        tokio::time::advance(Duration::from_secs(7201)).await;
        shared.end();
        tokio::time::advance(Duration::from_secs(7200)).await;
        assert!(!shared.until_due(&mut schedule, &mut send).await);
        assert_eq!(sent, [0, 3600, 7200]);
        // The next one is due in two hours, and nobody waits for that.
        let waiting = shared.until_due(&mut schedule, |_| panic!("it is over"));
        let waited = tokio::time::timeout(Duration::from_secs(1), waiting).await;
        assert_eq!(waited, Ok(false));
    }

    #[tokio::test(start_paused = true)]
    async fn senders_share_a_rate_evenly_and_leave_nothing_out() {
        let start = Instant::now();
        let mut schedules: Vec<_> = (0..4)
            .map(|index| Schedule::part(1000.0, index, 4))
            .collect();
        tokio::time::advance(Duration::from_millis(20)).await;
        let mut due = Vec::new();
        for schedule in &mut schedules {
            schedule.take_due(Instant::now(), |at| due.push((at - start).as_micros()));
            assert!(schedule.due > Instant::now());
        }
        due.sort_unstable();
        let every_millisecond: Vec<u128> = (0..=20).map(|number| number * 1000).collect();
        assert_eq!(due, every_millisecond);
    }
}
