//! `ballast health`: asks a running server whether it can serve. For container health checks, which have no grpcurl.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use tonic::transport::Endpoint;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::args::{address, host_and_port};
use super::error::CliError;
use crate::output;
use crate::rpc::proto::balance_service_server;

const TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// The server, as HOST:PORT [default: this machine, at the port of BALLAST_LISTEN or 50051]
    #[arg(long, env = "BALLAST_TARGET", value_name = "HOST:PORT", value_parser = host_and_port)]
    target: Option<String>,
    #[arg(long, env = "BALLAST_LISTEN", hide = true, default_value = "127.0.0.1:50051", value_parser = address)]
    listen: SocketAddr,
}

impl HealthArgs {
    /// The server to ask: where another one of the same environment listens, if none is named.
    fn target(&self) -> String {
        let listens_everywhere = self.listen.ip().is_unspecified();
        let host = if listens_everywhere {
            Ipv4Addr::LOCALHOST.into()
        } else {
            self.listen.ip()
        };
        let here = SocketAddr::new(host, self.listen.port());
        self.target.clone().unwrap_or_else(|| here.to_string())
    }
}

pub(super) async fn run(args: &HealthArgs) -> Result<(), CliError> {
    let target = args.target();
    let unhealthy = |cause: String| CliError::Unhealthy {
        target: target.clone(),
        cause,
    };
    let endpoint = Endpoint::from_shared(format!("http://{target}"))
        .map_err(|error| unhealthy(crate::store::with_source(&error)))?
        .timeout(TIMEOUT)
        .connect_timeout(TIMEOUT);
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| unhealthy(crate::store::with_source(&error)))?;
    let request = HealthCheckRequest {
        service: balance_service_server::SERVICE_NAME.to_owned(),
    };
    let response = HealthClient::new(channel).check(request).await;
    let status = response
        .map_err(|status| unhealthy(status.message().to_owned()))?
        .into_inner()
        .status;
    if status != ServingStatus::Serving as i32 {
        return Err(unhealthy(
            "the database cannot be reached, or the server is stopping".to_owned(),
        ));
    }
    output::print("serving")?;
    Ok(())
}
