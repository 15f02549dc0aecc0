//! Plans: every statement of the write path, and every read, finds its rows through an index, on empty tables and on some
//! of a realistic size, with statistics and without.

use ballast::store::{CARD_STATEMENTS, READ_STATEMENTS, Session, write_statements};

use crate::support::postgres::Database;

const FILL: &str = "
    INSERT INTO accounts (account_id, owner_id, currency_code, settlement, create_time)
    SELECT 'account-' || i, 'owner-' || i / 3, 'EUR', false, now() FROM generate_series(1, 30000) i;
    INSERT INTO balances (account_id, category, currency_code, posted, version)
    SELECT 'account-' || i, 'main', 'EUR', 10, 1 FROM generate_series(1, 30000) i;
    INSERT INTO balances (account_id, category, currency_code)
    SELECT 'account-' || i, category, 'EUR'
    FROM generate_series(1, 30000, 2) i, unnest(ARRAY['CASH', 'FOOD', 'MEAL']) category;
    INSERT INTO operations (operation_id, kind, amount, currency_code, create_time, destination_account_id,
                            destination_category, destination_version, destination_posted_after)
    SELECT 'operation-' || i, 'CREDIT', 10, 'EUR', now(), 'account-' || i, 'main', 1, 10
    FROM generate_series(1, 30000) i;
    INSERT INTO entry_marks (account_id, category, version, operation_id, create_time)
    SELECT 'account-' || i, 'main', 16, 'operation-' || i, now() FROM generate_series(1, 30000) i;";

#[tokio::test]
async fn no_statement_scans_a_table() {
    let database = Database::migrated().await;
    let sql = database.sql().await;
    for statistics in ["empty", "without statistics", "with statistics"] {
        match statistics {
            "without statistics" => sql.batch_execute(FILL).await.expect("filled"),
            "with statistics" => sql.batch_execute("ANALYZE").await.expect("analyzed"),
            _ => {}
        }
        let write_statements = write_statements();
        let sessions = [
            (Session::Batches, &write_statements[..]),
            (Session::Requests, &READ_STATEMENTS[..]),
            (Session::Requests, &CARD_STATEMENTS[..]),
        ];
        for (session, statements) in sessions {
            // A connection as the pool makes it.
            sql.batch_execute(&session.settings(5_000))
                .await
                .expect("set");
            for (name, statement) in statements {
                sql.batch_execute(&format!("PREPARE statement AS {statement}"))
                    .await
                    .expect("prepared");
                let count = sql
                    .prepare(statement)
                    .await
                    .expect("prepared")
                    .params()
                    .len();
                let arguments = vec!["NULL"; count].join(", ");
                let arguments = if count == 0 {
                    String::new()
                } else {
                    format!("({arguments})")
                };
                let plan = sql
                    .simple_query(&format!("EXPLAIN EXECUTE statement{arguments}"))
                    .await
                    .expect("a plan");
                let plan: Vec<String> = plan
                    .iter()
                    .filter_map(|message| match message {
                        tokio_postgres::SimpleQueryMessage::Row(row) => {
                            row.get(0).map(str::to_owned)
                        }
                        _ => None,
                    })
                    .collect();
                let scans = plan.iter().any(|line| line.contains("Seq Scan"));
                assert!(!scans, "{name} {statistics}:\n{}", plan.join("\n"));
                // All of an index is too much, but for those that only have the few unsettled verdicts.
                let partial = |line: &&String| {
                    !line.contains("card_verdicts_due") && !line.contains("card_verdicts_refused")
                };
                let count = |what| {
                    let lines = plan.iter().filter(partial);
                    lines.filter(|line| line.contains(what)).count()
                };
                let scans = count("Index Scan") + count("Index Only Scan");
                let conditions = count("Index Cond:");
                assert!(
                    scans <= conditions,
                    "{name} {statistics}:\n{}",
                    plan.join("\n")
                );
                // An account may have many categories: one of them is not looked for among all.
                let mut scanned = "";
                for line in &plan {
                    if line.contains("->") || line.contains(" Scan ") {
                        scanned = line;
                    }
                    let is_sought = line.contains("Filter:")
                        && (line.contains("category = ") || line.contains("category IS "));
                    let is_found = ["balances_main", "Tid Scan"]
                        .iter()
                        .any(|way| scanned.contains(way));
                    assert!(
                        !is_sought || is_found || !scanned.contains("on balances"),
                        "{name} {statistics}:\n{}",
                        plan.join("\n")
                    );
                }
                let quickest = match (*name, statistics) {
                    ("lock_by_row_id", _) => Some("Tid Scan"),
                    // In an empty table the primary key is as good; the first ANALYZE makes all plans anew.
                    ("lock_by_key", "with statistics") => Some("Index Scan using balances_main on"),
                    _ => None,
                };
                if let Some(scan) = quickest {
                    let has_it = plan.iter().any(|line| line.contains(scan));
                    assert!(has_it, "{name} {statistics}:\n{}", plan.join("\n"));
                }
                sql.batch_execute("DEALLOCATE statement")
                    .await
                    .expect("deallocated");
            }
            sql.batch_execute("RESET ALL").await.expect("reset");
        }
    }
}
