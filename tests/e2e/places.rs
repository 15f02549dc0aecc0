//! Places: rows are locked where they were last seen, and nothing depends on whether they still are there.

use ballast::rpc::proto::CreditRequest;
use tonic::Code;

use crate::support::*;

const ACCOUNT_COUNT: usize = 8;

fn name(index: usize) -> String {
    format!("account-{}", index % ACCOUNT_COUNT)
}

/// Each account pays its neighbour one unit, in so many rounds. Nobody is richer or poorer afterwards.
async fn pay_around(ballast: &mut Ballast, name_of_round: &str, rounds: usize) {
    for round in 0..rounds {
        for index in 0..ACCOUNT_COUNT {
            let operation_id = format!("{name_of_round}-{round}-{index}");
            ballast
                .balances
                .transfer(transfer(&operation_id, &name(index), &name(index + 1), 1))
                .await
                .expect("posted");
        }
    }
}

async fn assert_nobody_lost(ballast: &mut Ballast) {
    for index in 0..ACCOUNT_COUNT {
        assert_eq!(posted(&mut ballast.balances, &name(index)).await, 100);
    }
    ballast.assert_in_order().await;
}

/// Nothing that Ballast does leads there: a database that skips an update without a word.
#[tokio::test]
async fn an_update_that_does_not_find_its_row_leaves_nothing_behind() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    open(&mut ballast, "empty", 0).await;
    let sql = ballast.database.sql().await;
    let skipping = "
        CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER skip BEFORE UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION skip()";
    sql.batch_execute(skipping).await.expect("skipping");
    let failed = Rejection::of(ballast.balances.debit(debit("d", "a", 60)).await);
    let failed = failed.expect(Code::Internal, "INTERNAL");
    assert_eq!(failed.facts(), [("outcome", "unknown")]);
    let new_category = CreditRequest {
        category: "FOOD".to_owned(),
        ..credit("food", "a", 5)
    };
    let failed = Rejection::of(ballast.balances.credit(new_category.clone()).await);
    let failed = failed.expect(Code::Internal, "INTERNAL");
    assert_eq!(failed.facts(), [("outcome", "unknown")]);
    let merge = merge("merge", "empty", "a");
    let failed = Rejection::of(ballast.balances.merge_accounts(merge.clone()).await);
    let failed = failed.expect(Code::Internal, "INTERNAL");
    assert_eq!(failed.facts(), [("outcome", "unknown")]);
    let again = "DROP TRIGGER skip ON balances";
    sql.batch_execute(again).await.expect("as before");
    let posted = ballast.balances.debit(debit("d", "a", 60)).await;
    assert!(!posted.expect("posted").into_inner().replayed);
    let posted = ballast.balances.credit(new_category).await;
    assert!(!posted.expect("posted").into_inner().replayed);
    let merged = ballast.balances.merge_accounts(merge).await;
    assert!(!merged.expect("merged").into_inner().replayed);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn rows_that_others_moved_are_found_and_read_as_they_are() {
    let mut ballast = Ballast::start().await;
    for index in 0..ACCOUNT_COUNT {
        open(&mut ballast, &name(index), 100).await;
    }
    pay_around(&mut ballast, "before", 3).await;
    let sql = ballast.database.sql().await;
    // Where one account's row was, another's is now.
    sql.batch_execute("VACUUM FULL balances")
        .await
        .expect("rewritten");
    pay_around(&mut ballast, "rewritten", 3).await;
    // An instance that knows other places moves them as well.
    let mut sibling = ballast.sibling().await;
    pay_around(&mut sibling, "sibling", 2).await;
    pay_around(&mut ballast, "after", 3).await;
    assert_nobody_lost(&mut ballast).await;

    // What was changed by hand counts at once.
    let much = |operation_id: &'static str| credit(operation_id, "account-0", 1_000);
    let posted = ballast.balances.credit(much("posted")).await;
    posted.expect("there is no limit");
    sql.batch_execute("UPDATE balances SET balance_limit = 2000 WHERE account_id = 'account-0'")
        .await
        .expect("updated");
    let refused = ballast.balances.credit(much("refused")).await;
    Rejection::of(refused).expect(Code::FailedPrecondition, "BALANCE_LIMIT_EXCEEDED");
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn dead_versions_make_room_for_new_ones() {
    let mut ballast = Ballast::start().await;
    for index in 0..ACCOUNT_COUNT {
        open(&mut ballast, &name(index), 100).await;
    }
    let sql = ballast.database.sql().await;
    let size = async || -> i64 {
        let size = "SELECT pg_relation_size('balances')";
        sql.query_one(size, &[]).await.expect("a size").get(0)
    };
    // Eight hundred new versions of eight rows have ten pages. As long as another test has a transaction open, PostgreSQL
    // prunes nothing; hence more than one round.
    for round in 0..20 {
        let before = size().await;
        pay_around(&mut ballast, &format!("round-{round}"), 50).await;
        if size().await == before {
            assert_nobody_lost(&mut ballast).await;
            return;
        }
    }
    panic!("the table grew in every round");
}
