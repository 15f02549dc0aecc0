//! Atomic groups: each is one job.

use super::*;

#[tokio::test]
async fn a_group_is_one_job_that_waits_for_all_of_its_accounts() {
    let ledger = Scripted::new([Script::Gated]);
    let (batcher, _running) = start(&ledger, config());
    let first = send(&batcher, "first", "b").await;
    let group = group_of(&[("1", "a"), ("2", "b"), ("3", "c")]);
    let group = send_group(&batcher, group).await;
    assert!(decided(send(&batcher, "beside", "c").await).await);
    ledger.gate.notify_one();
    assert!(decided(first).await);
    assert_eq!(receipts(group).await, ["1", "2", "3"]);
    let batches = [vec!["first"], vec!["beside"], vec!["1", "2", "3"]];
    assert_eq!(ledger.batches(), batches);
    let none = batcher.execute_group(group_of(&[]), later()).await;
    assert!(matches!(none, Answer::Decided(Ok(receipts)) if receipts.is_empty()));
}

#[tokio::test]
async fn a_group_that_is_larger_than_a_batch_is_one_by_itself_in_its_turn() {
    let ledger = Scripted::new([Script::Gated]);
    let config = BatcherConfig {
        lanes: 1,
        batch_size_max: 2,
        ..config()
    };
    let (batcher, _running) = start(&ledger, config);
    let first = send(&batcher, "first", "x").await;
    let before = send(&batcher, "before", "a").await;
    let group = group_of(&[("1", "a"), ("2", "b"), ("3", "c")]);
    let group = send_group(&batcher, group).await;
    let after = send(&batcher, "after", "y").await;
    ledger.gate.notify_one();
    assert!(decided(first).await && decided(before).await && decided(after).await);
    assert_eq!(receipts(group).await, ["1", "2", "3"]);
    let batches = [
        vec!["first"],
        vec!["before"],
        vec!["1", "2", "3"],
        vec!["after"],
    ];
    assert_eq!(ledger.batches(), batches);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_nobody_waits_for_is_not_executed() {
    let ledger = Scripted::new([Script::Gated]);
    let (batcher, _running) = start(&ledger, config());
    let first = send(&batcher, "first", "a").await;
    let soon = Instant::now() + Duration::from_millis(10);
    let late = batcher.execute_group(group_of(&[("1", "a"), ("2", "b")]), soon);
    let too_late = Failure::Deadline {
        outcome_unknown: false,
    };
    assert!(matches!(late.await, Answer::Failed(failure) if failure == too_late));
    let abandoned = send_group(&batcher, group_of(&[("3", "a"), ("4", "b")])).await;
    abandoned.abort();
    assert!(abandoned.await.is_err_and(|error| error.is_cancelled()));
    ledger.gate.notify_one();
    assert!(decided(first).await);
    assert!(decided(send(&batcher, "last", "a").await).await);
    assert_eq!(ledger.batches(), [vec!["first"], vec!["last"]]);
}

#[tokio::test(start_paused = true)]
async fn groups_wait_for_slots_with_pipelines() {
    let ledger = Scripted::new([Script::Gated]);
    let config = BatcherConfig {
        queue_depth_max: 8,
        lanes: 1,
        ..config()
    };
    let (batcher, _running) = start(&ledger, config);
    let first = send(&batcher, "first", "a").await;
    let three = send_group(&batcher, group_of(&[("1", "a"), ("2", "a"), ("3", "a")])).await;
    // Four slots are shared, so there is one left. A group that is larger than all of them takes all.
    let five = group_of(&[("4", "b"), ("5", "b"), ("6", "b"), ("7", "b"), ("8", "b")]);
    let five = send_group(&batcher, five).await;
    assert!(batcher.try_slot().is_none(), "the group came first");
    ledger.gate.notify_one();
    assert!(decided(first).await);
    assert_eq!(receipts(three).await.len(), 3);
    assert_eq!(receipts(five).await.len(), 5);
    assert!(batcher.try_slot().is_some());
}

#[tokio::test]
async fn a_group_hears_of_a_lane_that_died() {
    let ledger = Scripted::new([Script::Panic]);
    let (batcher, _running) = start(&ledger, config());
    let sent = send_group(&batcher, group_of(&[("1", "a"), ("2", "b")])).await;
    let lost = Failure::DatabaseUnavailable {
        outcome_unknown: false,
    };
    let answer = sent.await.expect("no panic");
    assert!(matches!(&answer, Answer::Failed(failure) if *failure == lost));
}

/// Which of its ids another session records, is not known.
#[tokio::test(start_paused = true)]
async fn a_group_waits_for_each_of_its_operation_ids() {
    let ledger = Scripted::with_waits([Script::Fail(StoreError::LockTimeout)], [Waited::Granted]);
    let (batcher, _running) = start(&ledger, config());
    let group = send_group(&batcher, group_of(&[("2", "a"), ("1", "b")])).await;
    while ledger.awaited().is_empty() {
        tokio::task::yield_now().await;
    }
    let same_id = send(&batcher, "2", "c").await;
    assert_eq!(ledger.batches().len(), 1, "it waits with the group");
    ledger.wait_gate.notify_one();
    assert_eq!(receipts(group).await, ["2", "1"]);
    assert!(decided(same_id).await);
    assert_eq!(ledger.awaited(), ["1", "2"]);
}
