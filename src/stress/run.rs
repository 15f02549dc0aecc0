//! A stress run: starts what it needs, lets the clients transfer, and reads the accounts afterwards.

use std::net::SocketAddr;

use indicatif::ProgressBar;
use tokio::time::Instant;

use super::clients::{Clients, process_count};
use super::error::StressError;
use super::plan::{OPENING_MINOR_UNITS, Plan};
use super::report::Report;
use crate::harness::{
    Accounts, Dialer, ProcessUse, Served, progress_bar, serve_command, this_binary, until_stopped,
    with_embedded,
};
use crate::stop::Stop;

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
            let command = serve_command(this_binary()?, &plan.serve);
            servers.push(Served::start("ballast", command, &embedded.database_url()).await?);
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

async fn run_on(
    plan: &Plan,
    addresses: Vec<SocketAddr>,
    servers: &[Served],
) -> Result<Report, StressError> {
    let accounts = Accounts::of_new_run("stress", plan.account_count);
    let channel = Dialer::new(&addresses, 0).channel().await?;
    accounts.open(&channel, OPENING_MINOR_UNITS, || {}).await?;

    let mut clients = Clients::start(plan, accounts.name(), &addresses)?;
    let asked = Instant::now();
    let bar = counter(plan.connection_count, "connections open");
    clients.until_open(&bar).await?;
    bar.finish_and_clear();
    let (opened_in, memory_before) = (asked.elapsed(), memory(servers));
    crate::output::say(format_args!(
        "{} connections are open",
        plan.connection_count
    ));

    let started = Instant::now();
    let bar = counter(plan.transfer_count, "transfers done");
    let (tally, memory_after) = {
        let tally = clients.until_done(&bar).await?;
        (tally, memory(servers))
    };
    let took = started.elapsed();
    bar.finish_and_clear();
    // Every connection was open until here.
    let client_count = clients.count();
    clients.end().await;

    let mut read = Vec::new();
    accounts
        .read(&channel, |account| read.push(account))
        .await?;
    Ok(Report {
        plan: plan.clone(),
        run: accounts.name().to_owned(),
        address_count: addresses.len(),
        client_count,
        is_own: !servers.is_empty(),
        opened_in,
        took,
        memory: memory_before.max(memory_after),
        tally,
        accounts: read,
    })
}

/// The resident memory of the servers together, in bytes.
fn memory(servers: &[Served]) -> u64 {
    let pids = servers.iter().filter_map(Served::pid);
    pids.map(|pid| ProcessUse::of(pid).rss_bytes).sum()
}

fn counter(length: u64, what: &str) -> ProgressBar {
    let template = "{bar:30} {pos}/{len} {msg}, {elapsed}";
    progress_bar(length, template).with_message(what.to_owned())
}
