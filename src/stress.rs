//! The stress tool: very many connections at once, random transfers among few accounts, and proof at the end that no
//! money came or went. It uses nothing but the public API, so it can be pointed at any Ballast, or at several that share
//! a database.
//!
//! A process may only have so many files open, and each connection is one. So the connections are opened by client
//! processes of their own, as many as that limit needs; this one opens the accounts, starts the clients together, and
//! judges the result.

mod clients;
mod error;
mod plan;
mod report;
mod run;
mod tally;
mod worker;

pub use error::StressError;
pub use plan::Plan;
pub use report::Report;
pub use run::run;
pub use worker::work;
