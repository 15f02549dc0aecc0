//! Chains: an entry is found through marks and the operations after it, whatever the page, and so are the entries of a
//! ledger from before there were any.

use std::collections::BTreeMap;
use std::time::Duration;

use ballast::rpc::proto::list_operations_request::Filter;
use ballast::rpc::proto::{
    BalanceLimits, CreateAccountRequest, CreditRequest, DebitRequest, Entry, GetBalanceRequest,
    ListEntriesRequest, ListOperationsRequest, TransferRequest, TransferResponse,
};
use ballast::store::schema;
use tokio_postgres::Client;
use tonic::Code;

use crate::support::instance::Balances;
use crate::support::postgres::Database;
use crate::support::*;

mod migrations {
    refinery::embed_migrations!("migrations");
}

/// The last version in which entries were rows of their own.
const SCHEMA_WITH_ENTRIES: i32 = 3;

/// Of a and b; c is somebody else's.
const OWNER: &str = "us";

/// Balances by account and category, each with its entries in order of their versions.
type Statements = BTreeMap<(String, String), Vec<Entry>>;

/// What happened, as the answers told it.
#[derive(Default)]
struct Past {
    statements: Statements,
    /// The operations of account a, in order.
    of_account: Vec<String>,
    /// The operations of the owner of a and b, in order.
    of_owner: Vec<String>,
}

impl Past {
    fn note(&mut self, operation_id: &str, entries: Vec<Entry>) {
        let touches = |names: &[&str]| entries.iter().any(|e| names.contains(&&*e.account_id));
        if touches(&["a"]) {
            self.of_account.push(operation_id.to_owned());
        }
        if touches(&["a", "b"]) {
            self.of_owner.push(operation_id.to_owned());
        }
        for entry in entries {
            let key = (entry.account_id.clone(), entry.category.clone());
            self.statements.entry(key).or_default().push(entry);
        }
    }
}

fn within_a(operation_id: &str, from: &str, to: &str) -> TransferRequest {
    TransferRequest {
        source_categories: strings([from]),
        destination_category: to.to_owned(),
        ..transfer(operation_id, "a", "a", 1)
    }
}

/// So much happens that balances have one, several and no marks: transfers in both directions, between two categories of
/// one account, debits into an overdraft, refusals, and a merge in the midst of it.
async fn live(ballast: &mut Ballast) -> Past {
    let mut past = Past::default();
    let overdrawn = CreateAccountRequest {
        owner_id: OWNER.to_owned(),
        limits: vec![BalanceLimits {
            category: "main".to_owned(),
            overdraft_limit_minor_units: 500,
            ..BalanceLimits::default()
        }],
        ..account("a")
    };
    let other = CreateAccountRequest {
        owner_id: OWNER.to_owned(),
        ..account("b")
    };
    for request in [overdrawn, other, account("c"), account("d"), account("e")] {
        let opened = ballast.accounts.create_account(request).await;
        opened.expect("opened");
    }
    let balances = &mut ballast.balances;
    for (id, account_id, category) in [
        ("1", "a", "FOOD"),
        ("2", "b", "main"),
        ("3", "c", "main"),
        ("4", "c", "FOOD"),
    ] {
        let request = CreditRequest {
            category: category.to_owned(),
            ..credit(id, account_id, 100)
        };
        let posted = balances.credit(request).await.expect("posted");
        past.note(id, posted.into_inner().entries);
    }
    for round in 0..30 {
        let id = |what: &str| format!("{what}-{round}");
        let requests = [
            transfer(&id("there"), "a", "b", 3),
            transfer(&id("back"), "b", "a", 2),
            within_a(&id("to-food"), "main", "FOOD"),
            within_a(&id("from-food"), "FOOD", "main"),
        ];
        for request in requests {
            let operation_id = request.operation_id.clone();
            let posted = balances.transfer(request).await.expect("posted");
            past.note(&operation_id, posted.into_inner().entries);
        }
        let request: DebitRequest = debit(&id("debit"), "a", 1);
        let posted = balances.debit(request).await.expect("posted");
        past.note(&id("debit"), posted.into_inner().entries);
        if round == 11 {
            let request = debit("refused", "a", 1_000);
            let refused = Rejection::of(balances.debit(request).await);
            refused.expect(Code::FailedPrecondition, "INSUFFICIENT_FUNDS");
            past.of_account.push("refused".to_owned());
            past.of_owner.push("refused".to_owned());
        }
        if round == 13 {
            let request = CreditRequest {
                description: "a gift".to_owned(),
                metadata: [("from".to_owned(), "c".to_owned())].into(),
                ..credit("described", "a", 5)
            };
            let posted = balances.credit(request).await.expect("posted");
            past.note("described", posted.into_inner().entries);
            // Of an account that has nothing, and of one that owes.
            for (id, from, to) in [("merge-of-nothing", "d", "a"), ("refused-merge", "a", "e")] {
                let merged = balances.merge_accounts(merge(id, from, to)).await;
                match merged {
                    Ok(merged) => past.note(id, merged.into_inner().entries),
                    Err(refused) => {
                        Rejection::of_status(&refused)
                            .expect(Code::FailedPrecondition, "BALANCE_NEGATIVE");
                    }
                }
                past.of_account.push(id.to_owned());
                past.of_owner.push(id.to_owned());
            }
        }
        if round == 17 {
            let merged = balances.merge_accounts(merge("merge", "c", "a")).await;
            let merged = merged.expect("merged");
            past.note("merge", merged.into_inner().entries);
        }
    }
    past
}

async fn entries(
    balances: &mut Balances,
    (account_id, category): &(String, String),
    oldest_first: bool,
    page_size: i32,
) -> Vec<Entry> {
    let mut request = ListEntriesRequest {
        account_id: account_id.clone(),
        category: category.clone(),
        oldest_first,
        page_size,
        ..ListEntriesRequest::default()
    };
    let mut found = Vec::new();
    loop {
        let page = balances.list_entries(request.clone()).await;
        let page = page.expect("a page").into_inner();
        assert!(page.entries.len() <= page_size as usize);
        found.extend(page.entries);
        if page.next_page_token.is_empty() {
            return found;
        }
        request.page_token = page.next_page_token;
    }
}

async fn operation_ids(balances: &mut Balances, filter: Filter, page_size: i32) -> Vec<String> {
    let mut request = ListOperationsRequest {
        filter: Some(filter),
        page_size,
        ..ListOperationsRequest::default()
    };
    let mut found = Vec::new();
    loop {
        let page = balances.list_operations(request.clone()).await;
        let page = page.expect("a page").into_inner();
        found.extend(page.operations.into_iter().map(|one| one.operation_id));
        if page.next_page_token.is_empty() {
            return found;
        }
        request.page_token = page.next_page_token;
    }
}

/// Reads everything back in every way, and compares it with what the answers said.
async fn assert_known(balances: &mut Balances, past: &Past) {
    for (key, expected) in &past.statements {
        for page_size in [1, 2, 15, 16, 17, 40, 1000] {
            let found = entries(balances, key, true, page_size).await;
            assert_eq!(&found, expected, "{key:?} in pages of {page_size}");
            let mut found = entries(balances, key, false, page_size).await;
            found.reverse();
            assert_eq!(&found, expected, "{key:?} backwards, {page_size}");
        }
        let mut last: (i64, i64) = (0, 0);
        for entry in expected {
            let time = entry.create_time.expect("a time");
            let just_before = prost_types::Timestamp {
                nanos: time.nanos - 1_000,
                ..time
            };
            // Of a whole second there is no time before in the same second; one in a million.
            if just_before.nanos >= 0 {
                assert_eq!(balance_at(balances, key, just_before).await, last);
            }
            last = (entry.version, entry.posted_after_minor_units);
            assert_eq!(balance_at(balances, key, time).await, last);
        }
    }
    let account = Filter::AccountId("a".to_owned());
    let owner = Filter::OwnerId(OWNER.to_owned());
    for (filter, expected) in [(account, &past.of_account), (owner, &past.of_owner)] {
        for page_size in [1, 7, 16, 50] {
            let mut found = operation_ids(balances, filter.clone(), page_size).await;
            found.reverse();
            assert_eq!(&found, expected, "{filter:?}, pages of {page_size}");
        }
    }
}

async fn balance_at(
    balances: &mut Balances,
    (account_id, category): &(String, String),
    time: prost_types::Timestamp,
) -> (i64, i64) {
    let request = GetBalanceRequest {
        account_id: account_id.clone(),
        category: category.clone(),
        at_time: Some(time),
    };
    let found = balances.get_balance(request).await.expect("an answer");
    let found = found.into_inner().balance.expect("a balance");
    (found.version, found.posted_minor_units)
}

#[tokio::test]
async fn every_entry_is_found_in_every_page_and_at_every_time() {
    let mut ballast = Ballast::start().await;
    let past = live(&mut ballast).await;
    let lengths = past.statements.values().map(Vec::len);
    assert!(lengths.clone().any(|length| length > 4 * 16));
    assert!(lengths.clone().any(|length| length < 16));
    assert_known(&mut ballast.balances, &past).await;
    ballast.assert_in_order().await;
}

/// The rows of a table as JSON, in an order of their own.
async fn rows_of(sql: &Client, table: &str, order: &str) -> Vec<String> {
    let query = format!("SELECT to_jsonb(t)::text FROM {table} t ORDER BY {order}");
    let rows = sql.query(&query, &[]).await.expect("the rows");
    rows.iter().map(|row| row.get(0)).collect()
}

const ORDERS: [(&str, &str); 5] = [
    ("accounts", "account_id"),
    ("balances", "account_id, category"),
    ("operations", "operation_id"),
    ("operation_legs", "operation_id, position"),
    ("entry_marks", "account_id, category, version"),
];

#[tokio::test]
async fn a_ledger_with_a_table_of_entries_is_carried_over_whole() {
    let mut ballast = Ballast::start().await;
    let mut past = live(&mut ballast).await;
    let now = ballast.database.sql().await;

    // The same ledger, as it was in the older schema: what columns both have, and the entries as rows.
    let database = Database::empty().await;
    let timeout = Duration::from_secs(20);
    let mut before = schema::connect(&database.url(), timeout)
        .await
        .expect("connected");
    let mut runner = migrations::migrations::runner()
        .set_target(refinery::Target::Version(SCHEMA_WITH_ENTRIES as _));
    runner.set_migration_table_name("schema_history");
    runner
        .run_async(&mut before)
        .await
        .expect("the older schema");
    // There, no entry of a merge stood in its row.
    const OPERATIONS: &str = "(SELECT o.*, kind = 'MERGE' AS is_merge FROM operations o)";
    const PARTS: &str = "(
        SELECT s.operation_id, s.category, d.amount, s.version AS source_version, d.version AS destination_version
        FROM operations o
        JOIN entries s ON s.operation_id = o.operation_id AND s.amount < 0
        JOIN entries d ON d.operation_id = o.operation_id AND d.amount > 0 AND d.category = s.category
        WHERE o.kind = 'MERGE'
    )";
    for (table, source) in [
        ("accounts", "accounts"),
        ("balances", "balances"),
        ("operations", OPERATIONS),
        ("merge_parts", PARTS),
    ] {
        for row in rows_of(&now, source, "1").await {
            let insert = format!(
                "INSERT INTO {table}
                 SELECT * FROM jsonb_populate_record(NULL::{table}, $1::text::jsonb - CASE
                     WHEN ($1::text::jsonb -> 'is_merge')::boolean
                     THEN '{{source_category,source_version,destination_category,destination_version}}'::text[]
                     ELSE '{{}}' END)"
            );
            before.execute(&insert, &[&row]).await.expect("inserted");
        }
    }
    let entries = "
        INSERT INTO entries
        SELECT version, amount, posted_after, create_time, account_id, category, operation_id, nullif(held_after, 0),
               nullif(available_after, posted_after - held_after)
        FROM jsonb_populate_record(NULL::entries, $1::text::jsonb)";
    for row in rows_of(&now, "entries", "1").await {
        before.execute(entries, &[&row]).await.expect("inserted");
    }

    schema::migrate(&mut before).await.expect("migrated");
    for (table, order) in ORDERS {
        assert_eq!(
            rows_of(&before, table, order).await,
            rows_of(&now, table, order).await,
            "{table}"
        );
    }
    let mut carried = Ballast::start_on(database.into(), |_| {}).await;
    assert_known(&mut carried.balances, &past).await;
    let again = transfer("there-3", "a", "b", 3);
    let replayed = carried.balances.transfer(again).await.expect("replayed");
    assert!(replayed.into_inner().replayed);
    for round in 0..40 {
        let id = format!("later-{round}");
        let posted = carried.balances.transfer(transfer(&id, "b", "a", 1)).await;
        let posted: TransferResponse = posted.expect("posted").into_inner();
        past.note(&id, posted.entries);
    }
    assert_known(&mut carried.balances, &past).await;
    carried.assert_in_order().await;
}

#[tokio::test]
async fn what_is_missing_is_an_error_and_not_a_shorter_page() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    for index in 1..=20 {
        let request = credit(&index.to_string(), "a", 1);
        ballast.balances.credit(request).await.expect("posted");
    }
    let sql = ballast.database.sql().await;
    let entries = |page_token: &str| ListEntriesRequest {
        account_id: "a".to_owned(),
        page_size: 2,
        page_token: page_token.to_owned(),
        ..ListEntriesRequest::default()
    };
    let first = ballast.balances.list_entries(entries("")).await;
    let first = first.expect("a page").into_inner();
    let later = entries(&first.next_page_token);
    let operations = ListOperationsRequest {
        filter: Some(Filter::AccountId("a".to_owned())),
        ..ListOperationsRequest::default()
    };
    let second_page = |page_token: String| ListOperationsRequest {
        page_size: 2,
        page_token,
        ..operations.clone()
    };
    let first = ballast
        .balances
        .list_operations(second_page(String::new()))
        .await;
    let second_page = second_page(first.expect("a page").into_inner().next_page_token);
    let third = "SELECT create_time FROM operations WHERE operation_id = '3'";
    let third: std::time::SystemTime = sql.query_one(third, &[]).await.expect("a row").get(0);
    let at_third = GetBalanceRequest {
        account_id: "a".to_owned(),
        at_time: Some(third.into()),
        ..GetBalanceRequest::default()
    };
    for broken in [
        "UPDATE operations SET destination_previous_id = NULL WHERE operation_id IN ('6', '18')",
        "UPDATE operations SET destination_previous_id = '1' WHERE operation_id IN ('6', '18')",
        "DELETE FROM entry_marks",
    ] {
        sql.batch_execute(
            "CREATE TABLE kept AS TABLE operations; CREATE TABLE kept_marks AS TABLE entry_marks",
        )
        .await
        .expect("kept");
        sql.batch_execute(broken).await.expect("broken");
        let balances = &mut ballast.balances;
        let answer = balances.list_entries(later.clone()).await;
        Rejection::of(answer).expect(Code::Internal, "INTERNAL");
        for page in [&operations, &second_page] {
            let answer = balances.list_operations(page.clone()).await;
            Rejection::of(answer).expect(Code::Internal, "INTERNAL");
        }
        let answer = balances.get_balance(at_third.clone()).await;
        Rejection::of(answer).expect(Code::Internal, "INTERNAL");
        let mended = "TRUNCATE operations, entry_marks; INSERT INTO operations TABLE kept;
                      INSERT INTO entry_marks TABLE kept_marks; DROP TABLE kept, kept_marks";
        sql.batch_execute(mended).await.expect("mended");
        let balances = &mut ballast.balances;
        balances.list_entries(later.clone()).await.expect("a page");
        let found = balances.list_operations(operations.clone()).await;
        assert_eq!(found.expect("a page").into_inner().operations.len(), 20);
        let found = balances.get_balance(at_third.clone()).await;
        assert_eq!(
            found
                .expect("known")
                .into_inner()
                .balance
                .expect("one")
                .version,
            3
        );
    }
}
