//! What every test needs: a database of its own, a Ballast on it, and words to call it and to judge its answers.

pub mod binary;
pub mod calls;
pub mod cards;
pub mod doubts;
pub mod errors;
pub mod frames;
pub mod instance;
pub mod patient;
pub mod postgres;
pub mod recovering;
pub mod web;

pub use calls::*;
pub use errors::Rejection;
pub use instance::Ballast;
pub use patient::{patient, patient_with_accounts, patient_with_cards, within};

/// How long a test waits for what has to come: long on a busy machine, and not for ever.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(180);

/// What `future` brings, if it does so within [`PATIENCE`].
pub async fn within_reason<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, future).await;
    waited.unwrap_or_else(|_| panic!("{what} never comes"))
}
