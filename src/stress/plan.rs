//! The plan of a stress run, and the part of it that one client process has.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What each account begins with, in minor units: little enough that some transfers are refused.
pub(super) const OPENING_MINOR_UNITS: i64 = 1_000;

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

/// The part of a run that one client process has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Part {
    /// The name of the accounts, which operation ids begin with too.
    pub(super) run: String,
    pub(super) addresses: Vec<SocketAddr>,
    /// The first of its connections among those of all clients, and how many it has.
    pub(super) connection_first: u64,
    pub(super) connection_count: u64,
    /// How many connections and transfers the whole run has.
    pub(super) connection_total: u64,
    pub(super) transfer_total: u64,
    pub(super) account_count: u64,
}
