//! ExecuteBatch with `atomic`: all members happen, each on top of those before it, or none does.

use ballast::rpc::proto::{
    ExecuteBatchResponse, GetOperationRequest, OperationRequest, OperationResult, OperationState,
};
use tonic::Code;

use crate::support::instance::Balances;
use crate::support::*;

async fn execute_atomic(
    balances: &mut Balances,
    operations: Vec<OperationRequest>,
) -> Vec<OperationResult> {
    let answered = balances.execute_batch(atomic(operations)).await;
    answered.expect("a batch is answered").into_inner().results
}

fn pays(operation_id: &str, from: &str, to: &str, minor_units: i64) -> OperationRequest {
    member(transfer(operation_id, from, to, minor_units).into())
}

/// The reason of each error; "" of what posted.
fn reasons(results: &[OperationResult]) -> Vec<&str> {
    use ballast::rpc::proto::operation_result::Outcome;
    results
        .iter()
        .map(|result| match &result.outcome {
            Some(Outcome::Error(error)) => error.reason.as_str(),
            Some(Outcome::Posted(_)) => "",
            None => "no outcome",
        })
        .collect()
}

async fn is_known(balances: &mut Balances, operation_id: &str) -> bool {
    let request = GetOperationRequest {
        operation_id: operation_id.to_owned(),
        ..GetOperationRequest::default()
    };
    balances.get_operation(request).await.is_ok()
}

#[tokio::test]
async fn members_spend_what_earlier_ones_brought() {
    let mut ballast = Ballast::start().await;
    for name in ["a", "b", "c"] {
        open(&mut ballast, name, 0).await;
    }
    let members = vec![
        credit_member("1", "a", 100),
        pays("2", "a", "b", 100),
        member(post("3", &[("b", 100)], &[("b/FOOD", 40), ("c", 60)]).into()),
        debit_member("4", "c", 60),
    ];
    let results = execute_atomic(&mut ballast.balances, members.clone()).await;
    assert_eq!(reasons(&results), ["", "", "", ""]);
    let ids: Vec<&str> = results
        .iter()
        .map(|result| result.operation_id.as_str())
        .collect();
    assert_eq!(ids, ["1", "2", "3", "4"]);
    assert_eq!(posted_of(&results[1]).balances[1].posted_minor_units, 100);
    let food = balance_of(&mut ballast.balances, "b", "FOOD").await;
    assert_eq!(food.posted_minor_units, 40);
    assert_eq!(posted(&mut ballast.balances, "c").await, 0);

    // The whole again, on another instance, is the same answer.
    let mut sibling = ballast.sibling().await;
    let again = execute_atomic(&mut sibling.balances, members).await;
    for (again, first) in again.iter().zip(&results) {
        assert!(posted_of(again).replayed);
        assert_eq!(posted_of(again).balances, posted_of(first).balances);
    }
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn one_refusal_refuses_all_and_only_it_is_recorded() {
    let mut ballast = Ballast::start().await;
    for (name, money) in [("a", 100), ("b", 0), ("c", 0)] {
        open(&mut ballast, name, money).await;
    }
    let members = vec![
        pays("1", "a", "b", 60),
        pays("2", "a", "c", 60),
        credit_member("3", "a", 100),
    ];
    let results = execute_atomic(&mut ballast.balances, members.clone()).await;
    let expected = ["BATCH_REFUSED", "INSUFFICIENT_FUNDS", "BATCH_REFUSED"];
    assert_eq!(reasons(&results), expected);
    for index in [0, 2] {
        let error = error_of(&results[index]);
        assert_eq!(error.code, Code::FailedPrecondition as i32);
        assert_eq!(error.metadata["member"], "1");
    }
    // It saw the member before it.
    let refused = error_of(&results[1]);
    assert_eq!(refused.metadata["available_minor_units"], "40");
    for (name, money) in [("a", 100), ("b", 0), ("c", 0)] {
        assert_eq!(posted(&mut ballast.balances, name).await, money);
    }
    for (id, is_recorded) in [("1", false), ("2", true), ("3", false)] {
        let found = is_known(&mut ballast.balances, id).await;
        assert_eq!(found, is_recorded, "{id}");
    }
    // There is money now, and the answer stays.
    let rescue = credit("rescue", "a", 1_000);
    ballast.balances.credit(rescue).await.expect("credited");
    let again = execute_atomic(&mut ballast.balances, members).await;
    assert_eq!(again, results);

    // The ids of the others are free.
    let one = pays("1", "a", "b", 5);
    let results = execute_atomic(&mut ballast.balances, vec![one]).await;
    assert_eq!(reasons(&results), [""]);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_member_refuses_the_batch_and_records_nothing() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    for (wrong, reason) in [
        (debit_member("2", "a", 0), "INVALID_ARGUMENT"),
        (debit_member("2", "nobody", 1), "ACCOUNT_NOT_FOUND"),
        (
            member(reverse("2", "nothing").into()),
            "OPERATION_NOT_FOUND",
        ),
        (OperationRequest::default(), "INVALID_ARGUMENT"),
    ] {
        let members = vec![debit_member("1", "a", 1), wrong, debit_member("3", "a", 1)];
        let results = execute_atomic(&mut ballast.balances, members).await;
        assert_eq!(
            reasons(&results),
            ["BATCH_REFUSED", reason, "BATCH_REFUSED"]
        );
        for id in ["1", "2", "3"] {
            assert!(!is_known(&mut ballast.balances, id).await, "{id}");
        }
    }
    let two_wrong = vec![
        debit_member("1", "a", 0),
        debit_member("2", "a", 1),
        debit_member("3", "a", 0),
    ];
    let results = execute_atomic(&mut ballast.balances, two_wrong).await;
    let expected = ["INVALID_ARGUMENT", "BATCH_REFUSED", "INVALID_ARGUMENT"];
    assert_eq!(reasons(&results), expected);
    assert_eq!(error_of(&results[1]).metadata["member"], "0");
    for count in [0, 1_001] {
        let members = (0..count).map(|index| debit_member(&index.to_string(), "a", 1));
        let answer = ballast.balances.execute_batch(atomic(members.collect()));
        let rejection =
            Rejection::of(answer.await).expect(Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(rejection.fields, ["operations"]);
    }
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn the_largest_batch_happens_as_one() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 999).await;
    let members = |prefix: &str| -> Vec<OperationRequest> {
        (0..1_000)
            .map(|index| debit_member(&format!("{prefix}-{index}"), "a", 1))
            .collect()
    };
    let results = execute_atomic(&mut ballast.balances, members("first")).await;
    assert_eq!(error_of(&results[999]).reason, "INSUFFICIENT_FUNDS");
    assert_eq!(posted(&mut ballast.balances, "a").await, 999);
    let one_more = credit("one-more", "a", 1);
    ballast.balances.credit(one_more).await.expect("credited");
    let results = execute_atomic(&mut ballast.balances, members("second")).await;
    assert!(reasons(&results).iter().all(|reason| reason.is_empty()));
    assert_eq!(posted(&mut ballast.balances, "a").await, 0);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_failure_is_that_of_the_call() {
    let mut ballast = Ballast::start_with(|config| {
        config.batcher.lock_wait_max = std::time::Duration::from_millis(200);
    })
    .await;
    open(&mut ballast, "a", 100).await;
    open(&mut ballast, "b", 0).await;
    let lock = ballast.lock("b").await;
    let members = vec![debit_member("1", "a", 1), pays("2", "a", "b", 1)];
    let held = ballast.balances.execute_batch(atomic(members.clone()));
    let held = Rejection::of(held.await).expect(Code::Aborted, "CONTENTION");
    assert_eq!(held.metadata["account_id"], "b");
    lock.release().await;
    assert_eq!(posted(&mut ballast.balances, "a").await, 100);
    let results = execute_atomic(&mut ballast.balances, members).await;
    assert_eq!(reasons(&results), ["", ""]);
    ballast.assert_in_order().await;
}

/// Batches on two instances move money round in a circle of accounts that has too little for all of them. Whoever looks at any
/// time finds all of it there, and a batch that was refused moved nothing.
#[tokio::test]
async fn racing_batches_never_move_half_of_the_money() {
    let accounts = ["a", "b", "c", "d"];
    let mut ballast = Ballast::start().await;
    for name in accounts {
        open(&mut ballast, name, 20).await;
    }
    let sibling = ballast.sibling().await;
    let callers: Vec<_> = (0..16_usize)
        .map(|caller| {
            let mut balances = match caller % 2 {
                0 => ballast.own_balances(),
                _ => sibling.own_balances(),
            };
            tokio::spawn(async move {
                let mut counts = (0, 0);
                for round in 0..12 {
                    let step = 1 + (caller + round) % 3;
                    let members = (0..3).map(|index| {
                        let from = accounts[(caller + index * step) % 4];
                        let to = accounts[(caller + (index + 1) * step) % 4];
                        pays(&format!("{caller}-{round}-{index}"), from, to, 9)
                    });
                    let results = execute_atomic(&mut balances, members.collect()).await;
                    let reasons = reasons(&results);
                    if reasons == ["", "", ""] {
                        counts.0 += 1;
                        continue;
                    }
                    counts.1 += 1;
                    let own = reasons.iter().filter(|reason| **reason != "BATCH_REFUSED");
                    assert_eq!(own.collect::<Vec<_>>(), [&"INSUFFICIENT_FUNDS"]);
                }
                counts
            })
        })
        .collect();
    let sum = "SELECT sum(posted)::bigint, (SELECT count(*) FROM operations WHERE kind = 'TRANSFER' AND refusal_reason IS NULL)
               FROM balances";
    let sql = ballast.database.sql().await;
    while callers.iter().any(|caller| !caller.is_finished()) {
        let row = sql.query_one(sum, &[]).await.expect("a sum");
        let (money, posted): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!((money, posted % 3), (80, 0));
    }
    let (mut posted_count, mut refused_count) = (0, 0);
    for caller in callers {
        let (posted, refused) = caller.await.expect("no panic");
        posted_count += posted;
        refused_count += refused;
    }
    assert!(posted_count > 0 && refused_count > 0);
    let states = "SELECT count(*) FILTER (WHERE refusal_reason IS NULL), count(refusal_reason) FROM operations
                  WHERE kind = 'TRANSFER'";
    let row = sql.query_one(states, &[]).await.expect("counts");
    assert_eq!(row.get::<_, i64>(0), 3 * posted_count);
    assert_eq!(row.get::<_, i64>(1), refused_count);
    ballast.assert_in_order().await;
}

/// The refused member is what its own RPC would have recorded.
#[tokio::test]
async fn the_refused_member_is_found_by_its_id() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 1).await;
    let request = atomic(vec![debit_member("poor", "a", 2)]);
    let answer = ballast.balances.execute_batch(request).await;
    let ExecuteBatchResponse { results, .. } = answer.expect("answered").into_inner();
    let error = error_of(&results[0]);
    let request = GetOperationRequest {
        operation_id: "poor".to_owned(),
        ..GetOperationRequest::default()
    };
    let found = ballast.balances.get_operation(request).await;
    let found = found.expect("known").into_inner().operation;
    let found = found.expect("an operation");
    assert_eq!(found.state(), OperationState::Refused);
    let refusal = found.refusal.expect("a refusal");
    assert_eq!(refusal.metadata, error.metadata);
    let own = Rejection::of(ballast.balances.debit(debit("poor", "a", 2)).await);
    assert_eq!(own.reason, error.reason);
    ballast.assert_in_order().await;
}
