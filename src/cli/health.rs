//! `ballast health`: asks a running server whether it can serve. For container health checks, which have no grpcurl.

use std::time::Duration;

use tonic::transport::Endpoint;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::CliError;
use super::args::HealthArgs;
use crate::output;
use crate::rpc::proto::balance_service_server;

const TIMEOUT: Duration = Duration::from_secs(3);

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
