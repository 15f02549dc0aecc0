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

/// What `future` brings. It may take long on a busy machine, and not for ever.
pub async fn within_reason<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(std::time::Duration::from_secs(60), future).await;
    waited.unwrap_or_else(|_| panic!("{what} never comes"))
}
