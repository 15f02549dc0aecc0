//! Concurrency: nothing is lost, nothing is doubled, nothing deadlocks, and whoever holds a lock outside stops only
//! those who need it.

use std::collections::BTreeSet;

use tonic::Code;

use crate::support::*;

async fn deadlocks(ballast: &Ballast) -> i64 {
    let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    ballast
        .database
        .sql()
        .await
        .query_one(sql, &[])
        .await
        .expect("a count")
        .get(0)
}

#[tokio::test]
async fn sixty_four_clients_in_both_directions_lose_nothing() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 1_000).await;
    open(&mut ballast, "b", 1_000).await;
    let sibling = ballast.sibling().await;
    let clients: Vec<_> = (0..64)
        .map(|client| {
            let mut balances = if client % 4 < 2 {
                ballast.own_balances()
            } else {
                sibling.own_balances()
            };
            let (from, to) = if client % 2 == 0 {
                ("a", "b")
            } else {
                ("b", "a")
            };
            tokio::spawn(async move {
                let mut moved = 0;
                for round in 0..20 {
                    let id = format!("t-{client}-{round}");
                    match balances
                        .transfer(transfer(&id, from, to, 10 + client))
                        .await
                    {
                        Ok(_) => moved += 10 + client,
                        Err(status) => {
                            Rejection::of_status(&status)
                                .expect(Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
                        }
                    }
                }
                if from == "a" { -moved } else { moved }
            })
        })
        .collect();
    let mut expected = 1_000;
    for client in clients {
        expected += client.await.expect("no panic");
    }
    assert_eq!(posted(&mut ballast.balances, "a").await, expected);
    assert_eq!(posted(&mut ballast.balances, "b").await, 2_000 - expected);
    assert_eq!(deadlocks(&ballast).await, 0);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_hot_account_counts_every_payment_once() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "merchant", 0).await;
    for index in 0..50 {
        open(&mut ballast, &format!("payer-{index}"), 100).await;
    }
    let payers: Vec<_> = (0..50)
        .map(|payer| {
            let mut balances = ballast.balances.clone();
            tokio::spawn(async move {
                let mut versions = Vec::new();
                for round in 0..20 {
                    let request = transfer(
                        &format!("p-{payer}-{round}"),
                        &format!("payer-{payer}"),
                        "merchant",
                        1,
                    );
                    let response = balances
                        .transfer(request)
                        .await
                        .expect("posted")
                        .into_inner();
                    versions.push(response.balances[1].version);
                }
                versions
            })
        })
        .collect();
    let mut versions = BTreeSet::new();
    for payer in payers {
        versions.extend(payer.await.expect("no panic"));
    }
    assert_eq!(versions, (1..=1_000).collect());
    assert_eq!(posted(&mut ballast.balances, "merchant").await, 1_000);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn an_account_that_is_locked_outside_holds_up_nobody_else() {
    let mut ballast = Ballast::start().await;
    for name in ["locked", "a", "b"] {
        open(&mut ballast, name, 100).await;
    }
    let lock = ballast.lock("locked").await;

    let mut waiting = ballast.balances.clone();
    let from_a =
        tokio::spawn(async move { waiting.transfer(transfer("waits", "a", "locked", 1)).await });
    // It answers nothing as long as the lock is held; a and b go on meanwhile.
    for round in 0..50 {
        let there = ballast
            .balances
            .transfer(transfer(&format!("t-{round}"), "a", "b", 1));
        there.await.expect("a and b are not locked");
    }
    assert!(!from_a.is_finished());
    lock.release().await;
    from_a
        .await
        .expect("no panic")
        .expect("posted once the lock is gone");
    assert_eq!(posted(&mut ballast.balances, "a").await, 100 - 51);
    assert_eq!(posted(&mut ballast.balances, "locked").await, 101);
    ballast.assert_in_order().await;
}

/// Somebody may hold one category alone: who names another one goes on, who names it waits.
#[tokio::test]
async fn a_category_that_is_locked_outside_is_waited_for() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "card", 100).await;
    open(&mut ballast, "other", 100).await;
    let fill = transfer("fill", "card", "card", 40);
    let fill = ::ballast::rpc::proto::TransferRequest {
        destination_category: "MEAL".to_owned(),
        ..fill
    };
    ballast.balances.transfer(fill).await.expect("posted");
    let one_row =
        "SELECT 1 FROM balances WHERE account_id = 'card' AND category = 'MEAL' FOR UPDATE";
    let lock = ballast.lock_with(one_row).await;
    let of_main = debit("of-main", "card", 1);
    ballast.balances.debit(of_main).await.expect("posted");
    let mut waiting = ballast.balances.clone();
    let waits = tokio::spawn(async move {
        let mut request = debit("waits", "card", 1);
        request.categories = strings(["MEAL"]);
        waiting.debit(request).await
    });
    ballast.until_waiting(|count| count > 0).await;
    ballast
        .balances
        .debit(debit("goes-on", "other", 1))
        .await
        .expect("another account");
    assert!(!waits.is_finished());
    lock.release().await;
    waits
        .await
        .expect("no panic")
        .expect("posted once the lock is gone");
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_lock_that_stays_is_contention_not_a_refusal() {
    let mut ballast = Ballast::start_with(|config| {
        config.batcher.lock_wait_max = std::time::Duration::from_millis(200)
    })
    .await;
    open(&mut ballast, "a", 100).await;
    let lock = ballast.lock("a").await;
    let rejection = Rejection::of(ballast.balances.debit(debit("d", "a", 1)).await);
    let rejection = rejection.expect(Code::Aborted, "CONTENTION");
    assert_eq!(
        (rejection.facts(), rejection.has_retry_info),
        (vec![("account_id", "a")], true)
    );
    lock.release().await;
    let response = ballast
        .balances
        .debit(debit("d", "a", 1))
        .await
        .expect("nothing had happened")
        .into_inner();
    assert!(!response.replayed);
    ballast.assert_in_order().await;
}

/// A category is made by the first credit; two instances at once must not make it twice, nor overlook each other's.
#[tokio::test]
async fn a_new_category_does_not_race() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 1_000).await;
    let sibling = ballast.sibling().await;
    let calls: Vec<_> = (0..60)
        .map(|index| {
            let mut balances = if index % 2 == 0 {
                ballast.own_balances()
            } else {
                sibling.own_balances()
            };
            let request = ballast::rpc::proto::TransferRequest {
                destination_category: format!("C-{}", index % 10),
                ..transfer(&index.to_string(), "a", "a", 1)
            };
            tokio::spawn(async move { balances.transfer(request).await })
        })
        .collect();
    for call in calls {
        call.await.expect("no panic").expect("posted");
    }
    for category in 0..10 {
        let balance = balance_of(&mut ballast.balances, "a", &format!("C-{category}")).await;
        assert_eq!((balance.posted_minor_units, balance.version), (6, 6));
    }
    assert_eq!(deadlocks(&ballast).await, 0);
    ballast.assert_in_order().await;
}
