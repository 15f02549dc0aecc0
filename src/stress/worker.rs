//! A client process of a stress run: opens its connections, waits for the word, sends its transfers, and says on stdout
//! what became of them.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use rand::RngExt;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::error::StressError;
use super::plan::Part;
use super::tally::{Message, Tally};
use crate::harness::{
    Accounts, Dialer, Judgement, eur, histogram, judge, may_repeat, micros, pause,
};
use crate::rpc::proto::TransferRequest;
use crate::rpc::proto::balance_service_client::BalanceServiceClient;
use crate::rpc::proto::transfer_request::Destination;

/// Connections of one process that are on their way at the same time; the queue of a listening socket is short.
const CONNECTING_MAX: usize = 128;
/// Transfers move from 1 to so many minor units.
const AMOUNT_MAX: i64 = 100;
/// How often the numbers are told.
const TELL_INTERVAL: Duration = Duration::from_millis(200);

/// What all connections of this process look at.
struct Shared {
    part: Part,
    accounts: Accounts,
    opened: AtomicU64,
    done: AtomicU64,
    connecting: Semaphore,
    found: Mutex<(Tally, Histogram<u64>)>,
}

impl Shared {
    fn note(&self, note: impl FnOnce(&mut Tally, &mut Histogram<u64>)) {
        // Numbers are whole whatever panicked.
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let (tally, latencies) = &mut *found;
        note(tally, latencies);
    }

    fn tell(&self) {
        tell(&Message::Progress {
            opened: self.opened.load(Ordering::Acquire),
            done: self.done.load(Ordering::Acquire),
        });
    }
}

fn tell(message: &Message) {
    let mut out = std::io::stdout().lock();
    // Whoever started this process is gone, and it ends with its stdin.
    let _unheard = serde_json::to_writer(&mut out, message)
        .map_err(std::io::Error::from)
        .and_then(|()| writeln!(out))
        .and_then(|()| out.flush());
}

/// Does the part of a run that `part` describes, as JSON.
pub async fn work(part: &str) -> Result<(), StressError> {
    let part: Part = serde_json::from_str(part).map_err(std::io::Error::other)?;
    let shared = Arc::new(Shared {
        opened: AtomicU64::new(0),
        done: AtomicU64::new(0),
        connecting: Semaphore::new(CONNECTING_MAX),
        found: Mutex::new((Tally::default(), histogram())),
        accounts: Accounts::new(&part.run, part.account_count),
        part,
    });
    let (go, begun) = watch::channel(false);
    let mut connections = JoinSet::new();
    for index in 0..shared.part.connection_count {
        let number = shared.part.connection_first + index;
        connections.spawn(connection(shared.clone(), number, begun.clone()));
    }
    let mut orders = tokio::task::spawn_blocking(|| read_line().map(|_go| ()));
    let mut told = tokio::time::interval(TELL_INTERVAL);
    // Kept open until every other one is done as well.
    let mut channels = Vec::new();
    let mut is_begun = false;
    loop {
        tokio::select! {
            _ = told.tick() => shared.tell(),
            order = &mut orders, if !is_begun => {
                order.map_err(std::io::Error::other)??;
                go.send_replace(true);
                is_begun = true;
            }
            ended = connections.join_next() => match ended {
                Some(Ok(Ok(channel))) => channels.push(channel),
                Some(Ok(Err(error))) => return fail(error.to_string()),
                Some(Err(panic)) => return fail(panic.to_string()),
                None => break,
            }
        }
    }
    shared.tell();
    let mut tally = Tally::default();
    shared.note(|found, latencies| {
        tally = std::mem::take(found);
        let recorded = latencies.iter_recorded();
        let recorded =
            recorded.map(|step| (step.value_iterated_to(), step.count_since_last_iteration()));
        tally.latencies = recorded.collect();
    });
    tell(&Message::Finished(Box::new(tally)));
    // Until all other processes are done, too.
    tokio::task::spawn_blocking(read_line)
        .await
        .map_err(std::io::Error::other)??;
    drop(channels);
    Ok(())
}

fn fail(cause: String) -> Result<(), StressError> {
    tell(&Message::Failed(cause.clone()));
    Err(StressError::Client(cause))
}

/// The next line of stdin; nothing at its end.
fn read_line() -> std::io::Result<Option<String>> {
    let mut line = String::new();
    let length = std::io::stdin().read_line(&mut line)?;
    Ok((length > 0).then_some(line))
}

/// Opens a connection, and sends its transfers over it one after the other.
async fn connection(
    shared: Arc<Shared>,
    number: u64,
    mut begun: watch::Receiver<bool>,
) -> Result<Channel, String> {
    let channel = {
        let _place = shared
            .connecting
            .acquire()
            .await
            .map_err(|e| e.to_string())?;
        let dialing = Dialer::new(&shared.part.addresses, number).channel();
        dialing.await.map_err(|error| error.to_string())?
    };
    shared.opened.fetch_add(1, Ordering::AcqRel);
    begun
        .wait_for(|begun| *begun)
        .await
        .map_err(|e| e.to_string())?;
    let mut index = number;
    while index < shared.part.transfer_total {
        transfer(&shared, &channel, index).await;
        shared.done.fetch_add(1, Ordering::AcqRel);
        index += shared.part.connection_total;
    }
    Ok(channel)
}

/// Sends the transfer of this number until it has a final answer.
async fn transfer(shared: &Shared, channel: &Channel, index: u64) {
    let Shared { part, accounts, .. } = shared;
    let (from, to, amount) = {
        let mut random = rand::rng();
        let from = random.random_range(0..accounts.count());
        let to = (from + random.random_range(1..accounts.count())) % accounts.count();
        (from, to, random.random_range(1..=AMOUNT_MAX))
    };
    let request = TransferRequest {
        operation_id: format!("{}-t-{index}", part.run),
        source_account_id: accounts.id(from),
        destination: Some(Destination::DestinationAccountId(accounts.id(to))),
        amount: eur(amount),
        ..TransferRequest::default()
    };
    let mut client = BalanceServiceClient::new(channel.clone());
    let started = Instant::now();
    let mut attempt = 0;
    loop {
        let result = client.transfer(request.clone()).await;
        let micros = micros(started.elapsed());
        let (reason, judgement) = match result {
            Ok(response) => {
                return shared.note(|tally, latencies| {
                    tally.posted += 1;
                    tally.replayed += u64::from(response.get_ref().replayed);
                    *tally.gained.entry(from).or_default() -= amount;
                    *tally.gained.entry(to).or_default() += amount;
                    latencies.saturating_record(micros);
                });
            }
            Err(status) => judge(&status),
        };
        match judgement {
            Judgement::Refused => {
                return shared.note(|tally, latencies| {
                    *tally.refused.entry(reason).or_default() += 1;
                    latencies.saturating_record(micros);
                });
            }
            Judgement::Again if may_repeat(attempt) => {
                shared.note(|tally, _| *tally.repeated.entry(reason).or_default() += 1);
                pause(attempt).await;
                attempt += 1;
            }
            Judgement::Again | Judgement::Wrong => {
                return shared.note(|tally, _| *tally.lost.entry(reason).or_default() += 1);
            }
        }
    }
}
