//! Answers and errors arrive: whatever is sent, an error fits into the trailers that clients accept, and an answer into the
//! 4 MiB that they receive by default.

use std::collections::{HashMap, HashSet};

use ballast::rpc::proto::transfer_request::Destination;
use ballast::rpc::proto::{
    AuthorizePaymentRequest, BalanceLimits, BatchGetAccountsRequest, CreateAccountRequest,
    CreditRequest, DebitRequest, ExecuteBatchRequest, GetAccountRequest, GetBalanceRequest,
    GetOperationRequest, ListAccountsRequest, ListEntriesRequest, ListOperationsRequest,
    ListRulesRequest, MergeAccountsRequest, Money, OperationRequest, SetMccRuleRequest,
    SetMerchantRuleRequest, TransferRequest, list_operations_request::Filter,
    operation_request::Request as Kind,
};
use http::Method;
use proptest::collection::{hash_map, vec};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use prost::Message;
use tonic::Code;

use crate::support::web::{Answer, Http, framed};
use crate::support::*;

/// What an error may take, headers and trailers together.
const ERROR_SIZE_MAX: usize = 7 * 1024;
/// What a client receives by default.
const ANSWER_SIZE_MAX: usize = 4 * 1024 * 1024;

fn assert_arrives(answer: &Answer, shown: &str) {
    let (headers, body) = (answer.header_size(), answer.body.len());
    assert!(headers < ERROR_SIZE_MAX, "{headers} bytes: {shown}");
    assert!(body < ANSWER_SIZE_MAX, "{body} bytes: {shown}");
    if !answer.is_ok() {
        Rejection::of_status(&answer.grpc_status());
    }
}

/// A character of four bytes, which takes twelve in a message of gRPC.
const WIDE: &str = "\u{1F4B6}";

/// What a caller with bad intentions, or a bug, may write into any field.
fn text() -> BoxedStrategy<String> {
    let valid = ["a", "b", "nobody", "main", "MEAL", "EUR", "d"];
    prop_oneof![
        4 => prop::sample::select(valid.to_vec()).prop_map(str::to_owned),
        1 => Just(String::new()),
        1 => "[a-z]{64}",
        1 => (0usize..600).prop_map(|count| WIDE.repeat(count)),
        1 => (0usize..600).prop_map(|count| "\0\u{7f}\"% ".repeat(count)),
        1 => "\\PC{0,300}",
        1 => any::<String>(),
    ]
    .boxed()
}

fn texts(count: usize) -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..count)
}

fn pairs() -> BoxedStrategy<HashMap<String, String>> {
    hash_map(text(), text(), 0..40).boxed()
}

fn money() -> BoxedStrategy<Option<Money>> {
    let money = (text(), any::<i64>()).prop_map(|(currency_code, minor_units)| Money {
        currency_code,
        minor_units,
    });
    prop::option::of(prop_oneof![
        money,
        (1i64..1_000).prop_map(|n| eur(n).expect("money"))
    ])
    .boxed()
}

fn debits() -> BoxedStrategy<DebitRequest> {
    let texts_of = (text(), text(), text(), text());
    (texts_of, money(), texts(20), pairs(), conditions())
        .prop_map(
            |(texts, amount, categories, metadata, (expected_version, min_available))| {
                let (operation_id, account_id, description, owner_id) = texts;
                DebitRequest {
                    operation_id,
                    account_id,
                    amount,
                    categories,
                    description,
                    metadata,
                    owner_id,
                    validate_only: false,
                    expected_version,
                    min_available_after_minor_units: min_available,
                }
            },
        )
        .boxed()
}

/// An expected version, and what is to stay available.
fn conditions() -> BoxedStrategy<(Option<i64>, Option<i64>)> {
    let number = prop::option::of(any::<i64>());
    (number.clone(), number).boxed()
}

fn credits() -> BoxedStrategy<CreditRequest> {
    let texts = (text(), text(), text(), text());
    (texts, money(), pairs(), conditions())
        .prop_map(|(texts, amount, metadata, (expected_version, _))| {
            let (operation_id, account_id, category, description) = texts;
            CreditRequest {
                operation_id,
                account_id,
                amount,
                category,
                description,
                metadata,
                validate_only: false,
                expected_version,
            }
        })
        .boxed()
}

fn transfers() -> BoxedStrategy<TransferRequest> {
    let destination = prop_oneof![
        text().prop_map(Destination::DestinationAccountId),
        text().prop_map(Destination::DestinationOwnerId),
    ];
    let ids = (text(), text(), text(), text());
    (
        ids,
        texts(20),
        prop::option::of(destination),
        text(),
        money(),
        (pairs(), conditions()),
    )
        .prop_map(
            |(ids, source_categories, destination, destination_category, amount, more)| {
                let (metadata, (expected_version, min_available)) = more;
                let (operation_id, source_account_id, source_owner_id, description) = ids;
                TransferRequest {
                    operation_id,
                    source_account_id,
                    source_categories,
                    destination,
                    destination_category,
                    amount,
                    description,
                    metadata,
                    source_owner_id,
                    validate_only: false,
                    expected_version,
                    min_available_after_minor_units: min_available,
                }
            },
        )
        .boxed()
}

fn batches() -> BoxedStrategy<ExecuteBatchRequest> {
    let member = prop_oneof![
        Just(OperationRequest::default()),
        debits().prop_map(|debit| member(Kind::from(debit))),
        credits().prop_map(|credit| member(Kind::from(credit))),
        transfers().prop_map(|transfer| member(Kind::from(transfer))),
    ];
    (vec(member, 0..8), 1usize..120)
        .prop_map(|(members, repeated)| {
            let count = members.len() * repeated;
            batch(members.into_iter().cycle().take(count).collect())
        })
        .boxed()
}

fn creates() -> BoxedStrategy<CreateAccountRequest> {
    let limit = (text(), any::<i64>(), any::<Option<i64>>());
    let limit = limit.prop_map(|(category, overdraft, limit)| BalanceLimits {
        category,
        overdraft_limit_minor_units: overdraft,
        balance_limit_minor_units: limit,
    });
    let ids = (text(), text(), text());
    (ids, any::<bool>(), pairs(), vec(limit, 0..20))
        .prop_map(|(ids, settlement, labels, limits)| {
            let (account_id, owner_id, currency_code) = ids;
            CreateAccountRequest {
                account_id,
                owner_id,
                currency_code,
                settlement,
                labels,
                limits,
            }
        })
        .boxed()
}

/// The method and the message of a call.
type Call = (&'static str, Vec<u8>);

fn on(method: &'static str, message: &impl Message) -> Call {
    (method, message.encode_to_vec())
}

fn reads() -> BoxedStrategy<Call> {
    let size = prop_oneof![any::<i32>(), Just(0), Just(1_000)];
    let ids = prop_oneof![texts(40), vec(text(), 990..1_010)];
    (
        any::<prop::sample::Index>(),
        text(),
        text(),
        text(),
        size,
        ids,
    )
        .prop_map(
            |(which, id, category, page_token, page_size, account_ids)| match which.index(6) {
                0 => on(
                    "BalanceService/GetBalance",
                    &GetBalanceRequest {
                        account_id: id,
                        category,
                        at_time: (page_size != 0).then_some(prost_types::Timestamp {
                            seconds: page_size.into(),
                            nanos: page_size,
                        }),
                    },
                ),
                1 => on(
                    "BalanceService/GetOperation",
                    &GetOperationRequest {
                        operation_id: id,
                        page_token,
                    },
                ),
                2 => on(
                    "BalanceService/ListOperations",
                    &ListOperationsRequest {
                        filter: Some(Filter::AccountId(id)),
                        page_token,
                        page_size,
                        direction: page_size,
                    },
                ),
                3 => on(
                    "BalanceService/ListEntries",
                    &ListEntriesRequest {
                        account_id: id,
                        category,
                        page_token,
                        page_size,
                        ..ListEntriesRequest::default()
                    },
                ),
                4 => on(
                    "AccountService/BatchGetAccounts",
                    &BatchGetAccountsRequest { account_ids },
                ),
                _ => on(
                    "AccountService/ListAccounts",
                    &ListAccountsRequest {
                        owner_id: id,
                        page_size,
                        page_token,
                    },
                ),
            },
        )
        .boxed()
}

fn others() -> BoxedStrategy<Call> {
    (
        any::<prop::sample::Index>(),
        text(),
        text(),
        text(),
        text(),
        money(),
        pairs(),
    )
        .prop_map(
            |(which, id, other_id, words, more, total_amount, metadata)| match which.index(6) {
                0 => on(
                    "AccountService/GetAccount",
                    &GetAccountRequest { account_id: id },
                ),
                1 => on(
                    "BalanceService/MergeAccounts",
                    &MergeAccountsRequest {
                        operation_id: more,
                        source_account_id: id,
                        destination_account_id: other_id,
                        description: words,
                        metadata,
                        validate_only: false,
                    },
                ),
                2 => on(
                    "CardService/AuthorizePayment",
                    &AuthorizePaymentRequest {
                        operation_id: id,
                        account_id: other_id,
                        total_amount,
                        mcc: words,
                        merchant: more,
                    },
                ),
                3 => on(
                    "CardService/SetMccRule",
                    &SetMccRuleRequest {
                        mcc: id,
                        category: other_id,
                    },
                ),
                4 => on(
                    "CardService/SetMerchantRule",
                    &SetMerchantRuleRequest {
                        merchant: words,
                        category: other_id,
                    },
                ),
                _ => on(
                    "CardService/ListRules",
                    &ListRulesRequest {
                        page_size: 0,
                        page_token: words,
                    },
                ),
            },
        )
        .boxed()
}

fn calls() -> BoxedStrategy<Call> {
    prop_oneof![
        2 => debits().prop_map(|debit| on("BalanceService/Debit", &debit)),
        2 => credits().prop_map(|credit| on("BalanceService/Credit", &credit)),
        2 => transfers().prop_map(|transfer| on("BalanceService/Transfer", &transfer)),
        2 => batches().prop_map(|batch| on("BalanceService/ExecuteBatch", &batch)),
        2 => creates().prop_map(|create| on("AccountService/CreateAccount", &create)),
        4 => reads(),
        4 => others(),
        // No message at all.
        1 => vec(any::<u8>(), 0..100).prop_map(|bytes| ("BalanceService/Debit", bytes)),
    ]
    .boxed()
}

#[test]
fn whatever_is_sent_the_answer_arrives() {
    // Generating a request takes more than a test's thread has, without optimization.
    let thread = std::thread::Builder::new().stack_size(64 * 1024 * 1024);
    let tested = thread.spawn(send_whatever).expect("a thread");
    tested.join().expect("every answer arrives");
}

fn send_whatever() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (ballast, http) = runtime.block_on(async {
        let mut ballast = Ballast::start().await;
        open(&mut ballast, "a", 1_000).await;
        open(&mut ballast, "b", 1_000).await;
        let http = Http::new(ballast.address);
        (ballast, http)
    });
    let config = Config {
        cases: 300,
        failure_persistence: None,
        // The first failure says enough; each of these requests is a call.
        max_shrink_iters: 100,
        ..Config::default()
    };
    let tested = TestRunner::new(config).run(&calls(), |(method, message)| {
        let path = format!("/ballast.v1.{method}");
        let answer = runtime.block_on(http.call(&path, &message));
        assert_arrives(&answer, method);
        Ok(())
    });
    tested.expect("every answer arrives");
    runtime.block_on(ballast.assert_in_order());
}

/// The worst that was thought of, for each kind of error.
#[tokio::test]
async fn the_largest_errors_arrive() {
    let mut ballast = Ballast::start().await;
    let http = Http::new(ballast.address);
    let long = |text: &str| text.repeat(1_000);
    let mut calls = Vec::new();
    for wide in [WIDE, "\0", "%", "x ", "é"] {
        let metadata: HashMap<_, _> = (0..32)
            .map(|index| (format!("{index}{}", long(wide)), long(wide)))
            .collect();
        let limits = (0..16).map(|_| BalanceLimits {
            category: long(wide),
            overdraft_limit_minor_units: i64::MIN,
            balance_limit_minor_units: Some(i64::MIN),
        });
        calls.push(on(
            "BalanceService/Debit",
            &DebitRequest {
                operation_id: long(wide),
                account_id: long(wide),
                owner_id: long(wide),
                description: long(wide),
                categories: vec![long(wide); 16],
                metadata: metadata.clone(),
                ..debit("d", "a", i64::MIN)
            },
        ));
        calls.push(on(
            "AccountService/CreateAccount",
            &CreateAccountRequest {
                account_id: long(wide),
                owner_id: long(wide),
                currency_code: long(wide),
                labels: metadata,
                limits: limits.collect(),
                settlement: true,
            },
        ));
        calls.push(on(
            "AccountService/BatchGetAccounts",
            &BatchGetAccountsRequest {
                account_ids: (0..1_000).map(|index| format!("{index}{wide}")).collect(),
            },
        ));
    }
    for (method, message) in calls {
        let answer = http.call(&format!("/ballast.v1.{method}"), &message).await;
        assert_arrives(&answer, method);
        let rejection = Rejection::of_status(&answer.grpc_status());
        let rejection = rejection.expect(Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(
            rejection.fields.last().expect("some"),
            "...",
            "cut: {method}"
        );
    }

    // Refusals have no violations to cut: all that they say has to fit.
    let account_id = "a".repeat(64);
    let opened = CreateAccountRequest {
        account_id: account_id.clone(),
        ..account("owner")
    };
    ballast
        .accounts
        .create_account(opened)
        .await
        .expect("opened");
    let categories: Vec<_> = (0..16).map(|index| format!("{index:c>32}")).collect();
    let refused = DebitRequest {
        categories: categories.clone(),
        ..debit(&"o".repeat(64), &account_id, i64::pow(10, 18))
    };
    let answer = http
        .call("/ballast.v1.BalanceService/Debit", &refused.encode_to_vec())
        .await;
    assert_arrives(&answer, "a refusal with 16 categories");
    let rejection = Rejection::of_status(&answer.grpc_status());
    let rejection = rejection.expect(Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
    assert_eq!(rejection.metadata["categories"], categories.join(","));

    let headers = [
        ("content-type", "application/grpc"),
        ("grpc-timeout", &"9".repeat(8_000)),
    ];
    let sent = http.send(
        Method::POST,
        "/ballast.v1.BalanceService/Debit",
        &headers,
        framed(&[]),
    );
    assert_arrives(&sent.await, "a long timeout");
}

/// As much as a map may hold.
fn largest_map() -> HashMap<String, String> {
    (0..32)
        .map(|index| (format!("{index:k>64}"), WIDE.repeat(256)))
        .collect()
}

#[tokio::test]
async fn pages_end_before_they_are_too_large_and_nothing_is_left_out() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    let mut ids = HashSet::new();
    for index in 0..150 {
        let operation_id = format!("c-{index}");
        let labelled = CreateAccountRequest {
            account_id: format!("a-{index}"),
            owner_id: "owner".to_owned(),
            labels: largest_map(),
            ..account("a")
        };
        let large = CreditRequest {
            metadata: largest_map(),
            ..credit(&operation_id, "a", 1)
        };
        ballast
            .accounts
            .create_account(labelled)
            .await
            .expect("opened");
        ballast.balances.credit(large).await.expect("posted");
        ids.insert(operation_id);
    }
    let (mut page_token, mut page_count) = (String::new(), 0);
    loop {
        let request = ListOperationsRequest {
            filter: Some(Filter::AccountId("a".to_owned())),
            page_size: 1_000,
            page_token,
            ..ListOperationsRequest::default()
        };
        let page = ballast.balances.list_operations(request).await;
        let page = page.expect("a page that arrives").into_inner();
        assert!(page.encoded_len() < ANSWER_SIZE_MAX);
        for operation in &page.operations {
            assert!(ids.remove(&operation.operation_id), "listed once");
        }
        (page_token, page_count) = (page.next_page_token, page_count + 1);
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!((ids.len(), page_count), (0, 2));

    let mut account_ids = HashSet::new();
    let (mut page_token, mut page_count) = (String::new(), 0);
    loop {
        let request = ListAccountsRequest {
            owner_id: "owner".to_owned(),
            page_size: 1_000,
            page_token,
        };
        let page = ballast.accounts.list_accounts(request).await;
        let page = page.expect("a page that arrives").into_inner();
        assert!(page.encoded_len() < ANSWER_SIZE_MAX);
        for account in &page.accounts {
            assert!(
                account_ids.insert(account.account_id.clone()),
                "listed once"
            );
        }
        (page_token, page_count) = (page.next_page_token, page_count + 1);
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!((account_ids.len(), page_count), (150, 2));

    // These do not fit into one answer, and have no pages.
    let mut account_ids: Vec<_> = account_ids.into_iter().collect();
    let all = BatchGetAccountsRequest {
        account_ids: account_ids.clone(),
    };
    let rejection = Rejection::of(ballast.accounts.batch_get_accounts(all).await);
    let rejection = rejection.expect(Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(rejection.fields, ["account_ids"]);
    account_ids.truncate(20);
    let many_times = BatchGetAccountsRequest {
        account_ids: account_ids.iter().cycle().take(1_000).cloned().collect(),
    };
    let found = ballast.accounts.batch_get_accounts(many_times).await;
    let found = found.expect("each once").into_inner().accounts;
    let found: Vec<_> = found
        .into_iter()
        .map(|account| account.account_id)
        .collect();
    assert_eq!(found, account_ids);
}

#[tokio::test]
async fn ten_thousand_refusals_arrive_and_keep_their_reasons() {
    let mut ballast = Ballast::start().await;
    let (payer, payee) = ("p".repeat(64), "r".repeat(64));
    for account_id in [&payer, &payee] {
        let opened = CreateAccountRequest {
            account_id: account_id.clone(),
            ..account("owner")
        };
        ballast
            .accounts
            .create_account(opened)
            .await
            .expect("opened");
    }
    let transfer = |index: usize, category_count: usize| {
        let categories = (0..category_count).map(|index| format!("{index:c>32}"));
        member(Kind::from(TransferRequest {
            source_categories: categories.collect(),
            ..transfer(&format!("{index:0>64}"), &payer, &payee, i64::pow(10, 18))
        }))
    };
    let whole = execute(&mut ballast.balances, vec![transfer(10_000, 16)]).await;
    let facts = &error_of(&whole[0]).metadata;
    assert_eq!(facts["categories"].split(',').count(), 16);
    for category_count in [0, 16] {
        let members =
            (0..10_000).map(|index| transfer(index + 100_000 * category_count, category_count));
        let answered = ballast
            .balances
            .execute_batch(batch(members.collect()))
            .await;
        let response = answered.expect("an answer that arrives").into_inner();
        let size = response.encoded_len();
        assert!(size < ANSWER_SIZE_MAX, "{size} bytes");
        assert_eq!(response.results.len(), 10_000);
        for result in &response.results {
            let error = error_of(result);
            assert_eq!(error.reason, "INSUFFICIENT_FUNDS");
            assert_eq!(error.metadata["account_id"], payer, "{error:?}");
        }
    }
    ballast.assert_in_order().await;
}
