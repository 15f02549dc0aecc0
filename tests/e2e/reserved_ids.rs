//! Reserved ids: what Ballast calls its own operations, no caller can; and a ledger in which one did is told about as it is.

use ballast::rpc::proto::operation_request::Request as Kind;
use ballast::rpc::proto::{
    ListUnsettledPaymentsRequest, SettlePaymentRequest, SettlementMethod, SubmitOperationsRequest,
    TransferRequest, transfer_request::Destination,
};
use tokio_stream::StreamExt;
use tonic::Code;

use crate::support::cards::*;
use crate::support::doubts::*;
use crate::support::*;

const RESERVED: &str = "p:reversal";

#[tokio::test]
async fn no_write_takes_a_reserved_id() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    open(&mut ballast, "b", 100).await;
    let to_owner = TransferRequest {
        destination: Some(Destination::DestinationOwnerId("b-owner".to_owned())),
        ..transfer(RESERVED, "a", "b", 1)
    };
    let mut settling = account("s");
    settling.owner_id = "b-owner".to_owned();
    settling.settlement = true;
    ballast
        .accounts
        .create_account(settling)
        .await
        .expect("opened");

    let mut balances = ballast.balances.clone();
    let rejections = [
        Rejection::of(balances.debit(debit(RESERVED, "a", 1)).await),
        Rejection::of(balances.credit(credit(RESERVED, "a", 1)).await),
        Rejection::of(balances.transfer(transfer(RESERVED, "a", "b", 1)).await),
        Rejection::of(balances.transfer(to_owner.clone()).await),
        Rejection::of(balances.merge_accounts(merge(RESERVED, "a", "b")).await),
        Rejection::of(balances.credit(credit(":reversal", "a", 1)).await),
    ];
    for rejection in rejections {
        let rejection = rejection.expect(Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(rejection.fields, ["operation_id"]);
    }
    // With whatever else is wrong.
    let rejection = Rejection::of(balances.credit(credit(RESERVED, "", 0)).await)
        .expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(
        rejection.fields,
        ["amount.minor_units", "account_id", "operation_id"]
    );

    let members = || {
        vec![
            debit_member(RESERVED, "a", 1),
            credit_member(RESERVED, "a", 1),
            member(Kind::from(transfer(RESERVED, "a", "b", 1))),
            member(Kind::from(to_owner.clone())),
        ]
    };
    let mut results = execute(&mut balances, members()).await;
    let requests = members()
        .into_iter()
        .map(|operation| SubmitOperationsRequest {
            operation: Some(operation),
        });
    let stream = balances
        .submit_operations(tokio_stream::iter(requests))
        .await;
    let mut stream = stream.expect("a stream").into_inner();
    while let Some(response) = stream.next().await {
        results.extend(response.expect("a result").result);
    }
    assert_eq!(results.len(), 8);
    for result in &results {
        let error = error_of(result);
        assert_eq!(
            (result.operation_id.as_str(), error.reason.as_str()),
            (RESERVED, "INVALID_ARGUMENT")
        );
        assert_eq!(error.field_violations.len(), 1);
        assert_eq!(error.field_violations[0].field, "operation_id");
        assert!(error.field_violations[0].description.contains(":reversal"));
    }
    let paid = decided(&mut ballast.cards(), payment(RESERVED, "a", 1, "5411")).await;
    assert_eq!(paid, says("07", "INVALID_ARGUMENT"));
    assert_eq!(operation(&mut balances, RESERVED).await, None);
    // It is the end that is reserved.
    for free in ["reversal", "p:reversals", "p:reversal:1", "p.reversal"] {
        balances.credit(credit(free, "a", 1)).await.expect("free");
    }
    ballast.assert_in_order().await;
}

/// Credits of a caller under the ids of the reversals of `p-0` to `p-19`, as older versions allowed.
async fn squat(ballast: &mut Ballast, account_id: &str) {
    for number in 0..20 {
        let squat = credit(&format!("squat-{number}"), account_id, 10);
        ballast.balances.credit(squat).await.expect("credited");
    }
    let sql = ballast.database.sql().await;
    let columns = [
        ("operations", "operation_id"),
        ("operations", "destination_previous_id"),
        ("balances", "last_operation_id"),
        ("entry_marks", "operation_id"),
    ];
    for (table, column) in columns {
        let rename = format!(
            "UPDATE {table} SET {column} = 'p-' || substr({column}, 7) || ':reversal' WHERE {column} LIKE 'squat-%'"
        );
        sql.batch_execute(&rename).await.expect("renamed");
    }
}

#[tokio::test]
async fn a_payment_whose_reversal_s_id_is_taken_is_not_called_reversed() {
    let (mut roomy, hurried) = hurried([100, 0, 0]).await;
    open(&mut roomy, "caller", 0).await;
    squat(&mut roomy, "caller").await;
    let lock = roomy.lock_with(BLOCK_WRITES).await;
    let id = &in_doubt(&roomy, &mut hurried.cards(), "p").await;
    lock.release().await;

    let mut cards = roomy.cards();
    let listed = within_reason("it", async {
        loop {
            let listing = cards.list_unsettled_payments(ListUnsettledPaymentsRequest::default());
            let listed = listing.await.expect("a page").into_inner().payments;
            if !listed.is_empty() {
                return listed;
            }
        }
    })
    .await;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0].operation_id, listed[0].amount.clone()),
        (id, eur(10))
    );
    assert_eq!(listed[0].refusal_reason, "OPERATION_ID_REUSED");
    let retry = || payment(id, "c", 10, "5411");
    assert_eq!(
        decided(&mut cards, retry()).await,
        says("07", "REVERSAL_REFUSED")
    );
    assert_eq!(pockets(&mut roomy.balances, "c").await, [90, 0, 0]);

    // The caller's operation can be read, and its replay is answered as ever; what is new is refused.
    let taken = format!("{id}:reversal");
    let recorded = operation(&mut roomy.balances, &taken).await.expect("it");
    assert_eq!(recorded.destination.expect("a credit").account_id, "caller");
    let replayed = roomy.balances.credit(credit(&taken, "caller", 10)).await;
    assert!(replayed.expect("a replay").into_inner().replayed);
    let results = execute(
        &mut roomy.balances,
        vec![credit_member(&taken, "caller", 10)],
    )
    .await;
    assert!(posted_of(&results[0]).replayed);
    Rejection::of(roomy.balances.credit(credit(&taken, "caller", 11)).await)
        .expect(Code::AlreadyExists, "OPERATION_ID_REUSED");
    assert_eq!(posted(&mut roomy.balances, "caller").await, 200);

    let settle = SettlePaymentRequest {
        operation_id: "s".to_owned(),
        payment_operation_id: id.clone(),
        method: SettlementMethod::Credit.into(),
        ..SettlePaymentRequest::default()
    };
    cards.settle_payment(settle).await.expect("settled");
    assert_eq!(pockets(&mut roomy.balances, "c").await, [100, 0, 0]);
    assert_eq!(
        decided(&mut cards, retry()).await,
        says("07", "PAYMENT_SETTLED")
    );
    roomy.assert_in_order().await;
}
