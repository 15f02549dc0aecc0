//! Neighbours: somebody outside holds rows or ids for long, or the database rejects what one account does. Those who need
//! it wait or hear of it, and nobody else.

use std::time::Duration;

use ballast::rpc::proto::{GetOperationRequest, OperationState};
use tokio::task::JoinHandle;
use tonic::Code;

use crate::support::*;

/// Everybody pays it; its id is before or behind those of all payers.
const MERCHANTS: [&str; 2] = ["a-merchant", "z-merchant"];
/// Long enough for a busy machine, and shorter than the statement timeout and the lock wait, 30 s, that a neighbour must not
/// wait for.
const PROMPT: Duration = Duration::from_secs(15);

/// Opens so many payers, with money.
async fn payers(ballast: &mut Ballast, kind: &str, count: usize) -> Vec<String> {
    let mut payers = Vec::new();
    for number in 0..count {
        let payer = format!("{kind}-{number}");
        open(ballast, &payer, 1_000).await;
        payers.push(payer);
    }
    payers
}

/// Each of the payers pays so often, one payment after the other, and each is answered promptly.
async fn pay_promptly(ballast: &Ballast, payers: &[String], merchant: &str, times: usize) {
    let paying: Vec<JoinHandle<()>> = payers
        .iter()
        .map(|payer| {
            let (payer, merchant) = (payer.clone(), merchant.to_owned());
            let mut balances = patient(ballast);
            tokio::spawn(async move {
                for time in 0..times {
                    let operation = format!("{payer}-{merchant}-{time}");
                    let pays = transfer(&operation, &payer, &merchant, 1);
                    let posted = balances.transfer(within(pays, PROMPT)).await;
                    posted.unwrap_or_else(|status| panic!("{operation}: {status}"));
                }
            })
        })
        .collect();
    for paid in paying {
        paid.await.expect("every payment is posted");
    }
}

/// A payment that is on its way, and will be for a while.
fn pays(ballast: &Ballast, operation: &str, payer: &str, merchant: &str) -> JoinHandle<Code> {
    let mut balances = ballast.own_balances();
    let pays = transfer(operation, payer, merchant, 1);
    tokio::spawn(async move {
        let answered = balances.transfer(pays).await;
        answered.map_or_else(|status| status.code(), |_| Code::Ok)
    })
}

#[tokio::test]
async fn who_waits_for_a_locked_payer_holds_no_merchant() {
    for merchant in MERCHANTS {
        let mut ballast = Ballast::start().await;
        let sibling = ballast.sibling().await;
        open(&mut ballast, merchant, 0).await;
        let locked = payers(&mut ballast, "locked", 4).await;
        let others = payers(&mut ballast, "other", 8).await;
        let lock = ballast
            .lock_with("SELECT 1 FROM balances WHERE account_id LIKE 'locked-%' FOR UPDATE")
            .await;
        let waiting: Vec<_> = locked
            .iter()
            .enumerate()
            .map(|(number, payer)| {
                let instance = [&ballast, &sibling][number % 2];
                pays(instance, &format!("late-{number}"), payer, merchant)
            })
            .collect();
        // Two connections of each instance wait. Between them nobody has the merchant, though all four pay it.
        ballast.until_waiting(|count| count >= 4).await;
        let sql = ballast.database.sql().await;
        let is_free = format!(
            "SELECT 1 FROM balances WHERE account_id = '{merchant}' FOR UPDATE SKIP LOCKED"
        );
        let free = sql.query(&is_free, &[]).await.expect("a look");
        assert_eq!(free.len(), 1, "{merchant} is held by somebody who waits");
        pay_promptly(&ballast, &others[..4], merchant, 10).await;
        pay_promptly(&sibling, &others[4..], merchant, 10).await;
        lock.release().await;
        for (number, paid) in waiting.into_iter().enumerate() {
            let code = paid.await.expect("no panic");
            // On a very busy machine the others took longer than a lock wait may take.
            let is_over = code == Code::Ok || code == Code::Aborted;
            assert!(is_over, "{merchant}, late-{number}: {code}");
        }
        ballast.assert_in_order().await;
    }
}

#[tokio::test]
async fn a_locked_payer_pays_as_soon_as_it_is_free() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a-merchant", 0).await;
    // More than there are lock-wait connections.
    let locked = payers(&mut ballast, "locked", 9).await;
    let lock = ballast
        .lock_with("SELECT 1 FROM balances WHERE account_id LIKE 'locked-%' FOR UPDATE")
        .await;
    let waiting: Vec<_> = locked
        .iter()
        .map(|payer| pays(&ballast, &format!("late-{payer}"), payer, "a-merchant"))
        .collect();
    ballast.until_waiting(|count| count == 2).await;
    lock.release().await;
    for paid in waiting {
        assert_eq!(paid.await.expect("no panic"), Code::Ok);
    }
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn an_operation_id_that_somebody_records_elsewhere_holds_up_only_its_own_callers() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a-merchant", 0).await;
    let unlucky = payers(&mut ballast, "unlucky", 4).await;
    let others = payers(&mut ballast, "other", 8).await;
    let lock = ballast
        .lock_with(
            "INSERT INTO operations (operation_id, kind, amount, currency_code, create_time, destination_account_id,
                                     refusal_reason, refusal_facts)
             SELECT 'taken-' || number, 'CREDIT', 1, 'EUR', now(), 'nobody', 'ACCOUNT_CLOSED', '{}'
             FROM generate_series(0, 3) AS number",
        )
        .await;
    let waiting: Vec<_> = unlucky
        .iter()
        .enumerate()
        .map(|(number, payer)| pays(&ballast, &format!("taken-{number}"), payer, "a-merchant"))
        .collect();
    pay_promptly(&ballast, &others, "a-merchant", 10).await;
    // The same ids again: they wait where the first ones do.
    let again: Vec<_> = unlucky
        .iter()
        .enumerate()
        .map(|(number, payer)| pays(&ballast, &format!("taken-{number}"), payer, "a-merchant"))
        .collect();
    ballast.until_waiting(|count| count == 2).await;
    let sql = ballast.database.sql().await;
    let free = "SELECT 1 FROM balances WHERE account_id = 'a-merchant' FOR UPDATE SKIP LOCKED";
    let free = sql.query(free, &[]).await.expect("a look");
    assert_eq!(free.len(), 1, "who waits for an id holds no account");
    lock.release().await;
    for paid in waiting.into_iter().chain(again) {
        assert_eq!(paid.await.expect("no panic"), Code::Ok);
    }
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_table_that_is_altered_is_waited_for() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 10).await;
    for table in ["operations", "balances"] {
        let lock = ballast
            .lock_with(&format!("LOCK TABLE {table} IN SHARE MODE"))
            .await;
        let mut balances = ballast.own_balances();
        let pays = debit(table, "a", 1);
        let waiting = tokio::spawn(async move { balances.debit(pays).await });
        ballast.until_waiting(|count| count == 1).await;
        lock.release().await;
        let posted = waiting.await.expect("no panic");
        posted.unwrap_or_else(|status| panic!("{table}: {status}"));
    }
    ballast.assert_in_order().await;
}

/// A merchant and payers, one of whom the database rejects.
async fn with_a_trigger_against(ballast: &Ballast, payer: &str) {
    let sql = ballast.database.sql().await;
    sql.batch_execute(&format!(
        "CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'no'; END $$;
         CREATE TRIGGER reject BEFORE INSERT ON operations FOR EACH ROW
         WHEN (NEW.source_account_id = '{payer}') EXECUTE FUNCTION reject()"
    ))
    .await
    .expect("a trigger");
}

#[tokio::test]
async fn what_the_database_rejects_is_internal_for_its_own_callers_alone() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a-merchant", 0).await;
    let others = payers(&mut ballast, "other", 8).await;
    open(&mut ballast, "bad", 1_000).await;
    with_a_trigger_against(&ballast, "bad").await;
    let mut bad = ballast.own_balances();
    let rejected = tokio::spawn(async move {
        for time in 0..5 {
            let pays = transfer(&format!("bad-{time}"), "bad", "a-merchant", 1);
            Rejection::of(bad.transfer(pays).await).expect(Code::Internal, "INTERNAL");
        }
    });
    pay_promptly(&ballast, &others, "a-merchant", 10).await;
    rejected.await.expect("INTERNAL each time");
    let sql = ballast.database.sql().await;
    sql.batch_execute("DROP TRIGGER reject ON operations")
        .await
        .expect("dropped");
    for time in 5..8 {
        let pays = transfer(&format!("bad-{time}"), "bad", "a-merchant", 1);
        ballast
            .balances
            .transfer(pays)
            .await
            .expect("posted as soon as it is not rejected");
    }
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_balance_that_was_set_back_by_hand_is_internal_and_not_contention() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a-merchant", 0).await;
    let others = payers(&mut ballast, "other", 4).await;
    open(&mut ballast, "bad", 1_000).await;
    for time in 0..20 {
        let pays = transfer(&format!("before-{time}"), "bad", "a-merchant", 1);
        ballast.balances.transfer(pays).await.expect("posted");
    }
    // Its next entry would be the 16th once more, which has a mark.
    let sql = ballast.database.sql().await;
    let set_back = "UPDATE balances SET version = 15 WHERE account_id = 'bad'";
    sql.batch_execute(set_back).await.expect("set back");
    for time in 0..3 {
        let pays = transfer(&format!("after-{time}"), "bad", "a-merchant", 1);
        let rejection = Rejection::of(ballast.balances.transfer(pays).await);
        rejection.expect(Code::Internal, "INTERNAL");
    }
    pay_promptly(&ballast, &others, "a-merchant", 5).await;
}

#[tokio::test]
async fn a_debit_that_comes_too_late_does_not_happen() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 1_000).await;
    for number in 0..100_u64 {
        // From a nanosecond to a millisecond.
        let header = match number % 4 {
            0 => "1n".to_owned(),
            1 => format!("{number}n"),
            2 => format!("{number}u"),
            _ => "1m".to_owned(),
        };
        let operation = format!("late-{number}");
        let mut late = tonic::Request::new(debit(&operation, "a", 1));
        let timeout = header.parse().expect("a header");
        late.metadata_mut().insert("grpc-timeout", timeout);
        let answered = patient(&ballast).debit(late).await;
        let is_known = GetOperationRequest {
            operation_id: operation.clone(),
            ..GetOperationRequest::default()
        };
        let state = match ballast.balances.get_operation(is_known).await {
            Ok(found) => found.into_inner().operation.map_or(0, |it| it.state),
            Err(_) => 0,
        };
        let is_posted = state == OperationState::Posted as i32;
        match answered {
            Ok(_) => assert!(is_posted, "{operation}, {header}"),
            Err(status) => {
                let rejection = Rejection::of::<()>(Err(status));
                let rejection = rejection.expect(Code::DeadlineExceeded, "DEADLINE");
                let is_none = rejection.facts() == [("outcome", "none")];
                assert!(!(is_none && is_posted), "{operation}, {header}");
                let is_hopeless = header.ends_with('n');
                assert!(!is_hopeless || is_none, "{operation}, {header}");
            }
        }
    }
    ballast.assert_in_order().await;
}
