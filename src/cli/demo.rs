//! Demo accounts: something to try the service on right after the first start. Only in an embedded database that holds
//! nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::error::CliError;
use crate::domain::{
    AccountId, Amount, BalanceKey, Category, Command, Currency, Movement, Note, OperationId,
    Outcome, OwnerId,
};
use crate::store::{AccountSpec, Created, Job, Ledger, Locking, Store, StoreError, Verdict};

/// The account that has money.
pub(super) const RICH: &str = "alice";
/// The account that has none.
pub(super) const POOR: &str = "bob";
const CURRENCY: &str = "EUR";
const MINOR_UNITS: i64 = 10_000;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Makes the demo accounts if the database has no account at all. True if they are there and one has got its money, from now
/// or from before.
pub(super) async fn seed(store: &Store) -> Result<bool, CliError> {
    let requests = store.before(Instant::now() + TIMEOUT);
    if requests.has_accounts().await? {
        // An earlier start may have ended between the accounts and the credit. A credit that cannot be read is no reason not
        // to start.
        let ids = [RICH, POOR].map(AccountId::from_stored);
        let opening = requests.get_operation(opening_id()).await;
        let is_posted =
            matches!(opening, Ok(Some(opening)) if matches!(opening.outcome, Outcome::Posted(_)));
        return Ok(is_posted && requests.get_accounts(ids.into()).await?.len() == 2);
    }
    let Ok(currency) = Currency::new(CURRENCY) else {
        return Ok(false);
    };
    let Ok(amount) = Amount::new(MINOR_UNITS) else {
        return Ok(false);
    };
    for name in [RICH, POOR] {
        let spec = AccountSpec {
            account_id: AccountId::from_stored(name),
            owner_id: OwnerId::from_stored(name),
            currency,
            settlement: true,
            labels: BTreeMap::from([("demo".to_owned(), "true".to_owned())]),
            limits: Vec::new(),
        };
        match requests.create_account(spec).await? {
            Created::Account { .. } => {}
            other => {
                let cause = format!("the demo account {name} could not be opened: {other:?}");
                return Err(StoreError::Corrupt(cause).into());
            }
        }
    }
    let destination = BalanceKey {
        account_id: AccountId::from_stored(RICH),
        category: Category::main(),
    };
    let command = Command::of_movement(
        opening_id(),
        Movement::Credit { destination },
        (amount, currency),
        Note {
            description: "opening balance of the demo".to_owned(),
            metadata: BTreeMap::new(),
        },
    );
    let deadline = Instant::now() + TIMEOUT;
    let job = Job::new(Arc::new(command), Arc::default(), deadline);
    match &store.execute(&[job], Locking::Skip).await?[..] {
        // Posted now, or by an earlier attempt.
        [Verdict::Decided(Ok(_receipt))] => Ok(true),
        other => {
            let cause = format!("the opening credit of the demo was answered {other:?}");
            Err(StoreError::Corrupt(cause).into())
        }
    }
}

/// The id of the credit.
fn opening_id() -> OperationId {
    OperationId::from_stored("demo-opening")
}
