//! The benchmark: the instrument that proves or refutes what the README claims.
//!
//! Client, server and PostgreSQL are separate processes that speak over TCP and a unix socket, as in real life. What is
//! compared runs alternately in one run, because machines are noisy: in every round every variant is measured once, each
//! on a database of its own on the same PostgreSQL. After its last round each ledger is verified.

#[expect(
    clippy::disallowed_methods,
    reason = "what is compared is written the usual way"
)]
mod baseline;
mod build;
mod cell;
mod environment;
mod error;
mod ledger;
mod load;
mod mode;
mod notes;
mod operation_ids;
mod pace;
mod page;
mod pgbench;
mod plan;
mod plot;
mod report;
mod round;
mod run;
mod running;
mod scenario;
mod table_size;
mod tables;
mod target;
mod usage;

pub use baseline::{Baseline, BaselineConfig, serve as serve_baseline};
pub use build::Build;
pub use error::BenchError;
pub use mode::{AskedMode, Mode};
pub use operation_ids::OperationIds;
pub use pace::Pace;
pub use page::Page;
pub use plan::{Database, Plan, Variant};
pub use report::Report;
pub use run::run;
pub use scenario::{LockedPayers, Merchant, Scenario};
pub use table_size::TableSize;
