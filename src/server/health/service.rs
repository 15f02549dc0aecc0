//! The health service of gRPC. As tonic's, but whoever watches a service that is not known is told so, and may go on
//! watching: clients take an error for a server without health checks, and do not ask again.

use std::pin::Pin;

use futures_util::stream::{self, Stream, StreamExt};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::HealthService;

/// Serves `grpc.health.v1.Health`.
#[derive(Debug)]
pub(in crate::server) struct WatchableHealth(pub(super) HealthService);

#[tonic::async_trait]
impl Health for WatchableHealth {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.0.check(request).await
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        match self.0.watch(request).await {
            Ok(known) => Ok(known.map(|statuses| statuses.boxed())),
            Err(status) if status.code() == Code::NotFound => {
                let unknown = HealthCheckResponse {
                    status: ServingStatus::ServiceUnknown.into(),
                };
                // All services are known from the start, so this one never will be.
                let statuses = stream::iter([Ok(unknown)]).chain(stream::pending());
                Ok(Response::new(statuses.boxed()))
            }
            Err(status) => Err(status),
        }
    }
}
