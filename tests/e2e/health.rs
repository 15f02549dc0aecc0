//! Health: who watches is told, and goes on watching.

use futures_util::FutureExt;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::instance::channel;
use crate::support::*;

#[tokio::test]
async fn an_unknown_service_is_watched_as_unknown_and_the_watch_stays_open() {
    let mut ballast = Ballast::start().await;
    let mut health = HealthClient::new(channel(ballast.address));
    let request = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    let watched = health.watch(request("ballast.v1.FutureService")).await;
    let mut statuses = watched.expect("a watch").into_inner();
    let first = statuses.next().await.expect("a status").expect("no error");
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);

    // The same connection goes on, and so does the watch.
    let known = health.watch(request("")).await.expect("a watch");
    let mut known = known.into_inner();
    let serving = known.next().await.expect("a status").expect("no error");
    assert_eq!(serving.status(), ServingStatus::Serving);
    Rejection::of(health.check(request("ballast.v1.FutureService")).await)
        .expect(Code::NotFound, "SERVICE_NOT_FOUND");
    assert!(statuses.next().now_or_never().is_none(), "still open");

    ballast.begin_to_stop();
    let stopping = known.next().await.expect("a status").expect("no error");
    assert_eq!(stopping.status(), ServingStatus::NotServing);
    assert!(ballast.stopped().await, "no watch holds up the drain");
}
