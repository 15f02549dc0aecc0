//! Load: sends the requests and takes the time.
//!
//! A closed loop keeps a number of requests in flight. An open loop sends at a rate, whatever comes back; a latency then
//! counts from the moment at which the request was due, so a server that stalls cannot hide the requests that it kept
//! from being sent (coordinated omission).

mod calls;
mod long_account;
mod measured;
mod open;
mod parts;
mod payload;
mod recorder;
mod schedule;
mod stream;

pub(super) use calls::LOCKED_ACCOUNT;
pub(super) use long_account::{LONG_ACCOUNT_ID, LongAccount, PARTS as LONG_ACCOUNT_PARTS};
pub(super) use measured::{Answer, Measured, Tally};
pub(super) use parts::{LOCKED_PARTS, PAYER_PARTS};

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::transport::Endpoint;

use super::error::BenchError;
use super::mode::Mode;
use super::operation_ids::OperationIds;
use super::pace::Pace;
use super::scenario::Scenario;
use crate::harness::Accounts;
use crate::rpc::proto::balance_service_client::BalanceServiceClient;
use calls::{Calls, Client};
use open::open;
use payload::call;
use recorder::Recorder;
use schedule::Schedule;
use stream::{Feed, stream};

/// How many tasks send an open loop's unary calls and batches.
const OPEN_SENDER_COUNT: usize = 8;
/// How much longer a warm-up may be, so that the server has answered before it is measured.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer: a batch has some hundred bytes for each of its members.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A load on one variant, once.
pub(super) struct Load {
    /// Of each server process; connections are spread over them.
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) connection_count: usize,
    pub(super) scenario: Scenario,
    pub(super) mode: Mode,
    pub(super) accounts: Accounts,
    pub(super) operation_ids: OperationIds,
    pub(super) long_account: Option<Arc<LongAccount>>,
    pub(super) pace: Pace,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
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
        let recorder = Arc::new(Recorder::of(self.scenario));
        let mut senders = self.spawn_senders(&recorder)?;
        if !self.warmup.is_zero() {
            passing(self.warmup, watch).await;
            // On a busy machine the first connection may take longer. A server that never answers is measured, too.
            let _silent = timeout(FIRST_ANSWER_TIMEOUT, recorder.first_answer()).await;
        }
        watch.start().await?;
        let started = recorder.start();
        passing(self.duration / 2, watch).await;
        recorder.set_locked(watch.half().await?);
        let left = self.duration.saturating_sub(started.elapsed());
        passing(left, watch).await;
        let ended = recorder.end();
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
            // Their rows were not locked, so the figures mean nothing.
            let paid = "OK for a locked payer".to_owned();
            measured.all.errors.insert(paid, paid_count);
        }
        let elapsed = ended.duration_since(started);
        measured.elapsed = elapsed;
        // The second in which the load ended is not a whole one.
        measured.per_second.resize(elapsed.as_secs() as usize, 0);
        Ok(measured)
    }

    fn spawn_senders(&self, recorder: &Arc<Recorder>) -> Result<JoinSet<Measured>, BenchError> {
        let clients = self.clients();
        let client = |index: usize| clients[index % clients.len()].clone();
        let calls = || Calls::new(self.scenario, self.accounts.clone(), self.operation_ids);
        let mut senders = JoinSet::new();
        if let Some(long_account) = &self.long_account {
            senders.spawn(long_account.clone().probe(client(0), recorder.clone()));
            return Ok(senders);
        }
        if let Scenario::LockedPayers(locked) = self.scenario {
            for index in 0..locked.count {
                let calls = calls()?.of_locked(index);
                let client = client(index as usize);
                senders.spawn(call(client, calls, None, recorder.clone()));
            }
        }
        match self.pace {
            Pace::Closed(count) => {
                let callers = self.mode.callers(count, self.connection_count);
                let mut payer_count = 0;
                for (index, size) in callers.into_iter().enumerate() {
                    let calls = calls()?.of_others(payer_count, size);
                    payer_count += size;
                    let (client, recorder) = (client(index), recorder.clone());
                    match self.mode {
                        Mode::Stream => {
                            let feed = Feed::Window(size);
                            senders.spawn(stream(client, calls, feed, recorder))
                        }
                        mode => senders.spawn(call(client, calls, mode.batch_size(), recorder)),
                    };
                }
            }
            Pace::Open(rate) if self.mode == Mode::Stream => {
                for (index, client) in clients.iter().enumerate() {
                    let schedule = Schedule::part(rate as f64, index, clients.len());
                    let (calls, feed) = (calls()?, Feed::Due(schedule));
                    senders.spawn(stream(client.clone(), calls, feed, recorder.clone()));
                }
            }
            Pace::Open(rate) => {
                let batch_size = self.mode.batch_size();
                for index in 0..OPEN_SENDER_COUNT {
                    let rate = rate as f64 / batch_size.unwrap_or(1) as f64;
                    let schedule = Schedule::part(rate, index, OPEN_SENDER_COUNT);
                    // Each begins with another connection, since all of them begin at about the same time.
                    let (mut clients, calls) = (clients.clone(), calls()?);
                    clients.rotate_left(index % self.connection_count);
                    senders.spawn(open(clients, calls, batch_size, recorder.clone(), schedule));
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

async fn passing(duration: Duration, watch: &mut impl Watch) {
    let end = Instant::now() + duration;
    let mut next = Instant::now();
    while next < end {
        next = end.min(next + Duration::from_secs(1));
        sleep_until(next).await;
        watch.second();
    }
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
}
