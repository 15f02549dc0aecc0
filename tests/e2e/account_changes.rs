//! Changes of accounts: freezing, closing and their ends. From the answer on they hold, on every instance.

use ballast::rpc::proto::list_operations_request::Filter;
use ballast::rpc::proto::{
    AccountState, CloseAccountRequest, CloseAccountResponse, CreateAccountRequest,
    FreezeAccountRequest, FreezeAccountResponse, GetOperationRequest, ListOperationsRequest,
    OperationKind, OperationState, ReopenAccountRequest, UnfreezeAccountRequest,
};
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::instance::Balances;
use crate::support::*;

fn freeze(id: &str, account_id: &str, debits: bool, credits: bool) -> FreezeAccountRequest {
    FreezeAccountRequest {
        operation_id: id.to_owned(),
        account_id: account_id.to_owned(),
        debits,
        credits,
        description: "a court order".to_owned(),
        ..FreezeAccountRequest::default()
    }
}

fn unfreeze(id: &str, account_id: &str, debits: bool, credits: bool) -> UnfreezeAccountRequest {
    UnfreezeAccountRequest {
        operation_id: id.to_owned(),
        account_id: account_id.to_owned(),
        debits,
        credits,
        ..UnfreezeAccountRequest::default()
    }
}

fn close(id: &str, account_id: &str) -> CloseAccountRequest {
    CloseAccountRequest {
        operation_id: id.to_owned(),
        account_id: account_id.to_owned(),
        ..CloseAccountRequest::default()
    }
}

fn reopen(id: &str, account_id: &str) -> ReopenAccountRequest {
    ReopenAccountRequest {
        operation_id: id.to_owned(),
        account_id: account_id.to_owned(),
        ..ReopenAccountRequest::default()
    }
}

async fn frozen(ballast: &mut Ballast, request: FreezeAccountRequest) -> FreezeAccountResponse {
    let answer = ballast.accounts.freeze_account(request).await;
    answer.expect("frozen").into_inner()
}

async fn closed(ballast: &mut Ballast, request: CloseAccountRequest) -> CloseAccountResponse {
    let answer = ballast.accounts.close_account(request).await;
    answer.expect("closed").into_inner()
}

/// The flags of an account: debits frozen, credits frozen, closed.
async fn flags(ballast: &mut Ballast, account_id: &str) -> (bool, bool, bool) {
    let account = account_of(&mut ballast.accounts, account_id).await;
    let is_closed = account.state() == AccountState::Closed;
    (account.debits_frozen, account.credits_frozen, is_closed)
}

async fn listed(balances: &mut Balances, account_id: &str) -> Vec<String> {
    let request = ListOperationsRequest {
        filter: Some(Filter::AccountId(account_id.to_owned())),
        ..ListOperationsRequest::default()
    };
    let page = balances.list_operations(request).await.expect("a page");
    let operations = page.into_inner().operations.into_iter();
    operations.map(|one| one.operation_id).collect()
}

#[tokio::test]
async fn a_freeze_is_an_operation_with_a_history() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    let request = freeze("freeze", "a", true, false);
    let first = frozen(&mut ballast, request.clone()).await;
    let operation = first.operation.clone().expect("an operation");
    assert_eq!(operation.kind(), OperationKind::Freeze);
    assert_eq!(operation.state(), OperationState::Posted);
    assert_eq!(operation.description, "a court order");
    assert_eq!((&operation.source, &operation.amount), (&None, &None));
    let change = operation.account_change.clone().expect("a change");
    let change = (change.account_id.as_str(), change.debits, change.credits);
    assert_eq!(change, ("a", true, false));
    assert_eq!(flags(&mut ballast, "a").await, (true, false, false));

    let refused = Rejection::of(ballast.balances.debit(debit("d", "a", 1)).await)
        .expect(Code::FailedPrecondition, "ACCOUNT_FROZEN");
    assert_eq!(refused.metadata["side"], "debits");
    let paid_in = ballast.balances.credit(credit("c", "a", 1)).await;
    paid_in.expect("credits are not frozen");

    // Again, on another instance: the same answer, and no second freeze.
    let mut sibling = ballast.sibling().await;
    let again = frozen(&mut sibling, request.clone()).await;
    let replayed = FreezeAccountResponse {
        replayed: true,
        ..first.clone()
    };
    assert_eq!(again, replayed);
    let asked = GetOperationRequest {
        operation_id: "freeze".to_owned(),
        ..GetOperationRequest::default()
    };
    let found = ballast.balances.get_operation(asked).await.expect("known");
    assert_eq!(found.into_inner().operation, first.operation);
    for (other, fields) in [
        (freeze("freeze", "a", true, true), "credits"),
        (freeze("freeze", "a", false, true), "debits,credits"),
    ] {
        let reused = Rejection::of(ballast.accounts.freeze_account(other).await)
            .expect(Code::AlreadyExists, "OPERATION_ID_REUSED");
        assert_eq!(reused.metadata["fields"], fields);
    }
    let other_kind = ballast
        .accounts
        .unfreeze_account(unfreeze("freeze", "a", true, false))
        .await;
    let reused = Rejection::of(other_kind).expect(Code::AlreadyExists, "OPERATION_ID_REUSED");
    assert_eq!(reused.metadata["fields"], "kind,description");

    // What is in force already stays so.
    frozen(&mut ballast, freeze("more", "a", true, true)).await;
    assert_eq!(flags(&mut ballast, "a").await, (true, true, false));
    let thaw = unfreeze("thaw", "a", true, false);
    ballast
        .accounts
        .unfreeze_account(thaw)
        .await
        .expect("thawed");
    assert_eq!(flags(&mut ballast, "a").await, (false, true, false));
    let thaw = unfreeze("thaw-again", "a", true, false);
    ballast
        .accounts
        .unfreeze_account(thaw)
        .await
        .expect("posted");
    assert_eq!(flags(&mut ballast, "a").await, (false, true, false));
    let debited = ballast.balances.debit(debit("d2", "a", 1)).await;
    debited.expect("thawed");
    let history = [
        "d2",
        "thaw-again",
        "thaw",
        "more",
        "c",
        "d",
        "freeze",
        "a-opening",
    ];
    assert_eq!(listed(&mut ballast.balances, "a").await, history);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn an_account_is_closed_only_when_it_has_nothing() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    open(&mut ballast, "heir", 0).await;
    let settling = CreateAccountRequest {
        settlement: true,
        ..account("settling")
    };
    let opened = ballast.accounts.create_account(settling).await;
    opened.expect("opened");
    let mut into_food = credit("food", "a", 7);
    "FOOD".clone_into(&mut into_food.category);
    ballast.balances.credit(into_food).await.expect("credited");

    let refused = ballast.accounts.close_account(close("early", "a")).await;
    let refused = Rejection::of(refused).expect(Code::FailedPrecondition, "ACCOUNT_NOT_EMPTY");
    let facts = [
        ("account_id", "a"),
        ("category", "FOOD"),
        ("currency_code", "EUR"),
        ("posted_minor_units", "7"),
    ];
    assert_eq!(refused.facts(), facts);
    assert!(refused.has_precondition_failure);
    let mut out = debit("out", "a", 7);
    out.categories = strings(["FOOD"]);
    ballast.balances.debit(out).await.expect("debited");
    // It was refused, and stays so.
    let again = Rejection::of(ballast.accounts.close_account(close("early", "a")).await);
    assert_eq!(again, refused);
    closed(&mut ballast, close("close", "a")).await;
    assert_eq!(flags(&mut ballast, "a").await, (false, false, true));
    closed(&mut ballast, close("close-again", "a")).await;
    let late = Rejection::of(ballast.balances.credit(credit("late", "a", 1)).await);
    late.expect(Code::FailedPrecondition, "ACCOUNT_CLOSED");
    let late = freeze("late-freeze", "a", true, true);
    let late = Rejection::of(ballast.accounts.freeze_account(late).await);
    let late = late.expect(Code::FailedPrecondition, "ACCOUNT_CLOSED");
    assert!(late.has_precondition_failure);

    let opened = ballast.accounts.reopen_account(reopen("open", "a")).await;
    let operation = opened.expect("open again").into_inner().operation;
    let kind = operation.expect("an operation").kind();
    assert_eq!(kind, OperationKind::Reopen);
    let paid_in = ballast.balances.credit(credit("c", "a", 1)).await;
    paid_in.expect("it is open");
    ballast.assert_in_order().await;

    // What a merge closed stays closed, also if nothing was there to move, and after one more closure.
    for (id, from) in [("merge", "a"), ("merge-of-nothing", "b")] {
        if from == "b" {
            open(&mut ballast, "b", 0).await;
        }
        let merged = ballast
            .balances
            .merge_accounts(merge(id, from, "heir"))
            .await;
        merged.expect("merged");
        closed(&mut ballast, close(&format!("close-{from}"), from)).await;
        let request = reopen(&format!("reopen-{from}"), from);
        let refused = ballast.accounts.reopen_account(request).await;
        let refused = Rejection::of(refused).expect(Code::FailedPrecondition, "ACCOUNT_MERGED");
        let facts = [("account_id", from), ("destination_account_id", "heir")];
        assert_eq!(refused.facts(), facts);
        assert_eq!(flags(&mut ballast, from).await, (false, false, true));
    }

    // Somebody has to receive for the owner. Nothing is recorded, so the id is free.
    let kept = ballast.accounts.close_account(close("kept", "settling"));
    let kept = Rejection::of(kept.await).expect(Code::FailedPrecondition, "SETTLEMENT_ACCOUNT");
    assert!(!kept.has_precondition_failure);
    let nobody = ballast.accounts.close_account(close("kept", "nobody"));
    Rejection::of(nobody.await).expect(Code::NotFound, "ACCOUNT_NOT_FOUND");
    open(&mut ballast, "free", 0).await;
    closed(&mut ballast, close("kept", "free")).await;
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn holds_keep_an_account_open() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 5).await;
    let sql = ballast.database.sql().await;
    // No RPC makes holds yet.
    sql.batch_execute("UPDATE balances SET held = 5 WHERE account_id = 'a'")
        .await
        .expect("held");
    let refused = ballast.accounts.close_account(close("close", "a")).await;
    let refused = Rejection::of(refused).expect(Code::FailedPrecondition, "HOLDS_OPEN");
    assert_eq!(refused.metadata["held_minor_units"], "5");
}

#[tokio::test]
async fn each_broken_rule_is_named() {
    let mut ballast = Ballast::start().await;
    let answer = ballast
        .accounts
        .freeze_account(FreezeAccountRequest {
            description: "x".repeat(257),
            ..freeze("", "a b", false, false)
        })
        .await;
    let rejection = Rejection::of(answer).expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    let fields = ["debits", "operation_id", "account_id", "description"];
    assert_eq!(rejection.fields, fields);
    let answer = ballast.accounts.close_account(close("op:reversal", "a"));
    let rejection = Rejection::of(answer.await).expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(rejection.fields, ["operation_id"]);
}

/// Callers of two instances debit while one of these freezes: what was answered before the freeze is all that ever posts.
#[tokio::test]
async fn no_debit_posts_after_the_answer_to_a_freeze() {
    let mut ballast = Ballast::start().await;
    let mut sibling = ballast.sibling().await;
    open(&mut ballast, "a", 1_000_000).await;
    for round in 0..5 {
        let mut callers = JoinSet::new();
        for caller in 0..16 {
            let instance = if caller % 2 == 0 { &ballast } else { &sibling };
            let mut balances = instance.own_balances();
            callers.spawn(async move {
                let mut posted = 0;
                for number in 0.. {
                    let id = format!("debit-{round}-{caller}-{number}");
                    match balances.debit(debit(&id, "a", 1)).await {
                        Ok(_) => posted += 1,
                        Err(status) => {
                            let refused = Rejection::of_status(&status);
                            refused.expect(Code::FailedPrecondition, "ACCOUNT_FROZEN");
                            return posted;
                        }
                    }
                }
                posted
            });
        }
        let before = posted(&mut ballast.balances, "a").await;
        within_reason("a debit", async {
            while posted(&mut ballast.balances, "a").await > before - 50 {}
        })
        .await;
        let freezing = if round % 2 == 0 {
            &mut sibling
        } else {
            &mut ballast
        };
        frozen(
            freezing,
            freeze(&format!("freeze-{round}"), "a", true, false),
        )
        .await;
        let at_the_answer = posted(&mut ballast.balances, "a").await;
        let mut posted_count = 0;
        while let Some(count) = callers.join_next().await {
            posted_count += count.expect("no caller fails");
        }
        let in_the_end = posted(&mut ballast.balances, "a").await;
        assert_eq!(in_the_end, at_the_answer, "round {round}");
        assert!(posted_count >= 50, "{posted_count}");
        let thaw = unfreeze(&format!("thaw-{round}"), "a", true, false);
        let thawed = ballast.accounts.unfreeze_account(thaw).await;
        thawed.expect("thawed");
    }
    ballast.assert_in_order().await;
}

/// Of many that freeze and thaw at once, on two instances, the last one by its time counts.
#[tokio::test]
async fn racing_changes_have_one_order() {
    let mut ballast = Ballast::start().await;
    let sibling = ballast.sibling().await;
    open(&mut ballast, "a", 10).await;
    let mut callers = JoinSet::new();
    for caller in 0..16 {
        let instance = if caller % 2 == 0 { &ballast } else { &sibling };
        let mut accounts = instance.accounts.clone();
        callers.spawn(async move {
            for number in 0..20 {
                let id = format!("{caller}-{number}");
                let operation = match (caller + number) % 3 {
                    0 => accounts
                        .unfreeze_account(unfreeze(&id, "a", true, false))
                        .await
                        .map(|answer| answer.into_inner().operation),
                    _ => accounts
                        .freeze_account(freeze(&id, "a", number % 2 == 0, true))
                        .await
                        .map(|answer| answer.into_inner().operation),
                };
                operation.expect("posted");
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.expect("no caller fails");
    }
    let sql = ballast.database.sql().await;
    let times = "SELECT count(*), count(DISTINCT create_time) FROM operations WHERE source_account_id = 'a'";
    let times = sql.query_one(times, &[]).await.expect("the times");
    assert_eq!((times.get::<_, i64>(0), times.get::<_, i64>(1)), (320, 320));
    ballast.assert_in_order().await;
}
