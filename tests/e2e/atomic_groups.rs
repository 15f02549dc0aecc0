//! Atomic groups: all commands of a group happen, or none does; on accounts that others use, too.

use std::sync::Arc;
use std::time::Duration;

use ballast::batcher::{Answer, Batcher};
use ballast::domain::{
    AccountId, Amount, BalanceKey, Category, Command, Currency, Movement, Note, OperationId, Source,
};
use ballast::store::{GroupDecision, Observer, Store};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::instance::config;
use crate::support::*;

/// A batcher of our own beside the instance, on the same database.
fn batcher(ballast: &Ballast) -> Batcher {
    let config = config(ballast.database.url());
    let observer = Observer::default();
    let store = Store::new(&config.store, &observer).expect("a store");
    let (batcher, _running) = Batcher::start(
        &Handle::current(),
        Arc::new(store),
        observer,
        config.batcher,
    );
    batcher
}

fn pays(operation_id: &str, from: &str, to: &str, minor_units: i64) -> Arc<Command> {
    let source = Source {
        account_id: AccountId::parse(from).expect("an id"),
        categories: vec![Category::main()],
    };
    let destination = BalanceKey {
        account_id: AccountId::parse(to).expect("an id"),
        category: Category::main(),
    };
    let amount = Amount::new(minor_units).expect("an amount");
    Arc::new(Command::of_movement(
        OperationId::parse(operation_id).expect("an id"),
        Movement::transfer(source, destination, None).expect("two accounts"),
        (amount, Currency::new("EUR").expect("a currency")),
        Note::default(),
    ))
}

async fn execute_group<const N: usize>(
    batcher: &Batcher,
    commands: [Arc<Command>; N],
) -> GroupDecision {
    let deadline = Instant::now() + Duration::from_secs(60);
    match batcher.execute_group(Arc::new(commands), deadline).await {
        Answer::Decided(decision) => decision,
        Answer::Failed(failure) => panic!("not decided: {failure:?}"),
    }
}

#[tokio::test]
async fn a_group_happens_as_a_whole_or_not_at_all() {
    let mut ballast = Ballast::start().await;
    for (name, minor_units) in [("a", 100), ("b", 0), ("c", 0)] {
        open(&mut ballast, name, minor_units).await;
    }
    let batcher = batcher(&ballast);
    for replayed in [false, true] {
        // The second one pays with what the first one brought.
        let group = [pays("1", "a", "b", 60), pays("2", "b", "c", 50)];
        let receipts = execute_group(&batcher, group).await.expect("posted");
        let all_replayed: Vec<bool> = receipts.iter().map(|it| it.replayed).collect();
        assert_eq!(all_replayed, [replayed; 2]);
    }
    for _ in 0..2 {
        let group = [pays("3", "a", "b", 30), pays("4", "a", "c", 30)];
        let refused = execute_group(&batcher, group).await;
        let refused = refused.expect_err("there are 40, and 60 are needed");
        assert_eq!(refused.index, 1);
        assert!(refused.refusal.to_string().contains("available"));
    }
    let mut left = Vec::new();
    for name in ["a", "b", "c"] {
        left.push(posted(&mut ballast.balances, name).await);
    }
    assert_eq!(left, [40, 10, 50]);
    // The id of the member that was not to blame is free.
    let receipts = execute_group(&batcher, [pays("3", "a", "b", 30)]).await;
    assert!(!receipts.expect("posted")[0].replayed);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn groups_wait_for_locked_accounts_and_meet_in_every_order() {
    let mut ballast = Ballast::start().await;
    let names: Vec<String> = (0..6).map(|number| number.to_string()).collect();
    for name in &names {
        open(&mut ballast, name, 1_000).await;
    }
    // Two batchers on one database have no scheduler in common.
    let batchers = [batcher(&ballast), batcher(&ballast)];
    let lock = ballast.lock("3").await;
    let mut sent = JoinSet::new();
    for number in 0..60_usize {
        let name = |index: usize| &names[(number * 5 + index) % names.len()];
        let group = [0, 1, 2].map(|index| {
            let id = format!("{number}-{index}");
            pays(&id, name(index), name(index + 1), 1)
        });
        let batcher = batchers[number % 2].clone();
        sent.spawn(async move { execute_group(&batcher, group).await });
    }
    ballast.until_waiting(|count| count > 0).await;
    lock.release().await;
    while let Some(decision) = sent.join_next().await {
        let receipts = decision.expect("no panic").expect("posted");
        assert_eq!(receipts.len(), 3);
    }
    let mut sum = 0;
    for name in &names {
        sum += posted(&mut ballast.balances, name).await;
    }
    assert_eq!(sum, 6_000);
    ballast.assert_in_order().await;
}
