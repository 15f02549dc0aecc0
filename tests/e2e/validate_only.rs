//! validate_only: the answer that a request would have got, and nothing happens.

use ballast::rpc::proto::{
    CreditRequest, DebitRequest, ExecuteBatchRequest, GetOperationRequest, MergeAccountsRequest,
    OperationState, PostOperationRequest, ReverseOperationRequest, TransferRequest,
};
use tonic::Code;

use crate::support::instance::Balances;
use crate::support::*;

fn only_validate(request: TransferRequest) -> TransferRequest {
    TransferRequest {
        validate_only: true,
        ..request
    }
}

async fn assert_unknown(balances: &mut Balances, operation_id: &str) {
    let request = GetOperationRequest {
        operation_id: operation_id.to_owned(),
        ..GetOperationRequest::default()
    };
    Rejection::of(balances.get_operation(request).await)
        .expect(Code::NotFound, "OPERATION_NOT_FOUND");
}

#[tokio::test]
async fn it_answers_what_would_happen_and_nothing_does() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    open(&mut ballast, "b", 0).await;
    let balances = &mut ballast.balances;
    let request = transfer("pay", "a", "b", 60);
    let would = balances.transfer(only_validate(request.clone())).await;
    let would = would.expect("it would post").into_inner();
    assert_eq!((would.validate_only, would.replayed), (true, false));
    let operation = would.operation.as_ref().expect("an operation");
    assert_eq!(operation.state(), OperationState::Posted);
    assert_unknown(balances, "pay").await;
    assert_eq!(posted(balances, "a").await, 100);

    let did = balances.transfer(request.clone()).await;
    let did = did.expect("posted").into_inner();
    assert_eq!((did.validate_only, did.replayed), (false, false));
    assert_eq!(did.balances, would.balances);

    // What is known is answered as known: a replay, or the id of something else.
    let known = balances.transfer(only_validate(request.clone())).await;
    let known = known.expect("posted before").into_inner();
    assert_eq!((known.validate_only, known.replayed), (true, true));
    assert_eq!(known.operation, did.operation);
    let other = only_validate(transfer("pay", "a", "b", 61));
    Rejection::of(balances.transfer(other).await)
        .expect(Code::AlreadyExists, "OPERATION_ID_REUSED");
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_refusal_is_not_recorded() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 100).await;
    open(&mut ballast, "b", 0).await;
    let balances = &mut ballast.balances;
    let request = transfer("pay", "a", "b", 101);
    let would = Rejection::of(balances.transfer(only_validate(request.clone())).await)
        .expect(Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
    assert_unknown(balances, "pay").await;
    let more = credit("more", "a", 1);
    balances.credit(more).await.expect("credited");
    let did = balances.transfer(request).await;
    did.expect("the id is free, and there is money now");

    // One that is known as refused stays refused, whatever there is by now.
    let poor = transfer("poor", "a", "b", 101);
    let refused = Rejection::of(balances.transfer(poor.clone()).await);
    assert_eq!(refused.reason, would.reason);
    let more = credit("much-more", "a", 1_000);
    balances.credit(more).await.expect("credited");
    let known = Rejection::of(balances.transfer(only_validate(poor)).await);
    assert_eq!(known.facts(), refused.facts());
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn every_kind_can_be_validated() {
    let mut ballast = Ballast::start().await;
    for (name, money) in [("a", 100), ("b", 0)] {
        open(&mut ballast, name, money).await;
    }
    let balances = &mut ballast.balances;
    let validate_only = true;
    let debit = DebitRequest {
        validate_only,
        ..debit("debit", "a", 100)
    };
    let answer = balances.debit(debit).await.expect("valid").into_inner();
    assert!(answer.validate_only);
    assert_eq!(answer.balances[0].posted_minor_units, 0);
    let credit = CreditRequest {
        validate_only,
        category: "NEW".to_owned(),
        ..credit("credit", "a", 5)
    };
    let answer = balances.credit(credit).await.expect("valid").into_inner();
    assert!(answer.validate_only);
    assert_eq!(answer.balances[0].version, 1);
    let post = PostOperationRequest {
        validate_only,
        ..post("post", &[("a", 100)], &[("b", 70), ("b/FOOD", 30)])
    };
    let answer = balances.post_operation(post).await;
    let answer = answer.expect("valid").into_inner();
    assert!(answer.validate_only);
    assert_eq!(answer.entries.len(), 3);
    let reverse = ReverseOperationRequest {
        validate_only,
        ..reverse("reverse", "a-opening")
    };
    let answer = balances.reverse_operation(reverse).await;
    let answer = answer.expect("valid").into_inner();
    assert!(answer.validate_only);
    assert_eq!(answer.balances[0].posted_minor_units, 0);
    let merge = MergeAccountsRequest {
        validate_only,
        ..merge("merge", "a", "b")
    };
    let answer = balances.merge_accounts(merge).await;
    let answer = answer.expect("valid").into_inner();
    assert!(answer.validate_only);
    assert_eq!(answer.balances[1].posted_minor_units, 100);

    let account = account_of(&mut ballast.accounts, "a").await;
    assert_eq!(account.balances.len(), 1);
    assert_eq!(account.balances[0].posted_minor_units, 100);
    for id in ["debit", "credit", "post", "reverse", "merge"] {
        assert_unknown(&mut ballast.balances, id).await;
    }
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn an_atomic_batch_is_validated_as_a_whole() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    let balances = &mut ballast.balances;
    let members = vec![credit_member("1", "a", 10), debit_member("2", "a", 10)];
    let validated = |operations| ExecuteBatchRequest {
        validate_only: true,
        ..atomic(operations)
    };
    let would = balances.execute_batch(validated(members.clone())).await;
    let would = would.expect("answered").into_inner();
    assert!(would.validate_only);
    assert_eq!(posted_of(&would.results[1]).balances[0].version, 2);
    let too_much = vec![credit_member("1", "a", 10), debit_member("2", "a", 11)];
    let would_not = balances.execute_batch(validated(too_much)).await;
    let would_not = would_not.expect("answered").into_inner();
    assert_eq!(error_of(&would_not.results[0]).reason, "BATCH_REFUSED");
    assert_eq!(error_of(&would_not.results[1]).reason, "INSUFFICIENT_FUNDS");
    for id in ["1", "2"] {
        assert_unknown(balances, id).await;
    }
    let did = balances.execute_batch(atomic(members.clone())).await;
    let did = did.expect("answered").into_inner();
    assert!(!did.validate_only);
    let versions = |results: &[ballast::rpc::proto::OperationResult]| -> Vec<i64> {
        let balances = results.iter().map(|result| &posted_of(result).balances[0]);
        balances.map(|balance| balance.version).collect()
    };
    assert_eq!(versions(&did.results), versions(&would.results));
    let known = balances.execute_batch(validated(members.clone())).await;
    let known = known.expect("answered").into_inner();
    assert!(posted_of(&known.results[0]).replayed);

    // Independent operations are validated one by one, by their own RPCs.
    let independent = ExecuteBatchRequest {
        validate_only: true,
        ..batch(members)
    };
    let invalid = Rejection::of(balances.execute_batch(independent).await)
        .expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(invalid.fields, ["validate_only"]);
    let alone = DebitRequest {
        validate_only: true,
        ..debit("3", "a", 1)
    };
    let results = execute(balances, vec![member(alone.into())]).await;
    let error = error_of(&results[0]);
    assert_eq!(error.field_violations[0].field, "validate_only");
    ballast.assert_in_order().await;
}
