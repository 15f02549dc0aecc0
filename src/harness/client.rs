//! A client as every service should have one: it goes on to the next server when its own is gone, and repeats what has
//! no final answer under the same operation id, with growing pauses, so often and no more.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rand::RngExt;
use tokio::net::{TcpSocket, TcpStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// How long a call may take before it is given up and repeated.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a call is sent, and a connection is tried.
const ATTEMPTS_MAX: u32 = 40;
/// The pause after the first attempt; it doubles with each, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The longest that a connection may take: longer than the pause after which TCP repeats a lost first packet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections from one address of this machine to itself: each needs a port, of which Linux gives out 28,000.
const CONNECTIONS_PER_SOURCE: u64 = 10_000;

/// A call without a final answer after all attempts, or with one that nobody expects.
#[derive(Debug, thiserror::Error)]
#[error("{code:?} {reason}: {message}")]
pub struct CallError {
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// What an error means for its caller.
pub(crate) enum Judgement {
    /// A business answer that says no: final.
    Refused,
    /// Nothing happened, or nobody knows: send it again.
    Again,
    /// Not to be expected from a correct request.
    Wrong,
}

/// The reason of an error, as far as it has one, and what it means.
pub(crate) fn judge(status: &Status) -> (String, Judgement) {
    let details = status.get_error_details();
    let Some(info) = details.error_info() else {
        // Not from Ballast: the connection broke, or the client gave up waiting.
        return (format!("no answer, {:?}", status.code()), Judgement::Again);
    };
    let judgement = match status.code() {
        _ if details.precondition_failure().is_some() => Judgement::Refused,
        Code::Aborted | Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => {
            Judgement::Again
        }
        _ => Judgement::Wrong,
    };
    (info.reason.clone(), judgement)
}

/// Waits before the next attempt; some wait less than others, so that they do not come back together.
pub(crate) async fn pause(attempt: u32) {
    let pause = (PAUSE_MIN * 2_u32.saturating_pow(attempt)).min(PAUSE_MAX);
    let share = rand::rng().random_range(0.5..1.0);
    tokio::time::sleep(pause.mul_f64(share)).await;
}

/// Whether there may be another attempt after this one, counted from 0.
pub(crate) fn may_repeat(attempt: u32) -> bool {
    attempt + 1 < ATTEMPTS_MAX
}

/// Calls until there is a final answer.
pub(crate) async fn until_known<T, F>(
    mut call: impl FnMut() -> F,
) -> Result<tonic::Response<T>, CallError>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let mut attempt = 0;
    loop {
        let status = match call().await {
            Ok(response) => return Ok(response),
            Err(status) => status,
        };
        let (reason, judgement) = judge(&status);
        if !matches!(judgement, Judgement::Again) || !may_repeat(attempt) {
            return Err(CallError {
                code: status.code(),
                reason,
                message: status.message().to_owned(),
            });
        }
        pause(attempt).await;
        attempt += 1;
    }
}

/// Makes the connections of one client: each new one goes to the next server of the list.
pub(crate) struct Dialer {
    addresses: Arc<[SocketAddr]>,
    number: u64,
}

impl Dialer {
    /// For the connection of this number: begins at another server than its neighbours.
    pub(crate) fn new(addresses: &[SocketAddr], number: u64) -> Self {
        let addresses = addresses.into();
        Self { addresses, number }
    }

    /// A channel that is connected, and connects again when it is needed.
    pub(crate) async fn channel(self) -> Result<Channel, CallError> {
        let Self { addresses, number } = self;
        let start = usize::try_from(number).unwrap_or(0) % addresses.len();
        let next = Arc::new(AtomicUsize::new(start));
        let connector = tower::service_fn(move |_| {
            let address = addresses[next.fetch_add(1, Ordering::Relaxed) % addresses.len()];
            async move {
                let connecting = tokio::time::timeout(CONNECT_TIMEOUT, connect(address, number));
                connecting.await?.map(TokioIo::new)
            }
        });
        // The connector knows where to; this is the name that requests carry.
        let endpoint = Endpoint::from_static("http://ballast").timeout(CALL_TIMEOUT);
        let mut attempt = 0;
        loop {
            let error = match endpoint.connect_with_connector(connector.clone()).await {
                Ok(channel) => return Ok(channel),
                Err(error) => error,
            };
            if !may_repeat(attempt) {
                return Err(CallError {
                    code: Code::Unavailable,
                    reason: "cannot connect".to_owned(),
                    message: crate::store::with_source(&error),
                });
            }
            pause(attempt).await;
            attempt += 1;
        }
    }
}

async fn connect(address: SocketAddr, number: u64) -> std::io::Result<TcpStream> {
    let stream = match (address.ip(), number / CONNECTIONS_PER_SOURCE) {
        (IpAddr::V4(ip), block @ 1..) if ip.is_loopback() => {
            let socket = TcpSocket::new_v4()?;
            let last = u8::try_from(block + 1).unwrap_or(u8::MAX);
            socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into())?;
            socket.connect(address).await?
        }
        _ => TcpStream::connect(address).await?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}
