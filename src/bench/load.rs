//! Load: sends the requests and takes the time.
//!
//! A closed loop keeps a number of requests in flight. An open loop sends at a rate, whatever comes back; a latency then
//! counts from the moment at which the request was due, so a server that stalls cannot hide the requests that it kept
//! from being sent (coordinated omission).

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;

use super::BenchError;
use super::scenario::{Call, Calls, Scenario};
use crate::rpc::proto::balance_service_client::BalanceServiceClient;

/// How fast the requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// So many requests in flight, always.
    Closed(usize),
    /// So many requests per second, come what may.
    Open(u64),
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(count) => write!(f, "{count} in flight"),
            Self::Open(rate) => write!(f, "{rate}/s"),
        }
    }
}

/// In an open loop: the most requests in flight before those that are due are counted as not sent.
const IN_FLIGHT_MAX: usize = 50_000;
/// The longest latency that is told apart from longer ones, in microseconds.
const LATENCY_MAX_US: u64 = 120_000_000;
/// How many tasks send an open loop's requests.
const OPEN_SENDER_COUNT: u64 = 8;

/// One turn of load.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) address: SocketAddr,
    pub(super) connection_count: usize,
    pub(super) scenario: Scenario,
    pub(super) account_count: u64,
    pub(super) pace: Pace,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
}

/// What came back while it was measured.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) elapsed: Duration,
    /// Answers with OK.
    pub(super) ok_count: u64,
    /// Business answers that say no, by reason.
    pub(super) refusals: BTreeMap<String, u64>,
    /// Everything else, by code and reason.
    pub(super) errors: BTreeMap<String, u64>,
    /// Of everything that was answered, in microseconds.
    pub(super) latency: Histogram<u64>,
    /// Answers with OK in each second.
    pub(super) per_second: Vec<u64>,
}

impl Measured {
    fn new() -> Self {
        Self {
            elapsed: Duration::ZERO,
            ok_count: 0,
            refusals: BTreeMap::new(),
            errors: BTreeMap::new(),
            latency: Histogram::new_with_max(LATENCY_MAX_US, 3)
                .expect("the bounds of a histogram are constant"),
            per_second: Vec::new(),
        }
    }

    fn note(&mut self, result: Result<(), Status>, latency: Duration, since_start: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_MAX_US);
        self.latency.saturating_record(micros.max(1));
        match result {
            Ok(()) => {
                self.ok_count += 1;
                let second = since_start.as_secs() as usize;
                if self.per_second.len() <= second {
                    self.per_second.resize(second + 1, 0);
                }
                self.per_second[second] += 1;
            }
            Err(status) => self.note_error(&status),
        }
    }

    fn note_error(&mut self, status: &Status) {
        let details = status.get_error_details();
        let reason = details
            .error_info()
            .map_or("no reason", |info| info.reason.as_str());
        let counts = match details.precondition_failure() {
            Some(_) => &mut self.refusals,
            None => &mut self.errors,
        };
        *counts
            .entry(format!("{:?} {reason}", status.code()))
            .or_default() += 1;
    }

    fn add(&mut self, other: &Self) {
        self.ok_count += other.ok_count;
        for (mine, theirs) in [
            (&mut self.refusals, &other.refusals),
            (&mut self.errors, &other.errors),
        ] {
            for (reason, count) in theirs {
                *mine.entry(reason.clone()).or_default() += count;
            }
        }
        self.latency
            .add(&other.latency)
            .expect("all histograms have the same bounds");
        if self.per_second.len() < other.per_second.len() {
            self.per_second.resize(other.per_second.len(), 0);
        }
        for (mine, theirs) in self.per_second.iter_mut().zip(&other.per_second) {
            *mine += theirs;
        }
    }
}

/// What all senders look at.
struct Shared {
    measuring: AtomicBool,
    stopping: AtomicBool,
    in_flight: AtomicUsize,
}

impl Load {
    /// Runs the load. `on_start` is called when the warm-up is over, `on_second` with the seconds that passed.
    pub(super) async fn run(
        &self,
        on_start: impl AsyncFnOnce(),
        on_second: impl Fn(u64),
    ) -> Result<Measured, BenchError> {
        let shared = Arc::new(Shared {
            measuring: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
        });
        let clients = self.clients();
        let measure_from = Instant::now() + self.warmup;
        let mut senders = JoinSet::new();
        match self.pace {
            Pace::Closed(count) => {
                for index in 0..count {
                    let calls = Calls::new(self.scenario, self.account_count)?;
                    let client = clients[index % clients.len()].clone();
                    senders.spawn(closed(client, calls, shared.clone(), measure_from));
                }
            }
            Pace::Open(rate) => {
                for index in 0..OPEN_SENDER_COUNT.min(rate) {
                    let calls = Calls::new(self.scenario, self.account_count)?;
                    let interval = Duration::from_secs(1)
                        .mul_f64(OPEN_SENDER_COUNT.min(rate) as f64 / rate as f64);
                    let first =
                        Instant::now() + interval.mul_f64(index as f64 / OPEN_SENDER_COUNT as f64);
                    senders.spawn(open(
                        clients.clone(),
                        calls,
                        shared.clone(),
                        measure_from,
                        first,
                        interval,
                    ));
                }
            }
        }
        passing(self.warmup, &on_second).await;
        on_start().await;
        let started = Instant::now();
        shared.measuring.store(true, Ordering::Release);
        passing(self.duration, &on_second).await;
        shared.measuring.store(false, Ordering::Release);
        let elapsed = started.elapsed();
        shared.stopping.store(true, Ordering::Release);
        let mut measured = Measured {
            elapsed,
            ..Measured::new()
        };
        while let Some(sender) = senders.join_next().await {
            measured.add(&sender.map_err(|panic| BenchError::Database(panic.to_string()))?);
        }
        // The second in which the turn ended is not a whole one.
        measured.per_second.truncate(elapsed.as_secs() as usize);
        Ok(measured)
    }

    fn clients(&self) -> Vec<Client> {
        let endpoint =
            Endpoint::from_shared(format!("http://{}", self.address)).expect("an address is a URI");
        (0..self.connection_count)
            .map(|_| BalanceServiceClient::new(endpoint.connect_lazy()))
            .collect()
    }
}

type Client = BalanceServiceClient<Channel>;

async fn passing(duration: Duration, on_second: &impl Fn(u64)) {
    let end = Instant::now() + duration;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(Duration::from_secs(1))).await;
        on_second(1);
    }
}

async fn closed(
    mut client: Client,
    mut calls: Calls,
    shared: Arc<Shared>,
    measure_from: Instant,
) -> Measured {
    let mut measured = Measured::new();
    while !shared.stopping.load(Ordering::Acquire) {
        let call = calls.next();
        let sent = Instant::now();
        let result = send(&mut client, call).await;
        if shared.measuring.load(Ordering::Acquire) {
            measured.note(result, sent.elapsed(), measure_from.elapsed());
        }
    }
    measured
}

async fn open(
    clients: Vec<Client>,
    mut calls: Calls,
    shared: Arc<Shared>,
    measure_from: Instant,
    first: Instant,
    interval: Duration,
) -> Measured {
    let mut measured = Measured::new();
    let mut sending: JoinSet<(Result<(), Status>, Instant)> = JoinSet::new();
    let mut due = first;
    let mut index = 0;
    while !shared.stopping.load(Ordering::Acquire) {
        tokio::select! {
            biased;
            Some(answered) = sending.join_next(), if !sending.is_empty() => {
                shared.in_flight.fetch_sub(1, Ordering::AcqRel);
                if let Ok((result, due)) = answered && shared.measuring.load(Ordering::Acquire) {
                    measured.note(result, due.elapsed(), measure_from.elapsed());
                }
                continue;
            }
            () = tokio::time::sleep_until(due) => {}
        }
        // The timer is coarser than the interval at high rates: send everything that is due by now.
        let now = Instant::now();
        while due <= now {
            if shared.in_flight.load(Ordering::Acquire) < IN_FLIGHT_MAX {
                shared.in_flight.fetch_add(1, Ordering::AcqRel);
                let (mut client, call, was_due) =
                    (clients[index % clients.len()].clone(), calls.next(), due);
                sending.spawn(async move { (send(&mut client, call).await, was_due) });
            } else if shared.measuring.load(Ordering::Acquire) {
                *measured
                    .errors
                    .entry("not sent: too many in flight".to_owned())
                    .or_default() += 1;
            }
            index += 1;
            due += interval;
        }
    }
    // What is still in flight is not waited for as a result, but its time until now counts: a stall must show.
    while let Some(answered) = sending.join_next().await {
        if let Ok((result, due)) = answered {
            measured.note(result, due.elapsed(), measure_from.elapsed());
        }
    }
    measured
}

async fn send(client: &mut Client, call: Call) -> Result<(), Status> {
    match call {
        Call::Transfer(request) => client.transfer(request).await.map(drop),
        Call::Debit(request) => client.debit(request).await.map(drop),
        Call::Credit(request) => client.credit(request).await.map(drop),
        Call::GetBalance(request) => client.get_balance(request).await.map(drop),
    }
}
