//! Categories are bounded: an account gets no new one beyond the limit, what it has keeps working, and an operation locks
//! only the categories that it names, however many there are.

use std::time::Duration;

use ballast::rpc::proto::list_operations_request::Filter;
use ballast::rpc::proto::operation_request::Request as Kind;
use ballast::rpc::proto::operation_result::Outcome;
use ballast::rpc::proto::{
    BalanceLimits, CreateAccountRequest, CreditRequest, DebitRequest, GetOperationRequest,
    ListOperationsRequest, OperationState, TransferRequest,
};
use tonic::Code;

use crate::support::binary::{Running, command, run};
use crate::support::instance::Balances;
use crate::support::postgres::Database;
use crate::support::*;

fn credit_of(operation_id: &str, account_id: &str, category: &str, amount: i64) -> CreditRequest {
    CreditRequest {
        category: category.to_owned(),
        ..credit(operation_id, account_id, amount)
    }
}

fn debit_of<const N: usize>(
    operation_id: &str,
    account_id: &str,
    categories: [&str; N],
    amount: i64,
) -> DebitRequest {
    DebitRequest {
        categories: strings(categories),
        ..debit(operation_id, account_id, amount)
    }
}

fn transfer_to(operation_id: &str, from: &str, to: &str, category: &str) -> TransferRequest {
    TransferRequest {
        destination_category: category.to_owned(),
        ..transfer(operation_id, from, to, 1)
    }
}

fn account_with<const N: usize>(account_id: &str, categories: [&str; N]) -> CreateAccountRequest {
    let limits = categories.map(|category| BalanceLimits {
        category: category.to_owned(),
        overdraft_limit_minor_units: 100,
        balance_limit_minor_units: None,
    });
    CreateAccountRequest {
        limits: limits.into(),
        ..account(account_id)
    }
}

async fn fill<const N: usize>(balances: &mut Balances, account_id: &str, categories: [&str; N]) {
    for category in categories {
        let filling = credit_of(
            &format!("{account_id}-{category}"),
            account_id,
            category,
            10,
        );
        balances.credit(filling).await.expect("credited");
    }
}

fn assert_is_one_too_many(rejection: Rejection, account_id: &str, category: &str, limit: &str) {
    let rejection = rejection.expect(Code::FailedPrecondition, "CATEGORY_LIMIT_EXCEEDED");
    assert_eq!(
        rejection.facts(),
        [
            ("account_id", account_id),
            ("category", category),
            ("limit", limit)
        ]
    );
    assert!(rejection.has_precondition_failure && !rejection.has_retry_info);
}

/// Gives an account so many empty categories c-1, c-2, … at once.
async fn add_categories(ballast: &Ballast, account_id: &str, count: i32) {
    let sql = format!(
        "INSERT INTO balances (account_id, category, currency_code)
         SELECT '{account_id}', 'c-' || i, 'EUR' FROM generate_series(1, {count}) i;
         UPDATE balances SET sibling_count = sibling_count + {count}
         WHERE account_id = '{account_id}' AND category = 'main'"
    );
    let client = ballast.database.sql().await;
    client.batch_execute(&sql).await.expect("added");
}

#[tokio::test]
async fn a_category_beyond_the_limit_is_refused_for_good() {
    let mut ballast = Ballast::start_with(|config| {
        config.store.categories_per_account_max = 3;
    })
    .await;
    open(&mut ballast, "a", 10).await;
    open(&mut ballast, "b", 10).await;
    fill(&mut ballast.balances, "a", ["FOOD", "MEAL"]).await;

    let credited = credit_of("credited", "a", "CASH", 1);
    let transferred = transfer_to("transferred", "b", "a", "CASH");
    let moved = transfer_to("moved", "a", "a", "CASH");
    for _ in 0..2 {
        let answer = ballast.balances.credit(credited.clone()).await;
        assert_is_one_too_many(Rejection::of(answer), "a", "CASH", "3");
        for request in [&transferred, &moved] {
            let answer = ballast.balances.transfer(request.clone()).await;
            assert_is_one_too_many(Rejection::of(answer), "a", "CASH", "3");
        }
    }
    for operation_id in ["credited", "transferred", "moved"] {
        let request = GetOperationRequest {
            operation_id: operation_id.to_owned(),
        };
        let found = ballast.balances.get_operation(request).await;
        let operation = found.expect("recorded").into_inner().operation;
        let operation = operation.expect("an operation");
        assert_eq!(operation.state(), OperationState::Refused);
        let listed = ListOperationsRequest {
            filter: Some(Filter::AccountId("a".to_owned())),
            ..ListOperationsRequest::default()
        };
        let listed = ballast.balances.list_operations(listed).await;
        let listed = listed.expect("a page").into_inner().operations;
        assert!(listed.contains(&operation), "{operation_id}");
    }

    // Who pays comes first, and what the account has goes on.
    let poor = TransferRequest {
        amount: eur(11),
        ..transfer_to("poor", "b", "a", "CASH")
    };
    let answer = ballast.balances.transfer(poor).await;
    Rejection::of(answer).expect(Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
    let answer = ballast
        .balances
        .debit(debit_of("nothing-there", "a", ["CASH"], 1))
        .await;
    Rejection::of(answer).expect(Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
    let paid = debit_of("paid", "a", ["CASH", "MEAL"], 3);
    ballast.balances.debit(paid).await.expect("MEAL pays");
    let more = credit_of("more", "a", "FOOD", 1);
    ballast.balances.credit(more).await.expect("credited");
    for (category, expected) in [("", 10), ("FOOD", 11), ("MEAL", 7), ("CASH", 0)] {
        let balance = balance_of(&mut ballast.balances, "a", category).await;
        assert_eq!(balance.posted_minor_units, expected, "{category}");
    }
    assert_eq!(posted(&mut ballast.balances, "b").await, 10);
    ballast.assert_in_order().await;

    // Another instance has another limit. What was refused stays refused.
    let database = ballast.database.clone();
    assert!(ballast.stopped().await);
    let mut ballast = Ballast::start_on(database, |config| {
        config.store.categories_per_account_max = 4;
    })
    .await;
    let answer = ballast.balances.credit(credited).await;
    assert_is_one_too_many(Rejection::of(answer), "a", "CASH", "3");
    let later = credit_of("later", "a", "CASH", 1);
    ballast.balances.credit(later).await.expect("credited");
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn of_many_new_categories_at_once_as_many_are_made_as_find_room() {
    let mut ballast = Ballast::start_with(|config| {
        config.store.categories_per_account_max = 6;
    })
    .await;
    open(&mut ballast, "a", 0).await;
    let credits = (0..40).map(|index| {
        let category = format!("c-{}", index % 20);
        let request = credit_of(&format!("credit-{index}"), "a", &category, 1);
        member(Kind::from(request))
    });
    let results = execute(&mut ballast.balances, credits.collect()).await;
    let refused = results.iter().filter(|result| {
        matches!(
            &result.outcome,
            Some(Outcome::Error(error))
                if error.reason == "CATEGORY_LIMIT_EXCEEDED"
        )
    });
    // Five find room, and each of those is credited twice.
    assert_eq!(refused.count(), 30);
    let account = account_of(&mut ballast.accounts, "a").await;
    assert_eq!(account.balances.len(), 6);
    let posted: i64 = account.balances.iter().map(|b| b.posted_minor_units).sum();
    assert_eq!(posted, 10);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_merge_brings_no_category_beyond_the_limit() {
    let mut ballast = Ballast::start_with(|config| {
        config.store.categories_per_account_max = 4;
    })
    .await;
    for name in ["a", "b", "c"] {
        open(&mut ballast, name, 10).await;
    }
    fill(&mut ballast.balances, "a", ["A", "B", "C"]).await;
    fill(&mut ballast.balances, "b", ["B", "Y"]).await;
    fill(&mut ballast.balances, "c", ["C"]).await;
    // Of B, which b has, and of A and C, for which there is room once.
    let request = merge("refused", "a", "b");
    for _ in 0..2 {
        let answer = ballast.balances.merge_accounts(request.clone()).await;
        assert_is_one_too_many(Rejection::of(answer), "b", "C", "4");
    }
    for (name, count) in [("a", 4), ("b", 3)] {
        let account = account_of(&mut ballast.accounts, name).await;
        assert_eq!(account.balances.len(), count);
        assert!(account.balances.iter().all(|b| b.posted_minor_units == 10));
    }
    // A and B make it four.
    let fits = merge("fits", "a", "c");
    ballast.balances.merge_accounts(fits).await.expect("merged");
    let account = account_of(&mut ballast.accounts, "c").await;
    assert_eq!(account.balances.len(), 4);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn an_account_that_has_more_from_before_keeps_them_and_gets_no_new_one() {
    let mut ballast = Ballast::start().await;
    for name in ["a", "b"] {
        open(&mut ballast, name, 10).await;
        fill(&mut ballast.balances, name, ["A", "B", "C"]).await;
    }
    let mut bounded = Ballast::start_on(ballast.database.clone(), |config| {
        config.store.categories_per_account_max = 2;
    })
    .await;
    let balances = &mut bounded.balances;
    let old = credit_of("old", "a", "C", 1);
    balances.credit(old).await.expect("credited");
    let answer = balances.credit(credit_of("new", "a", "D", 1)).await;
    assert_is_one_too_many(Rejection::of(answer), "a", "D", "2");
    let within = transfer_to("within", "a", "a", "B");
    balances.transfer(within).await.expect("posted");
    let merging = merge("merging", "a", "b");
    balances.merge_accounts(merging).await.expect("merged");
    assert_eq!(balance_of(balances, "b", "C").await.posted_minor_units, 21);
    bounded.assert_in_order().await;
}

#[tokio::test]
async fn no_account_is_opened_with_more_categories_than_the_limit() {
    let mut ballast = Ballast::start_with(|config| {
        config.store.categories_per_account_max = 3;
    })
    .await;
    for (name, expected) in [("without-main", 3), ("with-main", 3)] {
        let fits = match name {
            "without-main" => account_with(name, ["FOOD", "MEAL"]),
            _ => CreateAccountRequest {
                limits: account_with(name, ["FOOD", "main", "MEAL"]).limits,
                ..account(name)
            },
        };
        let opened = ballast.accounts.create_account(fits).await.expect("opened");
        let opened = opened.into_inner().account.expect("an account");
        assert_eq!(opened.balances.len(), expected, "{name}");
    }
    let one_more = account_with("one-more", ["CASH", "FOOD", "MEAL"]);
    let answer = ballast.accounts.create_account(one_more).await;
    let rejection = Rejection::of(answer).expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(rejection.fields, ["limits"]);
    // Those of its limits count.
    let answer = ballast
        .balances
        .credit(credit_of("c", "with-main", "CASH", 1))
        .await;
    assert_is_one_too_many(Rejection::of(answer), "with-main", "CASH", "3");
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn the_limit_is_an_option_and_256_without_it() {
    let database = Database::migrated().await;
    let folder = tempfile::tempdir().expect("a folder");
    let url = database.url();
    let arguments = ["--database-url", url.as_str()];
    let option = ["--categories-per-account-max", "2"];

    let usual = Running::start(folder.path(), &arguments);
    let opened = usual.accounts().create_account(account("a")).await;
    opened.expect("opened");
    let sql = database.sql().await;
    let almost_full = "INSERT INTO balances (account_id, category, currency_code)
                       SELECT 'a', 'c-' || i, 'EUR' FROM generate_series(1, 254) i;
                       UPDATE balances SET sibling_count = 254 WHERE category = 'main'";
    sql.batch_execute(almost_full).await.expect("filled");
    let mut balances = usual.balances();
    fill(&mut balances, "a", ["last"]).await;
    let answer = balances.credit(credit_of("usual", "a", "CASH", 1)).await;
    assert_is_one_too_many(Rejection::of(answer), "a", "CASH", "256");
    assert!(usual.stopped().await.success());

    let mut by_environment = command(folder.path(), &arguments);
    by_environment.env("BALLAST_CATEGORIES_PER_ACCOUNT_MAX", "300");
    let by_environment = Running::start_command(by_environment);
    fill(&mut by_environment.balances(), "a", ["CASH"]).await;
    assert!(by_environment.stopped().await.success());

    let by_argument = Running::start(folder.path(), &[&arguments[..], &option[..]].concat());
    let bounded = credit_of("bounded", "a", "MEAL", 1);
    let answer = by_argument.balances().credit(bounded).await;
    assert_is_one_too_many(Rejection::of(answer), "a", "MEAL", "2");
    assert!(by_argument.stopped().await.success());

    for wrong in ["0", "10001", "many"] {
        let (code, _, stderr) = run(folder.path(), &["--categories-per-account-max", wrong]);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains("--categories-per-account-max"), "{stderr}");
    }
}

/// All but the named categories are locked from outside until the end: whoever needs one of those is not answered.
#[tokio::test]
async fn of_thousands_of_categories_only_those_that_are_named_are_locked() {
    let mut ballast = Ballast::start_with(|config| {
        config.batcher.lock_wait_max = Duration::from_millis(200);
    })
    .await;
    for name in ["a", "other"] {
        open(&mut ballast, name, 1_000).await;
    }
    add_categories(&ballast, "a", 3_000).await;
    fill(&mut ballast.balances, "a", ["c-7", "c-8"]).await;

    let but_two = ballast
        .lock_with(
            "SELECT 1 FROM balances
             WHERE account_id = 'a' AND category NOT IN ('main', 'c-7', 'c-8') FOR UPDATE",
        )
        .await;
    let balances = &mut ballast.balances;
    let paid = debit_of("paid", "a", ["c-7", "c-8"], 3);
    let paid = balances.debit(paid).await.expect("posted").into_inner();
    assert_eq!(paid.balances[0].category, "c-7");
    let filled = credit_of("filled", "a", "c-8", 5);
    balances.credit(filled).await.expect("posted");
    let main = transfer_to("main", "a", "other", "");
    balances.transfer(main).await.expect("posted");
    let within = TransferRequest {
        source_categories: strings(["c-8"]),
        ..transfer_to("within", "a", "a", "c-7")
    };
    balances.transfer(within).await.expect("posted");
    // What is locked is not taken for what has no row: that would be insufficient funds.
    let held = balances.debit(debit_of("held", "a", ["c-9"], 1)).await;
    Rejection::of(held).expect(Code::Aborted, "CONTENTION");
    let held = balances
        .debit(debit_of("held", "a", ["c-9", "c-7"], 1))
        .await;
    Rejection::of(held).expect(Code::Aborted, "CONTENTION");
    let held = balances.credit(credit_of("held", "a", "c-9", 1)).await;
    Rejection::of(held).expect(Code::Aborted, "CONTENTION");
    // A merge needs all of it.
    let held = balances.merge_accounts(merge("held", "a", "other")).await;
    Rejection::of(held).expect(Code::Aborted, "CONTENTION");
    but_two.release().await;

    let balances = &mut ballast.balances;
    let now_there = credit_of("held", "a", "c-9", 1);
    balances.credit(now_there).await.expect("posted");
    let one = ballast
        .lock_with("SELECT 1 FROM balances WHERE account_id = 'a' AND category = 'c-1' FOR UPDATE")
        .await;
    let balances = &mut ballast.balances;
    let paid = debit_of("paid-2", "a", ["c-9"], 1);
    balances.debit(paid).await.expect("posted");
    // It has thousands more than it may have from now on.
    let answer = balances.credit(credit_of("new", "a", "new", 1)).await;
    assert_is_one_too_many(Rejection::of(answer), "a", "new", "256");
    one.release().await;

    for (category, expected) in [("c-7", 8), ("c-8", 14), ("c-9", 0), ("", 999)] {
        let balance = balance_of(&mut ballast.balances, "a", category).await;
        assert_eq!(balance.posted_minor_units, expected, "{category}");
    }
    ballast.assert_in_order().await;
    // Two of its categories have money, and main has: all of that finds room.
    let all = merge("all", "a", "other");
    let all = ballast.balances.merge_accounts(all).await.expect("merged");
    assert_eq!(all.into_inner().entries.len(), 6);
    ballast.assert_in_order().await;
}

/// A category that is new to an account is made while another of its categories is locked, and one that is locked is
/// answered when it is free.
#[tokio::test]
async fn a_new_category_needs_no_other_one() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 10).await;
    fill(&mut ballast.balances, "a", ["FOOD", "MEAL"]).await;
    let locked = ballast
        .lock_with("SELECT 1 FROM balances WHERE account_id = 'a' AND category = 'FOOD' FOR UPDATE")
        .await;
    fill(&mut ballast.balances, "a", ["CASH"]).await;
    let mut waiting = ballast.own_balances();
    let waiting = tokio::spawn(async move {
        let paid = debit_of("paid", "a", ["FOOD", "CASH"], 10);
        waiting.debit(paid).await
    });
    ballast.until_waiting(|count| count > 0).await;
    locked.release().await;
    let paid = within_reason("the debit", waiting).await.expect("no panic");
    let paid = paid.expect("posted").into_inner();
    assert_eq!(paid.balances[0].category, "FOOD");
    let account = account_of(&mut ballast.accounts, "a").await;
    assert_eq!(account.balances.len(), 4);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn who_waits_for_an_account_does_not_wait_for_its_other_categories() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 10).await;
    open(&mut ballast, "b", 10).await;
    fill(&mut ballast.balances, "a", ["FOOD", "MEAL"]).await;
    let of = |category: &str| {
        format!(
            "SELECT 1 FROM balances WHERE account_id = 'a' AND category = '{category}' FOR UPDATE"
        )
    };
    let food = ballast.lock_with(&of("FOOD")).await;
    let main = ballast.lock_with(&of("main")).await;
    let mut waiting = ballast.own_balances();
    let waiting = tokio::spawn(async move {
        let paid = debit_of("paid", "a", ["MEAL"], 10);
        waiting.debit(paid).await
    });
    ballast.until_waiting(|count| count > 0).await;
    main.release().await;
    let paid = within_reason("the debit", waiting).await.expect("no panic");
    paid.expect("posted");

    // A merge waits for all of them.
    let mut waiting = ballast.own_balances();
    let merged = tokio::spawn(async move { waiting.merge_accounts(merge("m", "a", "b")).await });
    ballast.until_waiting(|count| count > 0).await;
    food.release().await;
    let merged = within_reason("the merge", merged).await.expect("no panic");
    assert_eq!(merged.expect("merged").into_inner().entries.len(), 4);
    ballast.assert_in_order().await;
}

/// Nothing that Ballast does leads there: a row that is made by somebody who does not hold the account's lock, after the
/// look at what there is. It is not overwritten; its limit counts.
#[tokio::test]
async fn a_row_that_appears_behind_the_look_is_read_before_anything_is_written_to_it() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 10).await;
    fill(&mut ballast.balances, "a", ["FOOD"]).await;
    let inserted = ballast
        .lock_with(
            "INSERT INTO balances (account_id, category, currency_code, balance_limit)
             VALUES ('a', 'CASH', 'EUR', 5)",
        )
        .await;
    let mut waiting = ballast.own_balances();
    let waiting = tokio::spawn(async move { waiting.credit(credit_of("c", "a", "CASH", 6)).await });
    ballast.until_waiting(|count| count > 0).await;
    inserted.commit().await;
    let answer = within_reason("the credit", waiting)
        .await
        .expect("no panic");
    Rejection::of(answer).expect(Code::FailedPrecondition, "BALANCE_LIMIT_EXCEEDED");
    let sql = ballast.database.sql().await;
    sql.batch_execute("UPDATE balances SET sibling_count = 2 WHERE category = 'main'")
        .await
        .expect("counted");
    ballast.assert_in_order().await;
}
