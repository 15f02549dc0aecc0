//! The log: by default it tells what happens to Ballast, and not what its libraries chat about.

use tokio::io::AsyncReadExt;

use crate::support::binary::command;
use crate::support::postgres::Database;
use crate::support::*;

/// Serves, loses its connections, serves on, stops; and its log.
async fn log_of(arguments: &[&str]) -> String {
    let database = Database::migrated().await;
    let folder = tempfile::tempdir().expect("a folder");
    let url = database.url();
    let arguments = [
        &["--database-url", &url, "--request-connections", "1"],
        arguments,
    ]
    .concat();
    let mut serving = tokio::process::Command::from(command(folder.path(), &arguments));
    let mut child = serving.kill_on_drop(true).spawn().expect("it starts");
    let (mut out, mut err) = (
        child.stdout.take().expect("piped"),
        child.stderr.take().expect("piped"),
    );
    let log = tokio::spawn(async move {
        let mut log = String::new();
        err.read_to_string(&mut log).await.expect("a log");
        log
    });
    let mut banner = String::new();
    let address = within_reason("a banner", async {
        loop {
            let mut bytes = [0; 4096];
            let length = out.read(&mut bytes).await.expect("a banner");
            assert!(length > 0, "it ended: {banner}");
            banner.push_str(&String::from_utf8_lossy(&bytes[..length]));
            let line = banner
                .lines()
                .find_map(|line| line.trim().strip_prefix("gRPC"));
            let address = line.and_then(|line| line.split_whitespace().next());
            if banner.ends_with('\n')
                && let Some(address) = address
            {
                return address.parse().expect("an address");
            }
        }
    })
    .await;
    let drained = tokio::spawn(async move { out.read_to_end(&mut Vec::new()).await });
    let mut balances = ballast::rpc::proto::balance_service_client::BalanceServiceClient::new(
        crate::support::instance::channel(address),
    );
    // A connection is made, ended from outside, and found to be closed when it is used next.
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'ballast requests'";
    let sql = database.sql().await;
    for _ in 0..3 {
        within_reason("an answer", async {
            let request = || ballast::rpc::proto::GetOperationRequest {
                operation_id: "nothing".to_owned(),
                ..Default::default()
            };
            while balances
                .get_operation(request())
                .await
                .expect_err("nothing")
                .code()
                != tonic::Code::NotFound
            {}
        })
        .await;
        sql.query_one(ended, &[]).await.expect("ended");
    }
    let pid = i32::try_from(child.id().expect("it runs")).expect("a process id");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGTERM,
    )
    .expect("told");
    child.wait().await.expect("it stops");
    let _banner = drained.await;
    log.await.expect("a log")
}

#[tokio::test]
async fn by_default_the_pool_s_chatter_is_not_logged() {
    let chatty = log_of(&["--log", "info"]).await;
    assert!(
        chatty.contains("deadpool"),
        "the pool says something: {chatty}"
    );
    let log = log_of(&[]).await;
    assert!(!log.contains("deadpool"), "{log}");
    assert!(log.contains("stopped"), "{log}");
}
