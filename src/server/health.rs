//! Health: `""` is the process, the services of `ballast.v1` are the database. They are SERVING while writes can succeed:
//! the database answers, is not read-only, and lets the role do what Ballast does.

mod service;

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::rpc::proto::{account_service_server, balance_service_server, card_service_server};
use crate::store::{Obstacle, ServerStanding, Store, StoreError};
use service::WatchableHealth;

/// How often the database is asked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is asked on a new connection. What was changed for new sessions shows only there, and so does where the
/// address leads now.
const NEW_CONNECTION_INTERVAL: Duration = Duration::from_secs(10);
/// How soon it is asked after a write failed; many may.
const PAUSE_AFTER_WRITE_FAILURE: Duration = Duration::from_millis(100);

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
            tokio::select! {
                never = self.keep_asking() => match never {},
                () = draining.cancelled() => {}
            }
            self.report(&DATABASE_SERVICES, ServingStatus::NotServing)
                .await;
            self.report(&[""], ServingStatus::NotServing).await;
        })
    }

    async fn keep_asking(&self) -> Infallible {
        let mut known = None;
        let mut last: Option<ServerStanding> = None;
        let (mut is_anew, mut connected) = (false, Instant::now());
        loop {
            let asked = self.store.standing(Instant::now() + CHECK_TIMEOUT, is_anew);
            let asked = asked.await;
            if let Ok(standing) = &asked
                && last
                    .replace(standing.clone())
                    .is_some_and(|last| last != *standing)
            {
                // What is connected now may be another server, or may do less or more than new sessions.
                self.store.renew();
            }
            let state = State::of(asked);
            let is_serving = matches!(state, State::Serving);
            if known.as_ref().is_none_or(|known| state.differs(known)) {
                self.tell(&state).await;
                known = Some(state);
            }
            tokio::select! {
                () = tokio::time::sleep(CHECK_INTERVAL) => {
                    is_anew = !is_serving || connected.elapsed() >= NEW_CONNECTION_INTERVAL;
                }
                () = self.store.write_failed(), if is_serving => {
                    tokio::time::sleep(PAUSE_AFTER_WRITE_FAILURE).await;
                    is_anew = true;
                }
            }
            if is_anew {
                connected = Instant::now();
            }
        }
    }

    async fn tell(&self, state: &State) {
        let status = match state {
            State::Serving => {
                tracing::info!("the database takes writes; health is SERVING");
                ServingStatus::Serving
            }
            State::Obstacle(cause) => {
                tracing::warn!(%cause, "the database takes no writes; health is NOT_SERVING");
                ServingStatus::NotServing
            }
            State::Silent(cause) => {
                tracing::warn!(%cause, "the database does not answer; health is NOT_SERVING");
                ServingStatus::NotServing
            }
        };
        self.report(&DATABASE_SERVICES, status).await;
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

/// What is known of the database.
enum State {
    /// It takes writes.
    Serving,
    /// It answers, and writes fail.
    Obstacle(Obstacle),
    /// It does not answer.
    Silent(StoreError),
}

impl State {
    fn of(asked: Result<ServerStanding, StoreError>) -> Self {
        match asked {
            Ok(ServerStanding { obstacle: None, .. }) => Self::Serving,
            Ok(ServerStanding {
                obstacle: Some(obstacle),
                ..
            }) => Self::Obstacle(obstacle),
            Err(error) => Self::Silent(error),
        }
    }

    /// Whether it is worth another line in the log. Silence has many words for the same.
    fn differs(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Serving, Self::Serving) | (Self::Silent(_), Self::Silent(_)) => false,
            (Self::Obstacle(one), Self::Obstacle(another)) => one != another,
            (Self::Serving | Self::Obstacle(_) | Self::Silent(_), _) => true,
        }
    }
}
