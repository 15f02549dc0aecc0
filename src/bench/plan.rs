//! The plan of a benchmark: what is measured, and what is compared.

use std::path::PathBuf;
use std::time::Duration;

use super::baseline::BaselineConfig;
use super::build::Build;
use super::mode::AskedMode;
use super::operation_ids::OperationIds;
use super::pace::Pace;
use super::scenario::Scenario;
use super::table_size::TableSize;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the requests are about; each is measured on its own.
    pub scenarios: Vec<Scenario>,
    /// How fast the requests come; each is measured on its own. If there is none: a closed loop, with as many in flight as is
    /// usual for the scenario.
    pub paces: Vec<Pace>,
    /// By which RPC they come; each is measured on its own.
    pub modes: Vec<AskedMode>,
    /// What operation ids look like, but for those of pgbench.
    pub operation_ids: OperationIds,
    /// How often each variant is measured under each load.
    pub rounds: u32,
    /// How long it is measured in each round.
    pub duration: Duration,
    /// How long it runs in each round before it is measured.
    pub warmup: Duration,
    /// What the ledgers begin with; each is measured on its own.
    pub tables: Vec<TableSize>,
    /// How many entries the account of [`Scenario::History`] has.
    pub history_entry_count: u64,
    /// How many TCP connections the client opens.
    pub connection_count: usize,
    /// What is compared.
    pub variants: Vec<Variant>,
    /// How many processes serve each ballast that is measured, on one database.
    pub instance_count: usize,
    /// Where PostgreSQL is.
    pub database: Database,
    /// Whether every round begins with a checkpoint.
    pub checkpoint: bool,
    /// Whether every ledger is verified after its last round.
    pub verify: bool,
}

/// One of the servers that are compared.
#[derive(Debug, Clone)]
pub enum Variant {
    /// This ballast, with these extra arguments of `ballast serve`.
    Ballast(Vec<String>),
    /// Another build of ballast.
    Build(Build),
    /// Something else behind the same gRPC method.
    Baseline(BaselineConfig),
    /// What runs at [`Database::Elsewhere`].
    Target,
}

/// The PostgreSQL of a benchmark.
#[derive(Debug, Clone)]
pub enum Database {
    /// A private one, in this folder; in a temporary one if `None`.
    Embedded(Option<PathBuf>),
    /// This server; its role may create databases.
    Named(String),
    /// That of the server that runs at this HOST:PORT; nothing is known of it.
    Elsewhere(String),
}

impl Variant {
    /// How the report calls it.
    pub fn name(&self) -> String {
        match self {
            Self::Ballast(arguments) if arguments.is_empty() => "ballast".to_owned(),
            Self::Ballast(arguments) => format!("ballast {}", arguments.join(" ")),
            Self::Build(build) => build.name().to_owned(),
            Self::Baseline(config) => config.baseline.name().to_owned(),
            Self::Target => "target".to_owned(),
        }
    }
}

impl Plan {
    /// How the names of its databases begin.
    pub(super) fn database_prefix(&self) -> String {
        match self.database {
            // Nobody else is on it: what a killed run left behind is found by its name, and dropped.
            Database::Embedded(_) => "ballast_bench".to_owned(),
            // Another benchmark may run on it.
            _ => format!("ballast_bench_{}", std::process::id()),
        }
    }
}
