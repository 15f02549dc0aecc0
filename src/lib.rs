//! Ballast keeps balances: debit, credit and transfer money over gRPC, exactly once, on PostgreSQL.
//!
//! A request walks through the rooms in one line, and the arrows point one way:
//! `main → server → rpc → batcher → store → domain`.

pub mod batcher;
#[cfg(feature = "harness")]
pub mod bench;
pub mod cli;
pub mod domain;
pub mod embedded;
#[cfg(feature = "harness")]
mod harness;
pub mod output;
pub mod rpc;
pub mod server;
pub mod stop;
pub mod store;
#[cfg(feature = "harness")]
pub mod stress;
