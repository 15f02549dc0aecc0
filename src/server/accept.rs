//! The accept loop: takes the connections of one listener, bounded in number, and serves each in a task of its own, until
//! the server drains. What a listener makes of a connection, and what is spoken on it, is not its business.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A pause after a failed accept, which mostly means that the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where connections come from.
pub(super) trait Listener: Send + 'static {
    /// A connection that was accepted, and cannot be served yet.
    type Accepted: Send + 'static;
    /// A connection that can be served.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for a connection. Cancel safe. Returns without waiting for anything that the client has to send.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Accepted>> + Send;

    /// What comes before the first request. It may wait for the client, because nobody waits for it.
    fn open(accepted: Self::Accepted) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Accepted = TcpStream;
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _peer) = TcpListener::accept(self).await?;
        Ok(stream)
    }

    async fn open(accepted: TcpStream) -> io::Result<TcpStream> {
        accepted.set_nodelay(true)?;
        Ok(accepted)
    }
}

/// Accepts connections until the server drains.
pub(super) struct Acceptor<L> {
    pub(super) listener: L,
    /// What the log calls the listener.
    pub(super) name: &'static str,
    pub(super) connection_count_max: usize,
    /// Where the tasks of the connections are counted, so that a drain can wait for them.
    pub(super) connections: TaskTracker,
    pub(super) draining: CancellationToken,
}

impl<L: Listener> Acceptor<L> {
    /// Serves each connection with `serve`, which returns when the connection has ended, also if the server drains.
    pub(super) async fn run<S, F>(self, serve: S)
    where
        S: Fn(L::Stream) -> F + Clone + Send + 'static,
        F: Future<Output = Result<(), hyper::Error>> + Send + 'static,
    {
        let permits = Arc::new(Semaphore::new(self.connection_count_max));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = self.draining.cancelled() => return,
            };
            let accepted = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(
                        %error,
                        listener = self.name,
                        "cannot accept a connection; raise the limit of open files (ulimit -n)?"
                    );
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = permits.clone().try_acquire_owned() else {
                tracing::warn!(
                    listener = self.name,
                    connection_count_max = self.connection_count_max,
                    "too many connections; one is dropped"
                );
                continue;
            };
            let serve = serve.clone();
            let draining = self.draining.clone();
            self.connections.spawn(async move {
                let opened = tokio::select! {
                    biased;
                    opened = L::open(accepted) => opened,
                    () = draining.cancelled() => return,
                };
                match opened {
                    Ok(stream) => {
                        if let Err(error) = serve(stream).await {
                            let error = crate::store::with_source(&error);
                            tracing::debug!(error, "a connection broke");
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a connection was closed before it began")
                    }
                }
                drop(permit);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::{Mutex, mpsc};

    use super::*;

    /// What a client does to the listener.
    enum Arrival {
        Connection(DuplexStream),
        /// It is gone before it begins.
        Broken,
        /// There is no file descriptor left.
        Failure,
    }

    struct Scripted(Mutex<mpsc::UnboundedReceiver<Arrival>>);

    impl Listener for Scripted {
        type Accepted = Option<DuplexStream>;
        type Stream = DuplexStream;

        async fn accept(&self) -> io::Result<Option<DuplexStream>> {
            match self.0.lock().await.recv().await {
                Some(Arrival::Connection(stream)) => Ok(Some(stream)),
                Some(Arrival::Broken) => Ok(None),
                Some(Arrival::Failure) => Err(io::ErrorKind::Other.into()),
                None => std::future::pending().await,
            }
        }

        fn open(
            accepted: Option<DuplexStream>,
        ) -> impl Future<Output = io::Result<DuplexStream>> + Send {
            ready(accepted.ok_or(io::ErrorKind::NotConnected.into()))
        }
    }

    struct Running {
        arrivals: mpsc::UnboundedSender<Arrival>,
        connections: TaskTracker,
        draining: CancellationToken,
        accepting: tokio::task::JoinHandle<()>,
    }

    /// An accept loop whose service sends back the byte that it is sent, and ends with the connection or the drain.
    fn start(connection_count_max: usize) -> Running {
        let (arrivals, arriving) = mpsc::unbounded_channel();
        let (connections, draining) = (TaskTracker::new(), CancellationToken::new());
        let acceptor = Acceptor {
            listener: Scripted(Mutex::new(arriving)),
            name: "test",
            connection_count_max,
            connections: connections.clone(),
            draining: draining.clone(),
        };
        let stop = draining.clone();
        let accepting = tokio::spawn(acceptor.run(move |mut stream: DuplexStream| {
            let stop = stop.clone();
            async move {
                let mut byte = [0];
                let echo = async {
                    while stream.read_exact(&mut byte).await.is_ok() {
                        stream.write_all(&byte).await.expect("somebody reads");
                    }
                };
                tokio::select! {
                    () = echo => {}
                    () = stop.cancelled() => {}
                }
                Ok(())
            }
        }));
        Running {
            arrivals,
            connections,
            draining,
            accepting,
        }
    }

    impl Running {
        fn connect(&self) -> DuplexStream {
            let (client, server) = duplex(64);
            let arrival = Arrival::Connection(server);
            assert!(self.arrivals.send(arrival).is_ok(), "it listens");
            client
        }
    }

    /// Whether the connection is served; if not, it has been closed.
    async fn is_served(client: &mut DuplexStream) -> bool {
        let mut byte = [0];
        let _sent = client.write_all(b"x").await;
        client.read_exact(&mut byte).await.is_ok() && byte == *b"x"
    }

    #[tokio::test]
    async fn connections_beyond_the_most_are_dropped_until_one_ends() {
        let running = start(2);
        let (mut one, mut two, mut three) =
            (running.connect(), running.connect(), running.connect());
        assert!(is_served(&mut one).await && is_served(&mut two).await);
        assert!(!is_served(&mut three).await);
        drop(one);
        while running.connections.len() > 1 {
            tokio::task::yield_now().await;
        }
        assert!(is_served(&mut running.connect()).await);
        assert!(is_served(&mut two).await);
    }

    #[tokio::test(start_paused = true)]
    async fn neither_a_failed_accept_nor_a_connection_that_broke_ends_the_loop() {
        let running = start(1);
        for arrival in [Arrival::Failure, Arrival::Broken, Arrival::Failure] {
            assert!(running.arrivals.send(arrival).is_ok(), "it listens");
        }
        assert!(is_served(&mut running.connect()).await);
    }

    #[tokio::test]
    async fn a_drain_ends_the_loop_and_waits_for_what_is_served() {
        let running = start(2);
        let mut client = running.connect();
        assert!(is_served(&mut client).await);
        running.draining.cancel();
        running.accepting.await.expect("no panic");
        running.connections.close();
        running.connections.wait().await;
        assert!(!is_served(&mut client).await);
        let late = duplex(64).1;
        let refused = running.arrivals.send(Arrival::Connection(late));
        assert!(refused.is_err(), "nobody listens");
    }
}
