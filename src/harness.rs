//! The harness: what the benchmark and the stress tool have in common. It starts servers and a PostgreSQL for them, opens
//! accounts with money, calls as a client should, and reads what processes use.

mod accounts;
mod client;
mod error;
mod latency;
mod postgres;
mod process;
mod progress;
mod served;

pub(crate) use accounts::{Accounts, CURRENCY, eur, posted};
pub(crate) use client::{CallError, Dialer, Judgement, judge, may_repeat, pause};
pub use error::HarnessError;
pub(crate) use latency::{histogram, micros};
pub(crate) use postgres::{until_stopped, with_embedded};
pub(crate) use process::{MachineTime, ProcessUse, cpu_model};
pub(crate) use progress::progress_bar;
pub(crate) use served::{Served, serve_command, this_binary};
