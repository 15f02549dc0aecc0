//! What every test needs: a database of its own, a Ballast on it, and words to call it and to judge its answers.

pub mod binary;
pub mod calls;
pub mod cards;
pub mod errors;
pub mod instance;
pub mod patient;
pub mod postgres;

pub use calls::*;
pub use errors::Rejection;
pub use instance::Ballast;
pub use patient::{patient, patient_with_accounts, within};
