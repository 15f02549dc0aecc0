//! Limits: what a client may do to the server.

use std::time::Duration;

use crate::rpc::answer_budget::BudgetLimits;

/// What a client may do to the server by what it sends, cancels or does not read. The defaults are what real clients and
/// proxies never meet; tests choose others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkLimits {
    /// How long a connection may take to begin: with the preface and the settings of HTTP/2, or with the headers of an
    /// HTTP/1.1 request.
    pub greeting_timeout: Duration,
    /// How many requests in a second a connection may cancel before they are answered. Whoever cancels more is read from
    /// more slowly.
    pub abandoned_per_second_max: u32,
    /// How many bytes of answers may be in memory.
    pub answer_budget: BudgetLimits,
    /// How long a client may leave more than 64 KiB of answers unread.
    pub unread_timeout: Duration,
    /// The same for any unread answer while three quarters of the process's budget are used.
    pub unread_timeout_crowded: Duration,
}

impl Default for NetworkLimits {
    fn default() -> Self {
        Self {
            greeting_timeout: Duration::from_secs(30),
            abandoned_per_second_max: 5_000,
            answer_budget: BudgetLimits::default(),
            unread_timeout: Duration::from_secs(60),
            unread_timeout_crowded: Duration::from_secs(5),
        }
    }
}
