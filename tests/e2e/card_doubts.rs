//! Doubts about card payments: what is late is `07`, and what happens after its `07` is given back, once, whoever dies.

use std::time::{Duration, Instant};

use ballast::rpc::proto::{ListOperationsRequest, OperationKind, OperationState};
use nix::sys::signal::Signal;

use crate::support::binary::Running;
use crate::support::cards::*;
use crate::support::doubts::*;
use crate::support::instance::channel;
use crate::support::*;

#[tokio::test]
async fn a_card_whose_account_is_locked_outside_gets_07_in_time_and_nothing_moves_later() {
    let (mut roomy, _) = hurried([100, 0, 100]).await;
    let timeout = Duration::from_millis(100);
    let ballast = Ballast::start_on(roomy.database.clone(), deciding_within(timeout)).await;
    let mut cards = ballast.cards();
    // Connections and statements are made on first use.
    let warm = |index| payment(&format!("warm-{index}"), "c", 1_000, "5411");
    let mut index = 0;
    while decided(&mut cards, warm(index)).await.0 != "51" {
        index += 1;
    }

    let lock = roomy.lock("c").await;
    let mut took = Vec::new();
    for number in 0..8 {
        let asked = Instant::now();
        let late = decided(
            &mut cards,
            payment(&format!("late-{number}"), "c", 10, "5411"),
        )
        .await;
        took.push(asked.elapsed());
        assert_eq!(late, says("07", "DEADLINE"));
    }
    // The machine may be busy with something else, but not each time.
    let soonest = took.iter().min().expect("some");
    assert!(*soonest < timeout + Duration::from_millis(50), "{took:?}");
    lock.release().await;

    // Whatever waited behind the lock would have gone before this.
    let next = decided(&mut roomy.cards(), payment("next", "c", 1, "5411")).await;
    assert_eq!(next, says("00", "FOOD"));
    for number in 0..8 {
        let id = format!("late-{number}");
        assert_eq!(operation(&mut roomy.balances, &id).await, None);
    }
    assert_eq!(pockets(&mut roomy.balances, "c").await, [99, 0, 100]);
    // Sent again it is evaluated afresh.
    let again = decided(&mut roomy.cards(), payment("late-0", "c", 10, "5411")).await;
    assert_eq!(again, says("00", "FOOD"));
    // Nobody gives a verdict on what was not begun. One of those before the lock may have been late with its refusal.
    let about_late = "card_verdicts WHERE operation_id NOT LIKE 'warm-%'";
    assert_eq!(count(&roomy.database, about_late).await, 0);
    roomy.assert_in_order().await;
}

#[tokio::test]
async fn a_payment_that_commits_after_its_07_is_given_back_and_its_07_stays() {
    let (mut roomy, ballast) = hurried([5, 0, 100]).await;
    let lock = roomy.lock_with(BLOCK_WRITES).await;
    let id = &in_doubt(&roomy, &mut ballast.cards(), "p").await;
    let reversal_id = &format!("{id}:reversal");
    // While it hangs, nobody knows; another attempt is withdrawn.
    let meanwhile = decided(&mut ballast.cards(), payment(id, "c", 10, "5411")).await;
    assert_eq!(meanwhile, says("07", "DEADLINE"));
    assert_eq!(
        count(&roomy.database, "card_verdicts WHERE unsettled").await,
        1
    );
    lock.release().await;

    let reversal = until_recorded(&mut roomy.balances, reversal_id).await;
    assert_eq!(
        (reversal.kind(), reversal.state()),
        (OperationKind::Credit, OperationState::Posted)
    );
    assert_eq!(reversal.destination.expect("a credit").category, "CASH");
    assert_eq!(reversal.metadata["reverses"], *id);
    assert_eq!(pockets(&mut roomy.balances, "c").await, [5, 0, 100]);
    for instance in [&roomy, &ballast] {
        let retry = decided(&mut instance.cards(), payment(id, "c", 10, "5411")).await;
        assert_eq!(retry, says("07", "PAYMENT_REVERSED"));
    }
    let request = ListOperationsRequest {
        filter: Some(
            ballast::rpc::proto::list_operations_request::Filter::AccountId("c".to_owned()),
        ),
        page_size: 2,
        ..ListOperationsRequest::default()
    };
    let listed = roomy
        .balances
        .list_operations(request)
        .await
        .expect("a list")
        .into_inner();
    let ids: Vec<_> = listed
        .operations
        .iter()
        .map(|listed| listed.operation_id.as_str())
        .collect();
    assert_eq!(ids, [reversal_id, id]);
    until_count(&roomy.database, "card_verdicts WHERE unsettled", 0).await;
    roomy.assert_in_order().await;
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_keep_its_payment_from_being_given_back() {
    let (mut roomy, ballast) = hurried([100, 0, 0]).await;
    let lock = roomy.lock_with(BLOCK_WRITES).await;
    let mut number = 0;
    let id = 'caught: loop {
        let id = format!("p-{number}");
        let (mut cards, request) = (ballast.cards(), payment(&id, "c", 10, "5411"));
        let call = tokio::spawn(async move { decided(&mut cards, request).await });
        while !call.is_finished() {
            if count(&roomy.database, WRITERS).await > 0 {
                call.abort();
                break 'caught id;
            }
        }
        number += 1;
        assert!(number < 20, "no payment was ever begun");
    };
    until_count(&roomy.database, "card_verdicts WHERE unsettled", 1).await;
    lock.release().await;
    until_recorded(&mut roomy.balances, &format!("{id}:reversal")).await;
    assert_eq!(pockets(&mut roomy.balances, "c").await, [100, 0, 0]);
    roomy.assert_in_order().await;
}

#[tokio::test]
async fn a_shutdown_waits_until_late_payments_are_given_back() {
    let (mut roomy, mut ballast) = hurried([100, 0, 0]).await;
    let lock = roomy.lock_with(BLOCK_WRITES).await;
    let id = in_doubt(&roomy, &mut ballast.cards(), "p").await;
    ballast.begin_to_stop();
    while tokio::net::TcpStream::connect(ballast.address)
        .await
        .is_ok()
    {
        tokio::task::yield_now().await;
    }
    lock.release().await;
    assert!(ballast.stopped().await);
    assert!(
        operation(&mut roomy.balances, &format!("{id}:reversal"))
            .await
            .is_some()
    );
    assert_eq!(pockets(&mut roomy.balances, "c").await, [100, 0, 0]);
    roomy.assert_in_order().await;
}

#[tokio::test]
async fn a_retry_that_was_approved_first_keeps_the_payment() {
    let (mut roomy, ballast) = hurried([100, 0, 0]).await;
    let lock = roomy.lock_with(BLOCK_WRITES).await;
    // Plays the retry on another instance: nobody gives a verdict before it.
    let retry = roomy.database.sql().await;
    let first = "BEGIN; LOCK TABLE card_verdicts IN SHARE ROW EXCLUSIVE MODE";
    retry.batch_execute(first).await.expect("first");
    let id = &in_doubt(&roomy, &mut ballast.cards(), "p").await;
    lock.release().await;
    until_recorded(&mut roomy.balances, id).await;
    let kept = "INSERT INTO card_verdicts (operation_id, attempt, verdict, unsettled, create_time)
                SELECT operation_id, metadata ->> 'attempt', 'KEPT', false, now() FROM operations
                WHERE operation_id = $1";
    assert_eq!(retry.execute(kept, &[id]).await.expect("kept"), 1);
    retry.batch_execute("COMMIT").await.expect("committed");

    for _ in 0..2 {
        let again = decided(&mut roomy.cards(), payment(id, "c", 10, "5411")).await;
        assert_eq!(again, says("00", "FOOD"));
    }
    // When it has stopped, nothing is left that could still give it back.
    assert!(ballast.stopped().await);
    assert_eq!(
        operation(&mut roomy.balances, &format!("{id}:reversal")).await,
        None
    );
    assert_eq!(pockets(&mut roomy.balances, "c").await, [90, 0, 0]);
    roomy.assert_in_order().await;
}

#[tokio::test]
async fn while_a_doubt_is_not_durable_nobody_is_told_that_it_is_reversed() {
    let (mut roomy, ballast) = hurried([100, 0, 0]).await;
    let writes = roomy.lock_with(BLOCK_WRITES).await;
    let verdicts = roomy
        .lock_with("LOCK TABLE card_verdicts IN SHARE MODE")
        .await;
    let mut cards = ballast.cards();
    let (id, message) = 'caught: {
        for number in 0..20 {
            let id = format!("p-{number}");
            let late = authorize(&mut cards, payment(&id, "c", 10, "5411")).await;
            if is_in_doubt(&roomy.database, &late).await {
                break 'caught (id, late.message);
            }
        }
        panic!("no payment was ever begun")
    };
    assert!(!message.contains("reversed"), "{message}");
    assert!(message.contains("unknown"), "{message}");
    writes.release().await;
    until_recorded(&mut roomy.balances, &id).await;
    // The payment is there, and whether it stands cannot be written down: nobody says that nothing happened.
    let again = authorize(&mut cards, payment(&id, "c", 10, "5411")).await;
    assert_eq!(
        (again.code.as_str(), again.reason.as_str()),
        ("07", "DEADLINE")
    );
    assert!(again.message.contains("unknown"), "{}", again.message);
    verdicts.release().await;
    // Either its own caller or the retry gave the first verdict; what is told next is what is done.
    let last = within_reason("an answer that stays", async {
        loop {
            let answer = decided(&mut roomy.cards(), payment(&id, "c", 10, "5411")).await;
            if !answer.1.contains("PENDING") {
                return answer;
            }
        }
    })
    .await;
    let left = pockets(&mut roomy.balances, "c").await;
    match (last.0.as_str(), last.1.as_str()) {
        ("00", "FOOD") => assert_eq!(left, [90, 0, 0]),
        ("07", "PAYMENT_REVERSED") => assert_eq!(left, [100, 0, 0]),
        other => panic!("{other:?}"),
    }
    roomy.assert_in_order().await;
}

#[tokio::test]
async fn of_a_retry_and_a_reversal_exactly_one_has_its_way() {
    let (mut roomy, ballast) = hurried([100, 0, 0]).await;
    let mut standing = 100;
    for round in 0..4 {
        let writes = roomy.lock_with(BLOCK_WRITES).await;
        let verdicts = roomy
            .lock_with("LOCK TABLE card_verdicts IN SHARE MODE")
            .await;
        let id = in_doubt(&roomy, &mut ballast.cards(), &format!("p-{round}")).await;
        writes.release().await;
        until_recorded(&mut roomy.balances, &id).await;
        // Both want to give their verdict now, on two instances; the lock lets them begin together.
        let mut cards = roomy.cards();
        let request = payment(&id, "c", 10, "5411");
        let retry = tokio::spawn(async move { decided(&mut cards, request).await });
        within_reason("both", roomy.until_waiting(|count| count > 1)).await;
        verdicts.release().await;
        let answer = retry.await.expect("no panic");
        let again = decided(&mut roomy.cards(), payment(&id, "c", 10, "5411")).await;
        assert_eq!(answer.0, again.0, "the answer stays");
        if answer == says("00", "FOOD") {
            assert_eq!(again, answer);
            standing -= 10;
        } else {
            // Before the reversal is posted it says so.
            let (pending, reversed) = (
                says("07", "REVERSAL_PENDING"),
                says("07", "PAYMENT_REVERSED"),
            );
            assert!(answer == pending || answer == reversed, "{answer:?}");
            assert!(again == pending || again == reversed, "{again:?}");
            until_recorded(&mut roomy.balances, &format!("{id}:reversal")).await;
        }
    }
    assert!(ballast.stopped().await);
    assert_eq!(pockets(&mut roomy.balances, "c").await, [standing, 0, 0]);
    roomy.assert_in_order().await;
}

#[tokio::test]
async fn what_a_killed_process_left_in_doubt_is_given_back_by_another() {
    let mut roomy = Ballast::start().await;
    open_card(&mut roomy, "c", [100, 0, 0]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let url = roomy.database.url();
    let arguments = ["--database-url", &url, "--card-timeout-ms", "1000"];
    let killed = Running::start(folder.path(), &arguments);
    // Somebody is about to use the ids of all reversals, and keeps payments from being written until the savepoint is back.
    let outside = roomy.database.sql().await;
    let block = format!(
        "BEGIN;
         INSERT INTO operations (operation_id, kind, amount, currency_code, create_time, destination_account_id,
                                 destination_category, destination_version, destination_posted_after)
         SELECT 'p-' || i || ':reversal', 'CREDIT', 10, 'EUR', now(), 'c', 'FOOD', 1, 10 FROM generate_series(0, 19) i;
         SAVEPOINT ids; {BLOCK_WRITES}"
    );
    outside.batch_execute(&block).await.expect("blocked");
    let id = &in_doubt(&roomy, &mut Cards::new(channel(killed.address)), "p").await;
    // The payment commits, and its reversal waits for the id while the process dies.
    outside
        .batch_execute("ROLLBACK TO SAVEPOINT ids")
        .await
        .expect("unblocked");
    until_recorded(&mut roomy.balances, id).await;
    killed.signal(Signal::SIGKILL);
    killed.ended().await;
    let again = decided(&mut roomy.cards(), payment(id, "c", 10, "5411")).await;
    assert_eq!(
        again,
        says("07", "REVERSAL_PENDING"),
        "before anyone gave it back"
    );
    // What the dead process had sent does not go on without it.
    let waiting = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    outside.query_one(waiting, &[]).await.expect("ended");
    within_reason("the end", roomy.until_waiting(|count| count == 0)).await;
    outside.batch_execute("ROLLBACK").await.expect("gone");

    // Time passes; and one more died whose payment never came to be.
    let sql = roomy.database.sql().await;
    sql.batch_execute(
        "UPDATE card_verdicts SET next_try_time = next_try_time - interval '1 minute';
         INSERT INTO card_verdicts (operation_id, attempt, verdict, unsettled, create_time, next_try_time)
         VALUES ('never', '1', 'REVERSED', true, now() - interval '1 hour', now() - interval '1 hour'),
                ('perhaps', '1', 'REVERSED', true, now() - interval '1 minute', now() - interval '1 minute')",
    )
    .await
    .expect("older");
    let mut next = roomy.sibling().await;
    until_recorded(&mut next.balances, &format!("{id}:reversal")).await;
    assert_eq!(pockets(&mut next.balances, "c").await, [100, 0, 0]);
    until_count(&next.database, "card_verdicts WHERE unsettled", 1).await;
    let left = "card_verdicts WHERE unsettled AND operation_id = 'perhaps'";
    assert_eq!(count(&next.database, left).await, 1);
    next.assert_in_order().await;
}
