//! Demo accounts: something to try the service on right after the first start. Only in an embedded database that holds
//! nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::CliError;
use crate::domain::{
    AccountId, Amount, BalanceKey, Category, Claim, Command, Currency, Movement, Note, OperationId,
    OwnerId,
};
use crate::store::{AccountSpec, Job, Ledger, Locking, Store, StoreError, Verdict};

/// The account that has money.
pub(super) const RICH: &str = "alice";
/// The account that has none.
pub(super) const POOR: &str = "bob";
const CURRENCY: &str = "EUR";
const MINOR_UNITS: i64 = 10_000;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Makes the demo accounts if the database has no account at all. True if they are there, from now or from before.
pub(super) async fn seed(store: &Store) -> Result<bool, CliError> {
    let requests = store.before(Instant::now() + TIMEOUT);
    if requests.has_accounts().await? {
        let ids = [RICH, POOR].map(AccountId::from_stored);
        return Ok(requests.get_accounts(ids.into()).await?.len() == 2);
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
        requests.create_account(spec).await?;
    }
    let destination = BalanceKey {
        account_id: AccountId::from_stored(RICH),
        category: Category::main(),
    };
    let command = Command::of_movement(
        OperationId::from_stored("demo-opening"),
        Movement::Credit { destination },
        (amount, currency),
        Note {
            description: "opening balance of the demo".to_owned(),
            metadata: BTreeMap::new(),
        },
    );
    let job = Job {
        command: Arc::new(command),
        claim: Arc::<Claim>::default(),
        deadline: Instant::now() + TIMEOUT,
    };
    match &store.execute(&[job], Locking::Skip).await?[..] {
        [Verdict::Decided(Ok(_))] => Ok(true),
        other => {
            let cause = format!("the opening credit of the demo was answered {other:?}");
            Err(StoreError::Corrupt(cause).into())
        }
    }
}
