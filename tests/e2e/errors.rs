//! Errors: each row of the table, through gRPC, with code, reason and metadata.

use std::collections::HashMap;
use std::time::Duration;

use ballast::rpc::proto::{
    BalanceLimits, BatchGetAccountsRequest, CreateAccountRequest, CreditRequest, DebitRequest,
    GetBalanceRequest, GetOperationRequest, ListEntriesRequest, ListOperationsRequest, Money,
    TransferRequest,
};
use tonic::Code;

use crate::support::*;

fn long(length: usize) -> String {
    "x".repeat(length)
}

fn pairs(count: usize) -> HashMap<String, String> {
    (0..count)
        .map(|index| (format!("k{index}"), "v".to_owned()))
        .collect()
}

/// Each request breaks one rule, and names its field. The last one breaks all of them and names them all.
#[tokio::test]
async fn invalid_fields_are_named_all_at_once() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 1_000).await;
    let good = || transfer("t", "a", "b", 1);
    let money = |code: &str, minor_units| {
        Some(Money {
            currency_code: code.to_owned(),
            minor_units,
        })
    };
    let rows: Vec<(TransferRequest, Vec<&str>)> = vec![
        (
            TransferRequest {
                operation_id: String::new(),
                ..good()
            },
            vec!["operation_id"],
        ),
        (
            TransferRequest {
                operation_id: long(65),
                ..good()
            },
            vec!["operation_id"],
        ),
        (
            TransferRequest {
                operation_id: "nul\0".to_owned(),
                ..good()
            },
            vec!["operation_id"],
        ),
        (
            TransferRequest {
                operation_id: "tab\t".to_owned(),
                ..good()
            },
            vec!["operation_id"],
        ),
        (
            TransferRequest {
                operation_id: "ä".to_owned(),
                ..good()
            },
            vec!["operation_id"],
        ),
        (
            TransferRequest {
                source_account_id: "a b".to_owned(),
                ..good()
            },
            vec!["source_account_id"],
        ),
        (
            TransferRequest {
                destination: None,
                ..good()
            },
            vec!["destination"],
        ),
        (
            transfer("t", "a", &long(65), 1),
            vec!["destination_account_id"],
        ),
        (
            TransferRequest {
                destination_category: long(33),
                ..good()
            },
            vec!["destination_category"],
        ),
        (
            TransferRequest {
                source_categories: strings(["A", "A"]),
                ..good()
            },
            vec!["source_categories[1]"],
        ),
        (
            TransferRequest {
                source_categories: strings(["A", ""]),
                ..good()
            },
            vec!["source_categories[1]"],
        ),
        (
            TransferRequest {
                source_categories: vec!["A".to_owned(); 17],
                ..good()
            },
            vec!["source_categories"],
        ),
        (
            TransferRequest {
                amount: None,
                ..good()
            },
            vec!["amount"],
        ),
        (
            TransferRequest {
                amount: eur(0),
                ..good()
            },
            vec!["amount.minor_units"],
        ),
        (
            TransferRequest {
                amount: eur(-1),
                ..good()
            },
            vec!["amount.minor_units"],
        ),
        (
            TransferRequest {
                amount: eur(i64::MIN),
                ..good()
            },
            vec!["amount.minor_units"],
        ),
        (
            TransferRequest {
                amount: eur(1_000_000_000_000_000_001),
                ..good()
            },
            vec!["amount.minor_units"],
        ),
        (
            TransferRequest {
                amount: money("ZZZ", 1),
                ..good()
            },
            vec!["amount.currency_code"],
        ),
        (
            TransferRequest {
                amount: money("eur", 1),
                ..good()
            },
            vec!["amount.currency_code"],
        ),
        (
            TransferRequest {
                amount: money("", 1),
                ..good()
            },
            vec!["amount.currency_code"],
        ),
        (
            TransferRequest {
                description: long(257),
                ..good()
            },
            vec!["description"],
        ),
        (
            TransferRequest {
                description: "a\0b".to_owned(),
                ..good()
            },
            vec!["description"],
        ),
        (
            TransferRequest {
                metadata: pairs(33),
                ..good()
            },
            vec!["metadata"],
        ),
        (
            TransferRequest {
                metadata: HashMap::from([("k".to_owned(), long(257))]),
                ..good()
            },
            vec!["metadata[\"k\"]"],
        ),
        (
            TransferRequest {
                metadata: HashMap::from([("k k".to_owned(), long(1))]),
                ..good()
            },
            vec!["metadata key \"k k\""],
        ),
        (
            TransferRequest {
                source_account_id: long(65),
                amount: money("", 0),
                ..TransferRequest::default()
            },
            vec![
                "operation_id",
                "amount.minor_units",
                "amount.currency_code",
                "source_account_id",
                "destination",
            ],
        ),
    ];
    for (request, fields) in rows {
        let shown = format!("{request:?}");
        let rejection = Rejection::of(ballast.balances.transfer(request).await);
        let rejection = rejection.expect(Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(rejection.fields, fields, "{shown}");
        assert_eq!(rejection.metadata["fields"], fields.join(","));
    }
    assert_eq!(posted(&mut ballast.balances, "a").await, 1_000);
}

#[tokio::test]
async fn every_rpc_checks_its_fields() {
    let mut ballast = Ballast::start().await;
    let (accounts, balances) = (&mut ballast.accounts, &mut ballast.balances);
    let limit = |category: &str, overdraft, limit| BalanceLimits {
        category: category.to_owned(),
        overdraft_limit_minor_units: overdraft,
        balance_limit_minor_units: limit,
    };
    let create = CreateAccountRequest {
        currency_code: "XXA".to_owned(),
        limits: vec![limit("", -1, Some(-1)), limit("main", 0, None)],
        ..CreateAccountRequest::default()
    };
    let future = prost_types::Timestamp {
        seconds: 32_503_680_000,
        nanos: 0,
    };
    let at = |time| GetBalanceRequest {
        account_id: "a".to_owned(),
        at_time: Some(time),
        ..Default::default()
    };
    accounts.create_account(account("a")).await.expect("opened");
    let rejections = [
        Rejection::of(accounts.create_account(create).await),
        Rejection::of(
            accounts
                .batch_get_accounts(BatchGetAccountsRequest::default())
                .await,
        ),
        Rejection::of(
            accounts
                .batch_get_accounts(BatchGetAccountsRequest {
                    account_ids: strings(["a", ""]),
                })
                .await,
        ),
        Rejection::of(balances.debit(DebitRequest::default()).await),
        Rejection::of(balances.credit(CreditRequest::default()).await),
        Rejection::of(balances.get_balance(GetBalanceRequest::default()).await),
        Rejection::of(balances.get_balance(at(future)).await),
        Rejection::of(
            balances
                .get_balance(at(prost_types::Timestamp {
                    seconds: 0,
                    nanos: -1,
                }))
                .await,
        ),
        Rejection::of(balances.get_operation(GetOperationRequest::default()).await),
        Rejection::of(
            balances
                .list_operations(ListOperationsRequest {
                    direction: 9,
                    ..Default::default()
                })
                .await,
        ),
        Rejection::of(
            balances
                .list_entries(ListEntriesRequest {
                    page_size: -1,
                    ..Default::default()
                })
                .await,
        ),
    ];
    let fields = rejections.map(|rejection| {
        rejection
            .expect(Code::InvalidArgument, "INVALID_ARGUMENT")
            .fields
            .join(" ")
    });
    assert_eq!(
        fields,
        [
            "account_id owner_id currency_code limits[0].overdraft_limit_minor_units limits[0].balance_limit_minor_units limits[1].category",
            "account_ids",
            "account_ids[1]",
            "operation_id amount account_id",
            "operation_id amount account_id",
            "account_id",
            "at_time",
            "at_time",
            "operation_id",
            "filter direction",
            "account_id page_size",
        ]
    );
}

#[tokio::test]
async fn a_transfer_onto_the_same_balance_is_refused() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 10).await;
    let rejection = Rejection::of(ballast.balances.transfer(transfer("t", "a", "a", 1)).await);
    let rejection = rejection.expect(Code::InvalidArgument, "SAME_BALANCE");
    assert_eq!(
        rejection.facts(),
        [("account_id", "a"), ("category", "main")]
    );
    assert_eq!(rejection.fields, ["destination"]);
}

#[tokio::test]
async fn what_does_not_exist_is_not_found_and_not_recorded() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 10).await;
    for (from, to) in [("a", "nobody"), ("nobody", "a")] {
        let rejection = Rejection::of(ballast.balances.transfer(transfer("t", from, to, 1)).await);
        let rejection = rejection.expect(Code::NotFound, "ACCOUNT_NOT_FOUND");
        assert_eq!(rejection.facts(), [("account_id", "nobody")]);
        assert!(rejection.has_resource_info);
    }
    let unknown = GetOperationRequest {
        operation_id: "t".to_owned(),
        ..GetOperationRequest::default()
    };
    let rejection = Rejection::of(ballast.balances.get_operation(unknown).await);
    let rejection = rejection.expect(Code::NotFound, "OPERATION_NOT_FOUND");
    assert_eq!(
        (rejection.facts(), rejection.has_resource_info),
        (vec![("operation_id", "t")], true)
    );

    open(&mut ballast, "nobody", 0).await;
    ballast
        .balances
        .transfer(transfer("t", "a", "nobody", 1))
        .await
        .expect("evaluated afresh");
}

#[tokio::test]
async fn another_currency_than_the_account_s_is_a_mismatch_and_not_recorded() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 10).await;
    let dollars = Some(Money {
        currency_code: "USD".to_owned(),
        minor_units: 1,
    });
    let rejection = Rejection::of(
        ballast
            .balances
            .debit(DebitRequest {
                amount: dollars,
                ..debit("d", "a", 1)
            })
            .await,
    );
    let rejection = rejection.expect(Code::FailedPrecondition, "CURRENCY_MISMATCH");
    let facts = [
        ("account_currency_code", "EUR"),
        ("account_id", "a"),
        ("amount_currency_code", "USD"),
    ];
    assert_eq!(rejection.facts(), facts);
    ballast
        .balances
        .debit(debit("d", "a", 1))
        .await
        .expect("evaluated afresh");
}

#[tokio::test]
async fn refusals_say_what_is_missing() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 10).await;
    let limits = vec![BalanceLimits {
        balance_limit_minor_units: Some(5),
        ..BalanceLimits::default()
    }];
    ballast
        .accounts
        .create_account(CreateAccountRequest {
            limits,
            ..account("small")
        })
        .await
        .expect("opened");

    let rejection = Rejection::of(
        ballast
            .balances
            .transfer(transfer("1", "a", "small", 11))
            .await,
    );
    let rejection = rejection.expect(Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
    assert!(rejection.has_precondition_failure);
    let facts = [
        ("account_id", "a"),
        ("available_minor_units", "10"),
        ("categories", "main"),
        ("currency_code", "EUR"),
        ("needed_minor_units", "11"),
    ];
    assert_eq!(rejection.facts(), facts);

    let rejection = Rejection::of(
        ballast
            .balances
            .transfer(transfer("2", "a", "small", 6))
            .await,
    );
    let rejection = rejection.expect(Code::FailedPrecondition, "BALANCE_LIMIT_EXCEEDED");
    assert!(rejection.has_precondition_failure);
    let facts = [
        ("account_id", "small"),
        ("amount_minor_units", "6"),
        ("category", "main"),
        ("currency_code", "EUR"),
        ("limit_minor_units", "5"),
        ("posted_minor_units", "0"),
    ];
    assert_eq!(rejection.facts(), facts);
    assert_eq!(posted(&mut ballast.balances, "a").await, 10);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_balance_does_not_overflow() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    for index in 0..9 {
        let huge = credit(&index.to_string(), "a", 1_000_000_000_000_000_000);
        ballast
            .balances
            .credit(huge)
            .await
            .expect("nine of them fit");
    }
    let rejection = Rejection::of(
        ballast
            .balances
            .credit(credit("9", "a", 1_000_000_000_000_000_000))
            .await,
    );
    let rejection = rejection.expect(Code::FailedPrecondition, "BALANCE_LIMIT_EXCEEDED");
    assert_eq!(
        rejection.metadata["limit_minor_units"],
        i64::MAX.to_string()
    );
    assert_eq!(
        posted(&mut ballast.balances, "a").await,
        9_000_000_000_000_000_000
    );
    ballast.assert_in_order().await;
}

/// Nothing opens the doors of these two yet but SQL; the refusals are there.
#[tokio::test]
async fn a_frozen_or_closed_account_refuses() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 10).await;
    open(&mut ballast, "b", 10).await;
    let sql = ballast.database.sql().await;
    sql.batch_execute("UPDATE balances SET debits_frozen = true WHERE account_id = 'a'")
        .await
        .expect("frozen");
    let rejection = Rejection::of(ballast.balances.transfer(transfer("1", "a", "b", 1)).await);
    let rejection = rejection.expect(Code::FailedPrecondition, "ACCOUNT_FROZEN");
    assert_eq!(rejection.facts(), [("account_id", "a"), ("side", "debits")]);
    ballast
        .balances
        .transfer(transfer("2", "b", "a", 1))
        .await
        .expect("credits are not frozen");

    sql.batch_execute("UPDATE balances SET closed = true WHERE account_id = 'a'")
        .await
        .expect("closed");
    let rejection = Rejection::of(ballast.balances.transfer(transfer("3", "b", "a", 1)).await);
    let rejection = rejection.expect(Code::FailedPrecondition, "ACCOUNT_CLOSED");
    assert_eq!(rejection.facts(), [("account_id", "a")]);
    assert!(rejection.has_precondition_failure);
    sql.batch_execute("UPDATE balances SET closed = false WHERE account_id = 'a'")
        .await
        .expect("restored");
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_message_that_is_too_large_is_invalid() {
    let ballast = Ballast::start().await;
    let request = CreditRequest {
        description: long(5 * 1024 * 1024),
        ..credit("c", "a", 1)
    };
    let mut balances = ballast
        .balances
        .clone()
        .max_encoding_message_size(usize::MAX);
    let rejection = Rejection::of(balances.credit(request).await);
    assert_eq!(
        rejection
            .expect(Code::InvalidArgument, "INVALID_ARGUMENT")
            .fields,
        ["request"]
    );
}

#[tokio::test]
async fn a_message_that_is_no_message_is_invalid_and_an_unknown_method_is_unimplemented() {
    let ballast = Ballast::start().await;
    let call = async |method: &'static str| {
        let mut grpc = tonic::client::Grpc::new(support_channel(&ballast));
        grpc.ready().await.expect("connected");
        let path = http::uri::PathAndQuery::from_static(method);
        let codec = tonic_prost::ProstCodec::<prost_types::Timestamp, ()>::default();
        // Field 1 of a Timestamp is a varint, of a CreditRequest a string.
        let garbage = prost_types::Timestamp {
            seconds: 7,
            nanos: 7,
        };
        Rejection::of(grpc.unary(tonic::Request::new(garbage), path, codec).await)
    };
    let rejection = call("/ballast.v1.BalanceService/Credit").await;
    assert_eq!(
        rejection
            .expect(Code::InvalidArgument, "INVALID_ARGUMENT")
            .fields,
        ["request"]
    );
    call("/ballast.v1.BalanceService/Steal")
        .await
        .expect(Code::Unimplemented, "METHOD_NOT_FOUND");
}

fn support_channel(ballast: &Ballast) -> tonic::transport::Channel {
    crate::support::instance::channel(ballast.address)
}

#[tokio::test]
async fn a_full_queue_is_overloaded_and_nothing_happens() {
    let mut ballast = Ballast::start_with(|config| {
        config.batcher.queue_depth_max = 1;
        config.batcher.lock_wait_max = Duration::from_secs(1);
    })
    .await;
    open(&mut ballast, "a", 10).await;
    let lock = ballast.lock("a").await;
    let calls: Vec<_> = (0..10)
        .map(|index| {
            let mut balances = ballast.balances.clone();
            tokio::spawn(async move { balances.debit(debit(&index.to_string(), "a", 1)).await })
        })
        .collect();
    let mut overloaded = 0;
    for call in calls {
        let rejection = Rejection::of(call.await.expect("no panic"));
        assert!(rejection.has_retry_info);
        match rejection.reason.as_str() {
            "OVERLOADED" => overloaded += usize::from(rejection.code == Code::ResourceExhausted),
            _ => drop(rejection.expect(Code::Aborted, "CONTENTION")),
        }
    }
    assert!(overloaded > 0);
    lock.release().await;
    assert_eq!(posted(&mut ballast.balances, "a").await, 10);
}

#[tokio::test]
async fn a_database_that_went_away_is_unavailable_and_comes_back() {
    let ballast = Ballast::start().await;
    let sql = ballast.database.sql().await;
    let name: String = sql
        .query_one("SELECT current_database()", &[])
        .await
        .expect("a name")
        .get(0);
    let mut balances = ballast.balances.clone();
    Rejection::of(balances.debit(debit("d", "a", 1)).await)
        .expect(Code::NotFound, "ACCOUNT_NOT_FOUND");

    // New connections are refused and the old ones are cut: what a crash looks like from here.
    let elsewhere = crate::support::postgres::Database::empty().await;
    let other = elsewhere.sql().await;
    other
        .batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        .await
        .expect("shut");
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
    other.query(cut, &[&name]).await.expect("cut");
    let rejection = Rejection::of(balances.debit(debit("d", "a", 1)).await);
    let rejection = rejection.expect(Code::Unavailable, "DATABASE_UNAVAILABLE");
    assert_eq!(
        (rejection.facts(), rejection.has_retry_info),
        (vec![("outcome", "none")], true)
    );
    let read = GetOperationRequest {
        operation_id: "d".to_owned(),
        ..GetOperationRequest::default()
    };
    Rejection::of(balances.get_operation(read).await)
        .expect(Code::Unavailable, "DATABASE_UNAVAILABLE");

    other
        .batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
        .await
        .expect("open");
    Rejection::of(balances.debit(debit("d", "a", 1)).await)
        .expect(Code::NotFound, "ACCOUNT_NOT_FOUND");
}

/// An error is cut to fit into trailers, and says how much is left out.
#[tokio::test]
async fn a_long_list_of_violations_is_cut() {
    let mut ballast = Ballast::start().await;
    let bad_ids = BatchGetAccountsRequest {
        account_ids: (0..1_000).map(|index| format!("b {index}")).collect(),
    };
    let rejection = Rejection::of(ballast.accounts.batch_get_accounts(bad_ids).await);
    let rejection = rejection.expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    let (last, listed) = rejection.fields.split_last().expect("some");
    assert_eq!(last, "...");
    assert!((10..=30).contains(&listed.len()), "{listed:?}");
    assert_eq!(listed[9], "account_ids[9]");
}

#[tokio::test]
async fn a_compressed_request_is_told_so() {
    let ballast = Ballast::start().await;
    let mut balances = ballast
        .balances
        .clone()
        .send_compressed(tonic::codec::CompressionEncoding::Gzip);
    let rejection = Rejection::of(balances.credit(credit("c", "a", 1)).await);
    rejection.expect(Code::Unimplemented, "COMPRESSION_NOT_SUPPORTED");
}
