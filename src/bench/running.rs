//! A variant that runs: its ledger, and what serves it.

use std::sync::Arc;

use tokio::process::Command;
use tonic::transport::Endpoint;

use super::baseline::{Baseline, BaselineConfig};
use super::error::BenchError;
use super::ledger::{HeldLocks, Ledger, Preload, Tables};
use super::load::{LongAccount, Measured};
use super::pgbench::Pgbench;
use super::plan::{Database, Plan, Variant};
use super::scenario::Scenario;
use super::table_size::TableSize;
use super::target::Target;
use crate::embedded::Embedded;
use crate::harness::{Accounts, Served, progress_bar, serve_command, this_binary};
use crate::rpc::proto::balance_service_client::BalanceServiceClient;

/// A variant that runs on a ledger of its own.
pub(super) struct Running {
    variant: Variant,
    table: TableSize,
    kind: Kind,
    long_account: Option<Arc<LongAccount>>,
}

enum Kind {
    /// One process, or several on one database.
    Server {
        ledger: Ledger,
        served: Vec<Served>,
    },
    Pgbench {
        ledger: Ledger,
        pgbench: Pgbench,
    },
    Target(Box<Target>),
}

impl Running {
    /// Makes the ledger and starts the server.
    pub(super) async fn start(
        plan: &Plan,
        variant: &Variant,
        table: TableSize,
        database: &str,
        embedded: Option<&Embedded>,
    ) -> Result<Self, BenchError> {
        let build = match variant {
            Variant::Build(build) => Some(build),
            _ => None,
        };
        let is_ballast = build.is_some() || matches!(variant, Variant::Ballast(_));
        let has_history = plan.scenarios.contains(&Scenario::History) && is_ballast;
        let preload = Preload {
            table,
            history_entry_count: if has_history {
                plan.history_entry_count
            } else {
                0
            },
        };
        let template = "{bar:30} {elapsed} {human_pos} of {human_len}  {msg}";
        let bar = progress_bar(preload.step_count(), template);
        bar.set_message(format!("loading the ledger of {}, {table}", variant.name()));
        let admin_url = match (&plan.database, embedded) {
            (Database::Elsewhere(address), _) => {
                bar.set_length(table.account_count);
                let target = Target::prepare(address, table.account_count, &bar).await?;
                bar.finish_and_clear();
                return Ok(Self {
                    variant: variant.clone(),
                    table,
                    kind: Kind::Target(Box::new(target)),
                    long_account: None,
                });
            }
            (Database::Named(url), _) => url.clone(),
            (Database::Embedded(_), Some(embedded)) => embedded.database_url(),
            (Database::Embedded(_), None) => {
                return Err(BenchError::Database("it was not started".to_owned()));
            }
        };
        let tables = match variant {
            Variant::Baseline(_) => Tables::Usual,
            Variant::Ballast(_) | Variant::Build(_) | Variant::Target => Tables::Ballast,
        };
        let schema = (tables, build);
        let ledger = Ledger::create(&admin_url, database, schema, &preload, &bar).await?;
        bar.finish_and_clear();
        let kind = match variant {
            Variant::Baseline(BaselineConfig {
                baseline: Baseline::Pgbench,
                connection_count,
            }) => {
                let program = embedded.map(|embedded| embedded.program("pgbench"));
                let pgbench = Pgbench::install(program, *connection_count, &ledger).await?;
                Kind::Pgbench { ledger, pgbench }
            }
            _ => {
                let count = if is_ballast { plan.instance_count } else { 1 };
                let mut served = Vec::new();
                for _ in 0..count {
                    let command = command(variant)?;
                    served.push(Served::start(&variant.name(), command, ledger.url()).await?);
                }
                Kind::Server { ledger, served }
            }
        };
        Ok(Self {
            variant: variant.clone(),
            table,
            kind,
            long_account: None,
        })
    }

    pub(super) fn variant(&self) -> &Variant {
        &self.variant
    }

    pub(super) fn name(&self) -> String {
        self.variant.name()
    }

    pub(super) fn table(&self) -> TableSize {
        self.table
    }

    pub(super) fn database_url(&self) -> Option<&str> {
        self.ledger().map(Ledger::url)
    }

    /// Its ledger, if its database is ours.
    pub(super) fn ledger(&self) -> Option<&Ledger> {
        match &self.kind {
            Kind::Server { ledger, .. } | Kind::Pgbench { ledger, .. } => Some(ledger),
            Kind::Target(_) => None,
        }
    }

    /// The processes that serve it.
    pub(super) fn server_pids(&self) -> Vec<i32> {
        match &self.kind {
            Kind::Server { served, .. } => served.iter().filter_map(Served::pid).collect(),
            Kind::Pgbench { .. } | Kind::Target(_) => Vec::new(),
        }
    }

    /// Of each of its processes that serve.
    pub(super) fn endpoints(&self) -> Result<Vec<Endpoint>, BenchError> {
        let endpoint = |served: &Served| {
            let uri = format!("http://{}", served.address());
            Endpoint::from_shared(uri).map_err(|error| BenchError::Database(error.to_string()))
        };
        match &self.kind {
            Kind::Server { served, .. } => served.iter().map(endpoint).collect(),
            Kind::Target(target) => Ok(vec![target.endpoint().clone()]),
            Kind::Pgbench { .. } => Ok(Vec::new()),
        }
    }

    /// Locks these balances, if it has a ledger.
    pub(super) async fn lock_balances(
        &self,
        ids: &[String],
    ) -> Result<Option<HeldLocks>, BenchError> {
        match self.ledger() {
            Some(ledger) => Ok(Some(ledger.lock_balances(ids).await?)),
            None => Ok(None),
        }
    }

    pub(super) fn accounts(&self) -> &Accounts {
        match &self.kind {
            Kind::Target(target) => target.accounts(),
            Kind::Server { ledger, .. } | Kind::Pgbench { ledger, .. } => ledger.accounts(),
        }
    }

    /// pgbench with its ledger, if this is the baseline that it runs.
    pub(super) fn pgbench(&self) -> Option<(&Ledger, &Pgbench)> {
        match &self.kind {
            Kind::Pgbench { ledger, pgbench } => Some((ledger, pgbench)),
            Kind::Server { .. } | Kind::Target(_) => None,
        }
    }

    /// Keeps the books of a target, whose money is counted at the end.
    pub(super) fn book(&mut self, measured: &Measured) {
        if let Kind::Target(target) = &mut self.kind {
            target.book(measured);
        }
    }

    /// Stops the server, verifies the ledger if asked to, and drops it.
    pub(super) async fn finish(self, verify: bool) -> Result<(), BenchError> {
        let name = self.name();
        let ledger = match self.kind {
            Kind::Server { ledger, served } => {
                for served in served {
                    served.stop().await;
                }
                ledger
            }
            Kind::Pgbench { ledger, .. } => ledger,
            Kind::Target(target) => {
                return match verify {
                    true => target.verify(&name).await,
                    false => Ok(()),
                };
            }
        };
        if verify {
            let bar = progress_bar(1, "{spinner} {elapsed}  {msg}");
            bar.enable_steady_tick(std::time::Duration::from_millis(200));
            bar.set_message(format!("verifying the ledger of {name}, {}", self.table));
            let verified = match &self.variant {
                Variant::Build(build) => build.verify(ledger.url()).await,
                _ => ledger.verify(&name).await,
            };
            bar.finish_and_clear();
            verified?;
        }
        ledger.drop().await
    }

    /// The tokens of the long account's last pages, which stay the same: nothing is added to it.
    pub(super) async fn long_account(
        &mut self,
        entry_count: u64,
    ) -> Result<Arc<LongAccount>, BenchError> {
        if let Some(known) = &self.long_account {
            return Ok(known.clone());
        }
        let failed = |why: &str| {
            BenchError::server(self.name(), format!("its history cannot be read: {why}"))
        };
        let endpoint = self.endpoints()?.into_iter().next();
        let channel = endpoint
            .ok_or_else(|| failed("it serves nothing"))?
            .connect_lazy();
        let walked = LongAccount::walk(BalanceServiceClient::new(channel), entry_count).await;
        let walked = walked.map_err(|status| failed(status.message()))?;
        Ok(self.long_account.insert(Arc::new(walked)).clone())
    }
}

/// The command that serves a variant.
fn command(variant: &Variant) -> Result<Command, BenchError> {
    Ok(match variant {
        Variant::Ballast(arguments) => serve_command(this_binary()?, arguments),
        Variant::Build(build) => serve_command(Command::new(build.path()), &[]),
        Variant::Baseline(config) => {
            let mut command = this_binary()?;
            command
                .args(["bench-baseline", config.baseline.name()])
                .args(["--connections", &config.connection_count.to_string()]);
            command
        }
        Variant::Target => {
            return Err(BenchError::server(variant.name(), "it runs somewhere else"));
        }
    })
}
