//! Health: `""` is the process, the services of `ballast.v1` are the database.

mod service;

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::rpc::proto::{account_service_server, balance_service_server, card_service_server};
use crate::store::Store;
use service::WatchableHealth;

/// How often the database is asked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

const DATABASE_SERVICES: [&str; 3] = [
    balance_service_server::SERVICE_NAME,
    account_service_server::SERVICE_NAME,
    card_service_server::SERVICE_NAME,
];

/// Reports the health of process and database.
pub(super) struct Health {
    reporter: HealthReporter,
    store: Store,
    serving: watch::Sender<bool>,
}

impl Health {
    /// The reporter, and the service that shows its reports.
    pub(super) async fn new(store: Store) -> (Self, HealthServer<WatchableHealth>) {
        let reporter = HealthReporter::new();
        let service = HealthService::from_health_reporter(reporter.clone());
        let service = HealthServer::new(WatchableHealth(service));
        let health = Self {
            reporter,
            store,
            serving: watch::Sender::new(false),
        };
        // Known from the start, so that nobody who watches is told that there is no such service.
        health
            .report(&DATABASE_SERVICES, ServingStatus::NotServing)
            .await;
        (health, service)
    }

    /// Whether CardService is SERVING, for whoever does not speak gRPC.
    pub(super) fn serving(&self) -> watch::Receiver<bool> {
        self.serving.subscribe()
    }

    /// Asks the database until the server drains, then reports NOT_SERVING for everything.
    pub(super) fn watch(self, draining: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut was_ok = None;
            loop {
                let is_ok = tokio::select! {
                    checked = self.store.ping(Instant::now() + CHECK_TIMEOUT) => checked.is_ok(),
                    () = draining.cancelled() => break,
                };
                if was_ok != Some(is_ok) {
                    tracing::info!(database_is_reachable = is_ok, "health changed");
                    let status = if is_ok {
                        ServingStatus::Serving
                    } else {
                        ServingStatus::NotServing
                    };
                    self.report(&DATABASE_SERVICES, status).await;
                    was_ok = Some(is_ok);
                }
                tokio::select! {
                    () = tokio::time::sleep(CHECK_INTERVAL) => {}
                    () = draining.cancelled() => break,
                }
            }
            self.report(&DATABASE_SERVICES, ServingStatus::NotServing)
                .await;
            self.report(&[""], ServingStatus::NotServing).await;
        })
    }

    async fn report(&self, services: &[&str], status: ServingStatus) {
        if services.contains(&card_service_server::SERVICE_NAME) {
            self.serving.send_replace(status == ServingStatus::Serving);
        }
        for service in services {
            self.reporter.set_service_status(*service, status).await;
        }
    }
}
