//! The benchmark runs, compares, verifies every ledger, and writes down what it found.

use crate::support::binary::run;
use crate::support::postgres::Database;

#[tokio::test]
async fn a_short_benchmark_measures_every_variant_and_verifies_every_ledger() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = Database::empty().await;
    let (url, json) = (database.url(), folder.path().join("figures.json"));
    let path = json.to_string_lossy();
    let common = [
        "bench",
        "--database-url",
        &url,
        "--rounds",
        "1",
        "--duration-s",
        "1",
        "--warmup-s",
        "0",
    ];
    let closed = [
        "--accounts",
        "20",
        "--scenario",
        "uniform,zipf:1.2,mutual",
        "--concurrency",
        "8",
    ];
    let others = [
        "--baseline",
        "transaction,echo",
        "--variant",
        "--lanes 1",
        "--json",
        &path,
    ];
    let arguments = [&common[..], &closed[..], &others[..]].concat();
    let (code, stdout, stderr) = run(folder.path(), &arguments);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("every ledger was verified and is in order"));
    let report: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&json).expect("a file"))
            .expect("the file is JSON");
    let rows = report["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 3 * 4);
    for row in rows {
        let figures = &row["rounds"][0];
        assert!(
            figures["ok_per_second"].as_f64() > Some(0.0)
                && figures["latency_us"]["p99"].as_u64() > Some(0),
            "{row}"
        );
    }

    let open = [
        "--accounts",
        "20",
        "--scenario",
        "hot,debit,reads,mixed",
        "--rate",
        "200",
    ];
    let (code, stdout, stderr) = run(folder.path(), &[&common[..], &open[..]].concat());
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert_eq!(stdout.matches("200/s").count(), 4, "{stdout}");
}
