//! Requests: proto in, valid values out. All violations of a request are found before any is reported.

mod account_changes;
mod accounts;
mod movements;
mod post;
mod reads;
mod reverse;

use super::violations::Violations;
use crate::domain::BalanceKey;

pub use account_changes::*;
pub use accounts::*;
pub use movements::*;
pub use post::post;
pub use reads::*;
pub use reverse::{Reverse, reverse};

fn balance_key(
    violations: &mut Violations,
    account_id: &str,
    category: &str,
) -> Option<BalanceKey> {
    let account_id = violations.account_id("account_id", account_id);
    let category = violations.category("category", category);
    account_id
        .zip(category)
        .map(|(account_id, category)| BalanceKey {
            account_id,
            category,
        })
}
