//! The stress tool: very many connections at once, random transfers among few accounts, and proof at the end that no
//! money came or went. It uses nothing but the public API, so it can be pointed at any Ballast, or at several that share
//! a database.
//!
//! A process may only have so many files open, and each connection is one. So the connections are opened by client
//! processes of their own, as many as that limit needs; this one opens the accounts, starts the clients together, and
//! judges the result.

mod client;
mod report;
mod worker;

pub use report::Report;
pub use worker::work;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::resource::{Resource, getrlimit};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;

use crate::bench::{BenchError, Served, Variant, rss_bytes, until_stopped, with_embedded};
use crate::rpc::proto::account_service_client::AccountServiceClient;
use crate::rpc::proto::balance_service_client::BalanceServiceClient;
use crate::rpc::proto::{
    Account, BatchGetAccountsRequest, CreateAccountRequest, CreditRequest, Money,
};
use crate::stop::Stop;
use client::Dialer;
use worker::{Message, Tally};

/// What each account begins with, in minor units: little enough that some transfers are refused.
const OPENING_MINOR_UNITS: i64 = 1_000;
const CURRENCY: &str = "EUR";
/// Files that a process has open in addition to its connections.
const OTHER_FILES: u64 = 500;
/// The most accounts of one BatchGetAccounts.
const READ_AT_ONCE: usize = 1000;
/// How many accounts are opened at the same time.
const OPEN_AT_ONCE: usize = 32;

/// What to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The servers, as HOST:PORT; all on one database. Empty: start some, on a private PostgreSQL.
    pub targets: Vec<String>,
    /// How many connections are open at once.
    pub connection_count: u64,
    /// How many transfers are sent, over all connections alike.
    pub transfer_count: u64,
    /// Among how many accounts.
    pub account_count: u64,
    /// Arguments of `ballast serve`, for servers that are started.
    pub serve: Vec<String>,
}

/// Why a run has no result.
#[derive(Debug, thiserror::Error)]
pub enum StressError {
    /// A server or a database could not be started.
    #[error(transparent)]
    Start(#[from] BenchError),
    /// A target is no address.
    #[error("target {target}: {cause}; write it like 127.0.0.1:50051")]
    Target {
        /// As it was given.
        target: String,
        /// What is wrong with it.
        cause: std::io::Error,
    },
    /// An account could not be opened or read.
    #[error("{0}")]
    Call(#[from] client::CallError),
    /// A client process could not do its part.
    #[error("a client process gave up: {0}")]
    Client(String),
    /// A process or its pipe.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// The part of a run that one client process has.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Part {
    run: String,
    addresses: Vec<SocketAddr>,
    /// The first of its connections among those of all clients, and how many it has.
    connection_first: u64,
    connection_count: u64,
    /// How many connections and transfers the whole run has.
    connection_total: u64,
    transfer_total: u64,
    account_count: u64,
}

/// Runs the plan. Progress goes to stderr. When `stop` is asked the run ends without a result, and leaves nothing
/// running.
pub async fn run(plan: &Plan, stop: &Stop) -> Result<Report, StressError> {
    if !plan.targets.is_empty() {
        let running = async { run_on(plan, addresses(&plan.targets).await?, &[]).await };
        return until_stopped(stop, running).await;
    }
    with_embedded(None, stop, async |embedded| {
        let mut servers = Vec::new();
        for _ in 0..process_count(plan.connection_count) {
            let variant = Variant::Ballast(plan.serve.clone());
            servers.push(Served::start(&variant, &embedded.database_url()).await?);
        }
        let addresses = servers.iter().map(Served::address).collect();
        let report = run_on(plan, addresses, &servers).await;
        for server in servers {
            server.stop().await;
        }
        report
    })
    .await
}

async fn addresses(targets: &[String]) -> Result<Vec<SocketAddr>, StressError> {
    let mut addresses = Vec::new();
    for target in targets {
        let failed = |cause| StressError::Target {
            target: target.clone(),
            cause,
        };
        let mut found = tokio::net::lookup_host(target).await.map_err(failed)?;
        let nothing = || failed(std::io::Error::other("there is no such host"));
        addresses.push(found.next().ok_or_else(nothing)?);
    }
    Ok(addresses)
}

/// How many processes it takes to have so many connections, each of which is a file.
fn process_count(connection_count: u64) -> u64 {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    let per_process = files.saturating_sub(OTHER_FILES).max(1);
    connection_count.div_ceil(per_process)
}

async fn run_on(
    plan: &Plan,
    addresses: Vec<SocketAddr>,
    servers: &[Served],
) -> Result<Report, StressError> {
    let run = format!("stress-{:016x}", rand::rng().random::<u64>());
    let channel = Dialer::new(&addresses, 0).channel().await?;
    open_accounts(&channel, &run, plan.account_count).await?;

    let mut clients = Clients::start(plan, &run, &addresses)?;
    let asked = Instant::now();
    let bar = progress_bar(plan.connection_count, "connections open");
    clients.until_open(&bar).await?;
    bar.finish_and_clear();
    let (opened_in, memory) = (asked.elapsed(), memory(servers));
    crate::output::say(format_args!(
        "{} connections are open",
        plan.connection_count
    ));

    let started = Instant::now();
    let bar = progress_bar(plan.transfer_count, "transfers done");
    let (tally, memory_after) = {
        let tally = clients.until_done(&bar).await?;
        (tally, self::memory(servers))
    };
    let took = started.elapsed();
    bar.finish_and_clear();
    // Every connection was open until here.
    let client_count = clients.children.len();
    clients.end().await;

    let accounts = read_accounts(&channel, &run, plan.account_count).await?;
    Ok(Report {
        plan: plan.clone(),
        run,
        address_count: addresses.len(),
        client_count,
        is_own: !servers.is_empty(),
        opened_in,
        took,
        memory: memory.max(memory_after),
        tally,
        accounts,
    })
}

/// The resident memory of the servers together, in bytes.
fn memory(servers: &[Served]) -> u64 {
    servers.iter().filter_map(Served::pid).map(rss_bytes).sum()
}

fn progress_bar(length: u64, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}, {elapsed}");
    let bar = ProgressBar::new(length).with_message(what.to_owned());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// The id of an account of a run.
fn account_id(run: &str, index: u64) -> String {
    format!("{run}-{index}")
}

fn eur(minor_units: i64) -> Option<Money> {
    Some(Money {
        currency_code: CURRENCY.to_owned(),
        minor_units,
    })
}

async fn open_accounts(channel: &Channel, run: &str, count: u64) -> Result<(), client::CallError> {
    let open = |index| async move {
        let account_id = account_id(run, index);
        let request = CreateAccountRequest {
            account_id: account_id.clone(),
            owner_id: run.to_owned(),
            currency_code: CURRENCY.to_owned(),
            ..CreateAccountRequest::default()
        };
        client::until_known(|| {
            let (mut accounts, request) =
                (AccountServiceClient::new(channel.clone()), request.clone());
            async move { accounts.create_account(request).await }
        })
        .await?;
        let request = CreditRequest {
            operation_id: format!("{account_id}-opening"),
            account_id,
            amount: eur(OPENING_MINOR_UNITS),
            ..CreditRequest::default()
        };
        client::until_known(|| {
            let (mut balances, request) =
                (BalanceServiceClient::new(channel.clone()), request.clone());
            async move { balances.credit(request).await }
        })
        .await
        .map(drop)
    };
    stream::iter(0..count)
        .map(open)
        .buffer_unordered(OPEN_AT_ONCE)
        .try_collect()
        .await
}

async fn read_accounts(
    channel: &Channel,
    run: &str,
    count: u64,
) -> Result<Vec<Account>, client::CallError> {
    let account_ids: Vec<String> = (0..count).map(|index| account_id(run, index)).collect();
    let mut accounts = Vec::new();
    for account_ids in account_ids.chunks(READ_AT_ONCE) {
        let response = client::until_known(|| {
            let account_ids = account_ids.to_vec();
            let mut accounts = AccountServiceClient::new(channel.clone());
            async move {
                let request = BatchGetAccountsRequest { account_ids };
                accounts.batch_get_accounts(request).await
            }
        });
        accounts.extend(response.await?.into_inner().accounts);
    }
    Ok(accounts)
}

/// The client processes, and what they say.
struct Clients {
    children: Vec<(Child, ChildStdin)>,
    messages: mpsc::Receiver<(usize, Message)>,
    opened: Vec<u64>,
    done: Vec<u64>,
}

impl Clients {
    fn start(plan: &Plan, run: &str, addresses: &[SocketAddr]) -> Result<Self, StressError> {
        let count = process_count(plan.connection_count);
        let (sender, messages) = mpsc::channel(64);
        let mut children = Vec::new();
        for index in 0..count {
            let first = plan.connection_count * index / count;
            let part = Part {
                run: run.to_owned(),
                addresses: addresses.to_vec(),
                connection_first: first,
                connection_count: plan.connection_count * (index + 1) / count - first,
                connection_total: plan.connection_count,
                transfer_total: plan.transfer_count,
                account_count: plan.account_count,
            };
            let part = serde_json::to_string(&part).map_err(std::io::Error::other)?;
            let mut child = Command::new(std::env::current_exe()?)
                .args(["stress-client", &part])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            let pipes = child.stdin.take().zip(child.stdout.take());
            let (stdin, stdout) = pipes.ok_or_else(|| std::io::Error::other("no pipes"))?;
            let (sender, number) = (sender.clone(), children.len());
            tokio::spawn(async move {
                let mut lines = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let message = serde_json::from_str(&line)
                        .unwrap_or_else(|error| Message::Failed(format!("{error}: {line}")));
                    if sender.send((number, message)).await.is_err() {
                        return;
                    }
                }
                let ended = Message::Failed("it ended before its work".to_owned());
                // Nobody listens any more if it had finished.
                let _unheard = sender.send((number, ended)).await;
            });
            children.push((child, stdin));
        }
        let zeros = vec![0; children.len()];
        Ok(Self {
            children,
            messages,
            opened: zeros.clone(),
            done: zeros,
        })
    }

    /// The next final word of a client; what it says before only moves the numbers.
    async fn next(&mut self) -> Result<Option<Tally>, StressError> {
        let gone = || StressError::Client("nobody is left".to_owned());
        let (number, message) = self.messages.recv().await.ok_or_else(gone)?;
        match message {
            Message::Progress { opened, done } => {
                (self.opened[number], self.done[number]) = (opened, done);
                Ok(None)
            }
            Message::Finished(tally) => Ok(Some(*tally)),
            Message::Failed(cause) => Err(StressError::Client(cause)),
        }
    }

    async fn until_open(&mut self, bar: &ProgressBar) -> Result<(), StressError> {
        while self.opened.iter().sum::<u64>() < bar.length().unwrap_or(0) {
            self.next().await?;
            bar.set_position(self.opened.iter().sum());
        }
        Ok(())
    }

    /// Tells all clients to begin, and adds up what they found.
    async fn until_done(&mut self, bar: &ProgressBar) -> Result<Tally, StressError> {
        for (_, stdin) in &mut self.children {
            stdin.write_all(b"go\n").await?;
        }
        let (mut tally, mut finished) = (Tally::default(), 0);
        while finished < self.children.len() {
            if let Some(part) = self.next().await? {
                tally.add(part);
                finished += 1;
            }
            bar.set_position(self.done.iter().sum());
        }
        Ok(tally)
    }

    /// Lets the clients close their connections.
    async fn end(self) {
        for (mut child, stdin) in self.children {
            drop(stdin);
            let _status = child.wait().await;
        }
    }
}

/// How long a call may take before it is given up and repeated.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// A result of the API.
type Answered<T> = Result<tonic::Response<T>, Status>;
