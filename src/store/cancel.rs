//! Cancel requests: they end the statement that runs on a connection, and travel on a connection of their own.
//!
//! One that arrives late ends the next statement instead. PostgreSQL closes the connection of a request after it has
//! passed it on, so the end of that connection says that the request is over. The driver's own function does not wait.

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::Host;
use tokio_postgres::{CancelToken, Config, NoTls};

const PORT_DEFAULT: u16 = 5432;

/// Cancels what runs on the connection of `token`, and waits until the request is over. Of several servers each is asked:
/// only the one that knows the token's key does something.
pub(super) async fn cancel(config: &Config, token: CancelToken) -> io::Result<()> {
    let hosts = config.get_hosts();
    for index in 0..hosts.len().max(config.get_hostaddrs().len()) {
        let ports = config.get_ports();
        let port = ports.get(index).or(ports.first());
        let port = port.copied().unwrap_or(PORT_DEFAULT);
        match (config.get_hostaddrs().get(index), hosts.get(index)) {
            (Some(address), _) => cancel_at(*address, port, &token).await?,
            (None, Some(Host::Tcp(name))) => {
                for address in tokio::net::lookup_host((name.as_str(), port)).await? {
                    cancel_at(address.ip(), port, &token).await?;
                }
            }
            (None, Some(Host::Unix(folder))) => {
                let socket = UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await;
                send(socket, &token).await?;
            }
            (None, None) => {}
        }
    }
    Ok(())
}

async fn cancel_at(address: IpAddr, port: u16, token: &CancelToken) -> io::Result<()> {
    send(TcpStream::connect((address, port)).await, token).await
}

async fn send<S>(stream: io::Result<S>, token: &CancelToken) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = match stream {
        Ok(stream) => stream,
        // Nobody there: it is not the server of the connection, or that server is gone with the connection.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
        Err(error) => return Err(error),
    };
    let sent = token.cancel_query_raw(&mut stream, NoTls).await;
    sent.map_err(io::Error::other)?;
    // It says nothing, and closes.
    let mut word = [0];
    while stream.read(&mut word).await? > 0 {}
    Ok(())
}
