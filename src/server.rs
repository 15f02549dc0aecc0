//! The server: wires store, batcher and RPCs, listens, and drains.

mod accept;
mod activity;
mod coalesced;
mod connection;
mod greeting;
mod health;
mod http1;
mod limits;
mod unread;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::OptionFuture;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::batcher::{Batcher, BatcherConfig, WriteThread};
use crate::rpc::answer_budget::ProcessBudget;
use crate::rpc::edge::{Reflections, Services};
use crate::rpc::proto::account_service_server::AccountServiceServer;
use crate::rpc::proto::balance_service_server::BalanceServiceServer;
use crate::rpc::proto::card_service_server::CardServiceServer;
use crate::rpc::{AccountRpc, Authorizer, BalanceRpc, CardRpc, FILE_DESCRIPTOR_SET, card_http};
use crate::store::{Observer, Retries, Store, StoreConfig, StoreConfigError};

use accept::Acceptor;
use connection::GrpcConnections;
use health::Health;
use http1::Http1Connections;
pub use limits::NetworkLimits;
use unread::{Patience, Unread};

/// The largest request message, in bytes. The largest that keeps all rules has 70 KiB (1000 ids); more is room for new
/// fields, and less than what a client could use to fill the memory.
const MESSAGE_SIZE_MAX: usize = 1024 * 1024;
/// The same for ExecuteBatch: 10,000 members of 800 bytes.
const BATCH_SIZE_MAX: usize = 8 * MESSAGE_SIZE_MAX;

/// Everything that a server needs to know.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the JSON endpoint listens; `None`: there is none.
    pub json_listen: Option<SocketAddr>,
    /// The database.
    pub store: StoreConfig,
    /// The write path.
    pub batcher: BatcherConfig,
    /// The longest that a request may take; a shorter deadline of the caller counts.
    pub request_timeout_max: Duration,
    /// The longest that the authorization of a card payment may take.
    pub card_timeout: Duration,
    /// The longest that a shutdown may take.
    pub drain_timeout: Duration,
    /// The most TCP connections.
    pub connection_count_max: usize,
    /// What a client may do to the server by what it sends, cancels or does not read.
    pub network: NetworkLimits,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {cause}; choose another address with {option}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The option that names it.
        option: &'static str,
        /// Why not.
        cause: std::io::Error,
    },
    /// The system grants no thread for the write path, or not what its runtime needs.
    #[error(
        "cannot start the thread of the write path: {0}; raise the limits of processes (ulimit -u) and of open files \
             (ulimit -n)"
    )]
    Thread(std::io::Error),
    /// The database's configuration is not valid.
    #[error(transparent)]
    Store(#[from] StoreConfigError),
    /// The reflection service does not accept the descriptors.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was accepted is answered.
    Drained,
    /// The drain timeout passed before that.
    CutShort,
    /// The write path ended by itself: a bug, and the reason why the server stopped.
    WritePathDied,
}

/// A server that listens and does not yet answer.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    json: Option<(TcpListener, SocketAddr)>,
    store: Store,
    observer: Observer,
    writes: WriteThread,
    batcher: Batcher,
    authorizer: Authorizer,
    batches: JoinHandle<()>,
    health: Health,
    services: Arc<Services>,
    draining: CancellationToken,
    config: ServerConfig,
}

impl Server {
    /// Builds all parts and listens.
    pub async fn bind(config: ServerConfig) -> Result<Self, StartError> {
        let (listener, address) = listen(config.listen, "--listen").await?;
        let json = match config.json_listen {
            Some(address) => Some(listen(address, "--json-listen").await?),
            None => None,
        };
        let observer = Observer::default();
        let store = Store::new(&config.store, &observer)?;
        let writes = WriteThread::start().await.map_err(StartError::Thread)?;
        let (batcher, batches) = Batcher::start(
            writes.runtime(),
            Arc::new(store.clone()),
            observer.clone(),
            config.batcher.clone(),
        );
        let (health, health_service) = Health::new(store.clone()).await;
        let accounts = AccountServiceServer::new(AccountRpc::new(batcher.clone(), store.clone()));
        let draining = CancellationToken::new();
        let balances = BalanceRpc::new(batcher.clone(), store.clone(), draining.clone());
        let balances = BalanceServiceServer::new(balances);
        let authorizer = Authorizer::new(batcher.clone(), store.clone(), config.card_timeout);
        let cards = CardServiceServer::new(CardRpc::new(authorizer.clone(), store.clone()));
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .include_reflection_service(false)
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(
                    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
                )
        };
        let routes = Routes::new(accounts.max_decoding_message_size(MESSAGE_SIZE_MAX))
            .add_service(cards.max_decoding_message_size(MESSAGE_SIZE_MAX))
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .prepare();
        let services = Arc::new(Services {
            batches: balances.clone().max_decoding_message_size(BATCH_SIZE_MAX),
            balances: balances.max_decoding_message_size(MESSAGE_SIZE_MAX),
            routes,
            reflections: Reflections::default(),
        });
        Ok(Self {
            listener,
            address,
            json,
            store,
            observer,
            writes,
            batcher,
            authorizer,
            batches,
            health,
            services,
            draining,
            config,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its JSON endpoint listens, if it has one.
    pub fn json_address(&self) -> Option<SocketAddr> {
        self.json.as_ref().map(|(_, address)| *address)
    }

    /// Its store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What it counts of its writes.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Serves until `shutdown` completes, then drains: reports NOT_SERVING, accepts nothing new, answers everything
    /// that was accepted, closes the pools. Returns after `drain_timeout` at the latest.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Ended {
        let Self {
            listener,
            json,
            store,
            observer,
            writes,
            batcher,
            authorizer,
            batches,
            health,
            services,
            draining,
            config,
            ..
        } = self;
        let connections = TaskTracker::new();
        let serving = health.serving();
        let watching = health.watch(draining.clone());
        let retries = observer.retries().clone();
        let telling = tokio::spawn(tell_retries(retries.clone(), draining.clone()));
        let unread = Unread::new(
            ProcessBudget::new(config.network.answer_budget, draining.clone()),
            Patience {
                usual: config.network.unread_timeout,
                crowded: config.network.unread_timeout_crowded,
            },
        );
        let cutting = tokio::spawn(unread.clone().watch(draining.clone()));
        let acceptor = |listener, name| Acceptor {
            listener,
            name,
            connection_count_max: config.connection_count_max,
            connections: connections.clone(),
            draining: draining.clone(),
        };
        let grpc = Arc::new(GrpcConnections {
            services,
            request_timeout_max: config.request_timeout_max,
            limits: config.network,
            unread,
            draining: draining.clone(),
        });
        let accepting = acceptor(listener, "gRPC");
        let accepting = tokio::spawn(accepting.run(move |stream| grpc.clone().serve(stream)));
        let json = json.map(|(listener, _)| {
            let connections = Http1Connections {
                routes: card_http::routes(authorizer.clone(), serving),
                header_timeout: config.network.greeting_timeout,
                draining: draining.clone(),
            };
            let accepting = acceptor(listener, "JSON endpoint");
            accepting.run(move |stream| connections.clone().serve(stream))
        });
        let json_accepting = tokio::spawn(OptionFuture::from(json));
        let sweeping = tokio::spawn(authorizer.reversals().clone().sweep(draining.clone()));
        let mut batches = batches;
        let mut write_path_is_alive = true;
        tokio::select! {
            () = shutdown => {}
            // It only ends of a bug. A server that cannot write must not look as if it could.
            ended = &mut batches => {
                tracing::error!(?ended, "the write path ended");
                write_path_is_alive = false;
            }
        }

        tracing::info!("draining");
        draining.cancel();
        connections.close();
        let drained = tokio::time::timeout(config.drain_timeout, async {
            // First the answers, then the pools: a connection ends when its last answer is written.
            let _ended = tokio::join!(
                watching,
                telling,
                cutting,
                accepting,
                json_accepting,
                sweeping,
                connections.wait()
            );
            // Payments that were answered 07 in doubt are given back before the write path closes.
            authorizer.drain().await;
            drop(authorizer);
            batcher.close();
            drop(batcher);
            if write_path_is_alive {
                let _ended = batches.await;
            }
        })
        .await;
        store.close();
        drop(writes);
        tracing::info!(retries = retries.count(), "drained");
        match drained {
            _ if !write_path_is_alive => Ended::WritePathDied,
            Ok(()) => Ended::Drained,
            Err(_elapsed) => Ended::CutShort,
        }
    }
}

/// How often the log tells of retries, if there were new ones.
const RETRIES_INTERVAL: Duration = Duration::from_secs(60);

/// Tells how many transactions conflicted with others and were repeated, until the server drains.
async fn tell_retries(retries: Retries, draining: CancellationToken) {
    let mut told = 0;
    while let Err(_elapsed) = tokio::time::timeout(RETRIES_INTERVAL, draining.cancelled()).await {
        let count = retries.count();
        if count > told {
            tracing::info!(
                retries = count,
                new = count - told,
                "transactions conflicted with others and were repeated"
            );
            told = count;
        }
    }
}

async fn listen(
    address: SocketAddr,
    option: &'static str,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let at = |cause| StartError::Listen {
        address,
        option,
        cause,
    };
    let listener = TcpListener::bind(address).await.map_err(at)?;
    let address = listener.local_addr().map_err(at)?;
    Ok((listener, address))
}
