//! Batches: coalescing changes nothing but the speed. The same commands get the same answers in batches of one and of a
//! thousand, and one bad command does not sink its neighbours.

use std::sync::Arc;
use std::time::Duration;

use ballast::domain::{
    AccountId, Amount, BalanceKey, Category, Command, Currency, Movement, Note, OperationId,
    Outcome, Source,
};
use ballast::store::{Job, Ledger, Locking, Observer, Store, Verdict};
use tokio::time::Instant;

use crate::support::instance::config;
use crate::support::postgres::Database;
use crate::support::*;

const ACCOUNTS: [&str; 5] = ["a", "b", "c", "d", "nobody"];
const CATEGORIES: [&str; 3] = ["main", "MEAL", "CASH"];

/// A thousand commands of all kinds, some invalid on purpose, some repeated, some under a used id. Always the same.
fn commands() -> Vec<Arc<Command>> {
    let mut state = 42_u64;
    let mut next = move |bound: usize| {
        // Knuth's MMIX generator: any will do, as long as it is the same every time.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let mut commands: Vec<Arc<Command>> = Vec::new();
    for index in 0..1000 {
        if index % 10 == 9 {
            commands.push(commands[next(index)].clone());
            continue;
        }
        commands.push({
            let key = |account: usize, category: usize| BalanceKey {
                account_id: AccountId::parse(ACCOUNTS[account]).expect("an id"),
                category: Category::parse(CATEGORIES[category]).expect("a category"),
            };
            let (from, to) = (key(next(5), next(3)), key(next(5), next(3)));
            let mut categories = vec![from.category.clone()];
            if next(2) == 0 && !categories.contains(&Category::main()) {
                categories.push(Category::main());
            }
            let source = Source {
                account_id: from.account_id,
                categories,
            };
            let movement = match next(4) {
                0 => Movement::Debit { source },
                1 => Movement::Credit { destination: to },
                _ => Movement::transfer(source, to.clone(), None)
                    .unwrap_or(Movement::Credit { destination: to }),
            };
            Arc::new(Command::of_movement(
                OperationId::parse(&format!("op-{}", next(900))).expect("an id"),
                movement,
                (
                    Amount::new(1 + next(200) as i64).expect("an amount"),
                    Currency::new(if next(20) == 0 { "USD" } else { "EUR" }).expect("a currency"),
                ),
                Note::default(),
            ))
        });
    }
    commands
}

/// What a caller is told, without the times.
async fn answers(batch_size: usize) -> (Vec<String>, Ballast) {
    let mut ballast = Ballast::start().await;
    for name in &ACCOUNTS[..4] {
        open(&mut ballast, name, 100).await;
    }
    let store = config(ballast.database.url()).store;
    let store = Store::new(&store, &Observer::default()).expect("a store");
    let mut answers = Vec::new();
    for chunk in commands().chunks(batch_size) {
        let jobs: Vec<Job> = chunk
            .iter()
            .map(|command| {
                let deadline = Instant::now() + Duration::from_secs(60);
                Job::new(command.clone(), Arc::default(), deadline)
            })
            .collect();
        for verdict in store
            .execute(&jobs, Locking::Skip)
            .await
            .expect("a batch is executed")
        {
            answers.push(match verdict {
                Verdict::Decided(Ok(receipt)) => match &receipt.operation.outcome {
                    Outcome::Posted(entries) => format!("{entries:?} {}", receipt.replayed),
                    other => unreachable!("no refusal has a receipt: {other:?}"),
                },
                Verdict::Decided(Err(refusal)) => refusal.to_string(),
                other => panic!("nobody else is here: {other:?}"),
            });
        }
    }
    (answers, ballast)
}

#[tokio::test]
async fn batches_of_one_and_of_a_thousand_give_the_same_answers() {
    let (one_by_one, singles) = answers(1).await;
    let (at_once, batch) = answers(1000).await;
    assert_eq!(one_by_one, at_once);
    for reason in [
        "[Entry",
        "available in",
        "does not exist",
        "already used",
        "is in EUR",
        "true",
    ] {
        assert!(
            at_once.iter().any(|answer| answer.contains(reason)),
            "the commands cover {reason}"
        );
    }
    for name in &ACCOUNTS[..4] {
        let (mut left, mut right) = (singles.accounts.clone(), batch.accounts.clone());
        let state = |account: ballast::rpc::proto::Account| {
            let state = account
                .balances
                .into_iter()
                .map(|b| (b.category, b.posted_minor_units, b.version));
            state.collect::<Vec<_>>()
        };
        assert_eq!(
            state(account_of(&mut left, name).await),
            state(account_of(&mut right, name).await)
        );
    }
    singles.assert_in_order().await;
    batch.assert_in_order().await;
}

/// A constraint that only this test adds makes the database reject one of many commands that wait together.
#[tokio::test]
async fn a_poisonous_command_sinks_alone() {
    let database = Arc::new(Database::migrated().await);
    let mut ballast = Ballast::start_on(database.clone(), |config| config.batcher.lanes = 1).await;
    open(&mut ballast, "a", 1_000).await;
    let sql = database.sql().await;
    sql.batch_execute("ALTER TABLE operations ADD CHECK (description <> 'poison')")
        .await
        .expect("altered");

    // All of them gather behind a lock, so that they run in one batch.
    let lock = ballast.lock("a").await;
    let calls: Vec<_> = (0..20)
        .map(|index| {
            let mut balances = ballast.balances.clone();
            let description = if index == 7 { "poison" } else { "" }.to_owned();
            let request = ballast::rpc::proto::DebitRequest {
                description,
                ..debit(&index.to_string(), "a", 1)
            };
            tokio::spawn(async move { balances.debit(request).await })
        })
        .collect();
    ballast.until_waiting(|count| count > 0).await;
    lock.release().await;
    for (index, call) in calls.into_iter().enumerate() {
        let answer = call.await.expect("no panic");
        match index {
            7 => drop(Rejection::of(answer).expect(tonic::Code::Internal, "INTERNAL")),
            _ => drop(answer.expect("posted")),
        }
    }
    assert_eq!(posted(&mut ballast.balances, "a").await, 1_000 - 19);
    ballast.assert_in_order().await;
}
