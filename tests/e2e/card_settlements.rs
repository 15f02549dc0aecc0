//! Settlements: a reversal that the ledger refuses is told as what it is, is listed, stops no other, and is settled once, by a
//! person.

use std::collections::BTreeSet;

use ballast::rpc::proto::{
    ListUnsettledPaymentsRequest, SettlePaymentRequest, SettlementMethod, UnsettledPayment,
};
use tonic::Code;

use crate::support::cards::*;
use crate::support::doubts::*;
use crate::support::*;

async fn page(cards: &mut Cards, size: i32, token: &str) -> (Vec<UnsettledPayment>, String) {
    let request = ListUnsettledPaymentsRequest {
        page_size: size,
        page_token: token.to_owned(),
    };
    let page = cards.list_unsettled_payments(request).await;
    let page = page.expect("a page").into_inner();
    (page.payments, page.next_page_token)
}

async fn unsettled(cards: &mut Cards) -> Vec<UnsettledPayment> {
    let (payments, next) = page(cards, 0, "").await;
    assert_eq!(next, "");
    payments
}

/// Comes back with the first payment that waits for a person.
async fn until_unsettled(cards: &mut Cards) -> UnsettledPayment {
    within_reason("an unsettled payment", async {
        loop {
            if let Some(payment) = unsettled(cards).await.pop() {
                return payment;
            }
        }
    })
    .await
}

fn by_credit(operation_id: &str, payment_id: &str) -> SettlePaymentRequest {
    SettlePaymentRequest {
        operation_id: operation_id.to_owned(),
        payment_operation_id: payment_id.to_owned(),
        method: SettlementMethod::Credit.into(),
        ..SettlePaymentRequest::default()
    }
}

fn otherwise(operation_id: &str, payment_id: &str, note: &str) -> SettlePaymentRequest {
    SettlePaymentRequest {
        method: SettlementMethod::Other.into(),
        note: note.to_owned(),
        ..by_credit(operation_id, payment_id)
    }
}

async fn rejected(cards: &mut Cards, request: SettlePaymentRequest) -> Rejection {
    Rejection::of(cards.settle_payment(request).await)
}

/// A payment that was paid although its caller was answered 07, from an account that may not be credited. Its id.
async fn refused(roomy: &mut Ballast, hurried: &Ballast) -> String {
    freeze(roomy, "c", true).await;
    let lock = roomy.lock_with(BLOCK_WRITES).await;
    let id = in_doubt(roomy, &mut hurried.cards(), "p").await;
    lock.release().await;
    until_unsettled(&mut roomy.cards()).await;
    id
}

async fn freeze(ballast: &Ballast, account_id: &str, frozen: bool) {
    let sql = ballast.database.sql().await;
    let freeze =
        "UPDATE balances SET credits_frozen = $2 WHERE account_id = $1 AND category = 'main'";
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&account_id, &frozen];
    sql.execute(freeze, &params).await.expect("set");
}

#[tokio::test]
async fn a_refused_reversal_is_told_listed_and_settled_by_one_credit() {
    let (mut roomy, hurried) = hurried([100, 0, 0]).await;
    let id = &refused(&mut roomy, &hurried).await;
    let mut cards = roomy.cards();
    assert_eq!(pockets(&mut roomy.balances, "c").await, [90, 0, 0]);
    let retry = || payment(id, "c", 10, "5411");
    assert_eq!(
        decided(&mut cards, retry()).await,
        says("07", "REVERSAL_REFUSED")
    );
    let listed = until_unsettled(&mut cards).await;
    assert_eq!(
        (
            listed.operation_id.as_str(),
            listed.account_id.as_str(),
            listed.category.as_str()
        ),
        (id.as_str(), "c", "FOOD")
    );
    assert_eq!(listed.amount, eur(10));
    assert_eq!(listed.mcc, "5411");
    assert_eq!(listed.refusal_reason, "ACCOUNT_FROZEN");
    assert_eq!(listed.reversal_operation_id, format!("{id}:reversal"));
    assert_eq!(listed.settlement_operation_id, "");

    // Still frozen: the credit is refused, and so is the same one for ever.
    rejected(&mut cards, by_credit("s-1", id))
        .await
        .expect(Code::FailedPrecondition, "ACCOUNT_FROZEN");
    freeze(&roomy, "c", false).await;
    rejected(&mut cards, by_credit("s-1", id))
        .await
        .expect(Code::FailedPrecondition, "ACCOUNT_FROZEN");
    assert_eq!(pockets(&mut roomy.balances, "c").await, [90, 0, 0]);
    // Refused once, it is not tried again by itself: a person may have credited by hand.
    assert_eq!(unsettled(&mut cards).await.len(), 1);

    let settled = cards.settle_payment(by_credit("s-2", id)).await;
    let settled = settled.expect("settled").into_inner();
    assert!(!settled.replayed);
    let settlement = settled.settlement.expect("a settlement");
    assert_eq!(settlement.operation_id, "s-2");
    assert_eq!(
        (settlement.account_id.as_str(), settlement.category.as_str()),
        ("c", "FOOD")
    );
    assert_eq!(settlement.amount, eur(10));
    let credit = operation(&mut roomy.balances, "s-2")
        .await
        .expect("a credit");
    assert_eq!(credit.metadata["settles"], *id);
    assert_eq!(pockets(&mut roomy.balances, "c").await, [100, 0, 0]);

    let again = cards.settle_payment(by_credit("s-2", id)).await;
    let again = again.expect("the same").into_inner();
    assert!(again.replayed);
    assert_eq!(again.settlement, Some(settlement));
    let other = SettlePaymentRequest {
        note: "another".to_owned(),
        ..by_credit("s-2", id)
    };
    rejected(&mut cards, other)
        .await
        .expect(Code::AlreadyExists, "OPERATION_ID_REUSED");
    for late in [by_credit("s-3", id), otherwise("s-4", id, "by hand")] {
        let facts = rejected(&mut cards, late)
            .await
            .expect(Code::FailedPrecondition, "PAYMENT_SETTLED");
        assert_eq!(facts.metadata["settlement_operation_id"], "s-2");
    }
    assert_eq!(pockets(&mut roomy.balances, "c").await, [100, 0, 0]);
    assert_eq!(unsettled(&mut cards).await, []);
    assert_eq!(
        decided(&mut cards, retry()).await,
        says("07", "PAYMENT_SETTLED")
    );
    roomy.assert_in_order().await;
}

#[tokio::test]
async fn many_people_settle_a_payment_once() {
    let (mut roomy, hurried) = hurried([100, 0, 0]).await;
    let id = &refused(&mut roomy, &hurried).await;
    freeze(&roomy, "c", false).await;
    // All see that nobody has settled it, and begin together.
    let verdict = format!("SELECT 1 FROM card_verdicts WHERE operation_id = '{id}' FOR UPDATE");
    let lock = roomy.lock_with(&verdict).await;
    let calls: Vec<_> = (0..24)
        .map(|person| {
            let instance = if person % 2 == 0 { &roomy } else { &hurried };
            let mut cards = instance.cards();
            let request = match person % 3 {
                0 => otherwise(&format!("s-{person}"), id, "paid in cash"),
                _ => by_credit(&format!("s-{person}"), id),
            };
            let is_credit = person % 3 != 0;
            tokio::spawn(async move {
                let answer = cards.settle_payment(request).await;
                answer
                    .map(|_| is_credit)
                    .map_err(|status| Rejection::of_status(&status).reason)
            })
        })
        .collect();
    within_reason("several", roomy.until_waiting(|count| count >= 4)).await;
    lock.release().await;
    let mut settled = Vec::new();
    for call in calls {
        match call.await.expect("no panic") {
            Ok(is_credit) => settled.push(is_credit),
            Err(reason) => assert!(
                ["PAYMENT_SETTLED", "SETTLEMENT_STARTED"].contains(&reason.as_str()),
                "{reason}"
            ),
        }
    }
    assert_eq!(settled.len(), 1, "{settled:?}");
    let left = if settled[0] { 100 } else { 90 };
    assert_eq!(pockets(&mut roomy.balances, "c").await, [left, 0, 0]);
    assert_eq!(unsettled(&mut roomy.cards()).await, []);
    roomy.assert_in_order().await;
}

#[tokio::test]
async fn what_a_person_settled_otherwise_is_noted_and_moves_nothing() {
    let (mut roomy, hurried) = hurried([100, 0, 0]).await;
    let id = &refused(&mut roomy, &hurried).await;
    let mut cards = roomy.cards();
    let settled = cards
        .settle_payment(otherwise("bank-7", id, "by bank transfer"))
        .await;
    let settlement = settled
        .expect("settled")
        .into_inner()
        .settlement
        .expect("it");
    assert_eq!(
        (settlement.account_id.as_str(), settlement.note.as_str()),
        ("", "by bank transfer")
    );
    assert_eq!(settlement.amount, eur(10));
    assert!(settlement.settle_time.is_some());
    assert_eq!(pockets(&mut roomy.balances, "c").await, [90, 0, 0]);
    assert_eq!(operation(&mut roomy.balances, "bank-7").await, None);
    let again = cards
        .settle_payment(otherwise("bank-7", id, "by bank transfer"))
        .await;
    assert!(again.expect("the same").into_inner().replayed);
    assert_eq!(unsettled(&mut cards).await, []);
    let retry = decided(&mut cards, payment(id, "c", 10, "5411")).await;
    assert_eq!(retry, says("07", "PAYMENT_SETTLED"));
    roomy.assert_in_order().await;
}

#[tokio::test]
async fn a_settlement_that_stopped_half_way_goes_on_when_it_is_sent_again() {
    let (mut roomy, hurried) = hurried([100, 0, 0]).await;
    let id = &refused(&mut roomy, &hurried).await;
    freeze(&roomy, "c", false).await;
    // As a process leaves it that dies before its credit.
    let sql = roomy.database.sql().await;
    let begun = "UPDATE card_verdicts SET settlement_id = 's-1', settlement_method = 'CREDIT', settlement_account_id = 'c',
                 settlement_category = 'CASH', settlement_note = '' WHERE operation_id = $1";
    assert_eq!(sql.execute(begun, &[id]).await.expect("begun"), 1);
    let mut cards = roomy.cards();
    assert_eq!(
        until_unsettled(&mut cards).await.settlement_operation_id,
        "s-1"
    );
    for other in [by_credit("s-2", id), otherwise("s-3", id, "by hand")] {
        let facts = rejected(&mut cards, other)
            .await
            .expect(Code::FailedPrecondition, "SETTLEMENT_STARTED");
        assert_eq!(facts.metadata["settlement_operation_id"], "s-1");
    }
    let to_cash = SettlePaymentRequest {
        category: "CASH".to_owned(),
        ..by_credit("s-1", id)
    };
    let settled = cards
        .settle_payment(to_cash)
        .await
        .expect("settled")
        .into_inner();
    assert!(!settled.replayed);
    assert_eq!(pockets(&mut roomy.balances, "c").await, [90, 0, 10]);
    roomy.assert_in_order().await;
}

#[tokio::test]
async fn a_settlement_that_cannot_be_says_why() {
    let (mut roomy, hurried) = hurried([100, 0, 0]).await;
    let id = &refused(&mut roomy, &hurried).await;
    let mut cards = roomy.cards();
    let credited_to = |account_id: &str, category: &str| SettlePaymentRequest {
        account_id: account_id.to_owned(),
        category: category.to_owned(),
        ..by_credit("s-1", id)
    };
    let rows = [
        (
            SettlePaymentRequest::default(),
            &["operation_id", "payment_operation_id", "method"][..],
        ),
        (by_credit("s:reversal", id), &["operation_id"]),
        (
            credited_to("no such id", "no such category"),
            &["account_id", "category"],
        ),
        (otherwise("s-1", id, "  "), &["note"]),
        (otherwise("s-1", id, &"n".repeat(257)), &["note"]),
        (
            SettlePaymentRequest {
                method: SettlementMethod::Other.into(),
                note: "by hand".to_owned(),
                ..credited_to("c", "FOOD")
            },
            &["account_id", "category"],
        ),
    ];
    for (request, fields) in rows {
        let invalid = rejected(&mut cards, request)
            .await
            .expect(Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(invalid.fields, fields);
    }
    rejected(&mut cards, by_credit("s-1", "nothing"))
        .await
        .expect(Code::NotFound, "OPERATION_NOT_FOUND");
    rejected(&mut cards, credited_to("nobody", ""))
        .await
        .expect(Code::NotFound, "ACCOUNT_NOT_FOUND");
    let mut dollars = account("dollars");
    dollars.currency_code = "USD".to_owned();
    roomy
        .accounts
        .create_account(dollars)
        .await
        .expect("opened");
    rejected(&mut cards, credited_to("dollars", ""))
        .await
        .expect(Code::FailedPrecondition, "CURRENCY_MISMATCH");
    // The ledger has another operation of this id.
    let taken = SettlePaymentRequest {
        operation_id: "c-FOOD".to_owned(),
        ..credited_to("c", "")
    };
    rejected(&mut cards, taken)
        .await
        .expect(Code::AlreadyExists, "OPERATION_ID_REUSED");

    open_card(&mut roomy, "d", [10, 0, 0]).await;
    let paid = decided(&mut cards, payment("paid", "d", 10, "5411")).await;
    assert_eq!(paid, says("00", "FOOD"));
    let broke = decided(&mut cards, payment("broke", "d", 10, "5411")).await;
    assert_eq!(broke, says("51", "INSUFFICIENT_FUNDS"));
    for (operation_id, state) in [
        ("paid", "STANDS"),
        ("broke", "REFUSED"),
        ("d-FOOD", "NO_PAYMENT"),
    ] {
        let nothing = rejected(&mut cards, by_credit("s-1", operation_id))
            .await
            .expect(Code::FailedPrecondition, "NOTHING_TO_SETTLE");
        assert_eq!(nothing.metadata["state"], state);
    }
    let forged = ListUnsettledPaymentsRequest {
        page_size: -1,
        page_token: "forged".to_owned(),
    };
    let forged = Rejection::of(cards.list_unsettled_payments(forged).await)
        .expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(forged.fields, ["page_size", "page_token"]);
    // After all that, it can still be settled, in favour of another account.
    open_card(&mut roomy, "e", [0, 0, 0]).await;
    let settled = cards.settle_payment(credited_to("e", "MEAL")).await;
    settled.expect("settled");
    assert_eq!(pockets(&mut roomy.balances, "e").await, [0, 10, 0]);
    roomy.assert_in_order().await;
}

#[tokio::test]
async fn refused_reversals_keep_no_other_from_being_done() {
    const STUCK: usize = 230;
    let mut ballast = Ballast::start().await;
    open_card(&mut ballast, "stuck", [1_000, 0, 0]).await;
    open_card(&mut ballast, "free", [100, 0, 0]).await;
    let mut cards = ballast.cards();
    for number in 0..STUCK {
        let request = payment(&format!("stuck-{number:03}"), "stuck", 1, "5411");
        assert_eq!(decided(&mut cards, request).await, says("00", "FOOD"));
    }
    let request = payment("free", "free", 10, "5411");
    assert_eq!(decided(&mut cards, request).await, says("00", "FOOD"));
    freeze(&ballast, "stuck", true).await;
    // As a process leaves them that died after it had answered 07; the one that can be reversed comes last.
    let sql = ballast.database.sql().await;
    sql.batch_execute(
        "INSERT INTO card_verdicts (operation_id, attempt, verdict, unsettled, create_time, next_try_time)
         SELECT operation_id, metadata ->> 'attempt', 'REVERSED', true, now(),
                now() - CASE operation_id WHEN 'free' THEN interval '1 second' ELSE interval '1 hour' END
         FROM operations WHERE kind = 'DEBIT'",
    )
    .await
    .expect("left behind");
    let mut sibling = ballast.sibling().await;
    until_recorded(&mut sibling.balances, "free:reversal").await;
    assert_eq!(pockets(&mut sibling.balances, "free").await, [100, 0, 0]);
    let to_do = "card_verdicts WHERE unsettled AND refusal_reason IS NULL";
    until_count(&ballast.database, to_do, 0).await;

    let (mut listed, mut token) = (Vec::new(), String::new());
    loop {
        let (payments, next) = page(&mut cards, 100, &token).await;
        listed.extend(payments);
        token = next;
        if token.is_empty() {
            break;
        }
    }
    let ids: BTreeSet<_> = listed.iter().map(|payment| &payment.operation_id).collect();
    assert_eq!((listed.len(), ids.len()), (STUCK, STUCK));
    assert!(listed.is_sorted_by_key(|payment| {
        let time = payment.refuse_time.expect("a time");
        (time.seconds, time.nanos)
    }));
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_reversal_that_cannot_be_done_now_is_tried_again_and_holds_up_no_other() {
    let mut ballast = Ballast::start().await;
    for name in ["locked", "free"] {
        open_card(&mut ballast, name, [100, 0, 0]).await;
        let request = payment(name, name, 10, "5411");
        let paid = decided(&mut ballast.cards(), request).await;
        assert_eq!(paid, says("00", "FOOD"));
    }
    let lock = ballast.lock("locked").await;
    let sql = ballast.database.sql().await;
    sql.batch_execute(
        "INSERT INTO card_verdicts (operation_id, attempt, verdict, unsettled, create_time, next_try_time)
         SELECT operation_id, metadata ->> 'attempt', 'REVERSED', true, now(),
                now() - CASE operation_id WHEN 'free' THEN interval '1 second' ELSE interval '1 hour' END
         FROM operations WHERE kind = 'DEBIT'",
    )
    .await
    .expect("left behind");
    let mut sibling = ballast.sibling().await;
    until_recorded(&mut sibling.balances, "free:reversal").await;
    let tried = "card_verdicts WHERE operation_id = 'locked' AND unsettled AND try_count > 0";
    assert_eq!(count(&ballast.database, tried).await, 1);
    lock.release().await;
    // It is due again after some seconds; time passes.
    sql.batch_execute("UPDATE card_verdicts SET next_try_time = now() WHERE unsettled")
        .await
        .expect("due");
    let mut next = ballast.sibling().await;
    until_recorded(&mut next.balances, "locked:reversal").await;
    until_count(&ballast.database, "card_verdicts WHERE unsettled", 0).await;
    ballast.assert_in_order().await;
}
