//! Pipelines: many commands of one caller in flight.

use super::*;

/// Hands commands on one account over to a pipeline, waiting for slots.
async fn submit_all(
    batcher: &Batcher,
    pipeline: &mut Pipeline<u32>,
    numbers: std::ops::Range<u32>,
    deadline: Instant,
) -> Result<(), Failure> {
    for number in numbers {
        let slot = batcher.slot(deadline).await?;
        let command = credit(&number.to_string(), "a");
        pipeline.submit(slot, command, deadline, number);
    }
    Ok(())
}

async fn answers(mut pipeline: Pipeline<u32>) -> Vec<(u32, Answer)> {
    let mut answers = Vec::new();
    while let Some(answer) = pipeline.next().await {
        answers.push(answer);
    }
    answers
}

#[tokio::test]
async fn a_pipeline_shares_transactions_and_knows_its_answers() {
    let ledger = Scripted::new([Script::Gated]);
    let (batcher, _running) = start(&ledger, config());
    let first = send(&batcher, "first", "a").await;
    let mut pipeline = Pipeline::default();
    let submitted = submit_all(&batcher, &mut pipeline, 0..40, later()).await;
    assert_eq!(submitted, Ok(()));
    tokio::task::yield_now().await;
    ledger.gate.notify_one();
    assert!(decided(first).await);
    let answers = answers(pipeline).await;
    let numbers: Vec<u32> = answers.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (0..40).collect::<Vec<_>>());
    for (number, answer) in answers {
        let Answer::Decided(Ok(receipt)) = answer else {
            panic!("not decided: {answer:?}")
        };
        let operation_id = receipt.operation.command.operation_id.to_string();
        assert_eq!(operation_id, number.to_string());
    }
    assert_eq!(ledger.batches()[1].len(), 40);
}

#[tokio::test(start_paused = true)]
async fn pipelines_wait_for_slots_and_leave_half_of_the_queue_to_single_callers() {
    let ledger = Scripted::new([Script::Gated]);
    let (batcher, _running) = start(
        &ledger,
        BatcherConfig {
            queue_depth_max: 8,
            lanes: 1,
            ..config()
        },
    );
    let first = send(&batcher, "first", "a").await;
    let mut pipeline = Pipeline::default();
    let soon = Instant::now() + Duration::from_millis(10);
    let submitted = submit_all(&batcher, &mut pipeline, 0..8, soon).await;
    let waited = Failure::Deadline {
        outcome_unknown: false,
    };
    assert_eq!(
        submitted,
        Err(waited),
        "half of eight are in, the next one waits"
    );
    let mut single = Vec::new();
    for index in 0..4 {
        single.push(send(&batcher, &format!("single-{index}"), "a").await);
    }
    assert!(single.iter().all(|sent| !sent.is_finished()));

    let others = batcher.clone();
    let waiting = tokio::spawn(async move {
        let mut pipeline = Pipeline::default();
        submit_all(&others, &mut pipeline, 100..120, later()).await?;
        Ok::<_, Failure>(answers(pipeline).await.len())
    });
    tokio::task::yield_now().await;
    ledger.gate.notify_one();
    assert!(decided(first).await);
    for sent in single {
        assert!(decided(sent).await);
    }
    let answered = waiting.await.expect("no panic");
    assert_eq!(answered, Ok(20), "more than there was ever room for");
    // Nobody looked at the clock meanwhile, so these have their true answers.
    assert_eq!(answers(pipeline).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn each_command_of_a_pipeline_has_its_own_deadline() {
    let ledger = Scripted::new([Script::Gated]);
    let (batcher, _running) = start(&ledger, config());
    let mut pipeline = Pipeline::default();
    let after = |ms| Instant::now() + Duration::from_millis(ms);
    for (number, deadline) in [
        (1, after(30)),
        (2, after(10)),
        (3, after(20)),
        (4, after(60_000)),
    ] {
        let submitted = submit_all(&batcher, &mut pipeline, number..number + 1, deadline).await;
        assert_eq!(submitted, Ok(()));
        tokio::task::yield_now().await;
    }
    for expected in [2, 3, 1] {
        let (number, answer) = pipeline.next().await.expect("an answer");
        assert_eq!(number, expected);
        assert!(matches!(
            answer,
            Answer::Failed(Failure::Deadline {
                outcome_unknown: false
            })
        ));
    }
    ledger.gate.notify_one();
    assert_eq!(answers(pipeline).await.len(), 1);
    assert_eq!(
        ledger.batches(),
        [vec!["1"], vec!["4"]],
        "2 and 3 were never executed"
    );
}

#[tokio::test]
async fn a_pipeline_that_is_dropped_takes_its_commands_with_it() {
    let ledger = Scripted::new([Script::Gated]);
    let (batcher, _running) = start(&ledger, config());
    let first = send(&batcher, "first", "a").await;
    let mut pipeline = Pipeline::default();
    let submitted = submit_all(&batcher, &mut pipeline, 0..10, later()).await;
    assert_eq!(submitted, Ok(()));
    drop(pipeline);
    ledger.gate.notify_one();
    assert!(decided(first).await);
    assert!(decided(send(&batcher, "last", "a").await).await);
    assert_eq!(ledger.batches(), [vec!["first"], vec!["last"]]);
}

#[tokio::test]
async fn a_pipeline_hears_of_a_lane_that_died() {
    let ledger = Scripted::new([Script::Panic]);
    let (batcher, _running) = start(&ledger, config());
    let mut pipeline = Pipeline::default();
    let submitted = submit_all(&batcher, &mut pipeline, 0..1, later()).await;
    assert_eq!(submitted, Ok(()));
    let lost = Failure::DatabaseUnavailable {
        outcome_unknown: false,
    };
    match &answers(pipeline).await[..] {
        [(0, Answer::Failed(failure))] => assert_eq!(*failure, lost),
        other => panic!("{other:?}"),
    }
}
