//! What a person with grpcurl meets: reflection in both versions, error details that can be read, and health.

use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::*;

async fn v1_answers(channel: Channel, symbol: &str) -> bool {
    use v1::server_reflection_request::MessageRequest;
    use v1::server_reflection_response::MessageResponse;
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol(symbol.to_owned())),
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel);
    let answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .expect("reflection");
    let answer = answers
        .into_inner()
        .next()
        .await
        .expect("one answer")
        .expect("an answer");
    matches!(
        answer.message_response,
        Some(MessageResponse::FileDescriptorResponse(_))
    )
}

async fn v1alpha_answers(channel: Channel, symbol: &str) -> bool {
    use v1alpha::server_reflection_request::MessageRequest;
    use v1alpha::server_reflection_response::MessageResponse;
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol(symbol.to_owned())),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .expect("reflection");
    let answer = answers
        .into_inner()
        .next()
        .await
        .expect("one answer")
        .expect("an answer");
    matches!(
        answer.message_response,
        Some(MessageResponse::FileDescriptorResponse(_))
    )
}

#[tokio::test]
async fn both_reflections_know_every_service_and_every_error_detail() {
    let ballast = Ballast::start().await;
    let symbols = [
        "ballast.v1.BalanceService",
        "ballast.v1.AccountService",
        "ballast.v1.CardService",
        "grpc.health.v1.Health",
        "google.rpc.ErrorInfo",
        "google.rpc.BadRequest",
        "google.rpc.PreconditionFailure",
        "google.rpc.ResourceInfo",
        "google.rpc.RetryInfo",
    ];
    for symbol in symbols {
        let channel = crate::support::instance::channel(ballast.address);
        assert!(
            v1_answers(channel.clone(), symbol).await,
            "v1 knows {symbol}"
        );
        assert!(
            v1alpha_answers(channel, symbol).await,
            "v1alpha knows {symbol}"
        );
    }
}

#[tokio::test]
async fn health_tells_the_process_from_the_database() {
    let ballast = Ballast::start().await;
    let mut health = HealthClient::new(crate::support::instance::channel(ballast.address));
    let request = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    let mut changes = health
        .watch(request("ballast.v1.BalanceService"))
        .await
        .expect("a watch")
        .into_inner();
    let mut until = async |status: ServingStatus| {
        while changes
            .next()
            .await
            .expect("a change")
            .expect("a status")
            .status()
            != status
        {}
    };
    until(ServingStatus::Serving).await;

    let elsewhere = crate::support::postgres::Database::empty().await;
    let other = elsewhere.sql().await;
    let name: String = ballast
        .database
        .sql()
        .await
        .query_one("SELECT current_database()", &[])
        .await
        .expect("one")
        .get(0);
    other
        .batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        .await
        .expect("shut");
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
    other.query(cut, &[&name]).await.expect("cut");
    until(ServingStatus::NotServing).await;
    let process = health
        .check(request(""))
        .await
        .expect("a status")
        .into_inner();
    assert_eq!(process.status(), ServingStatus::Serving);

    other
        .batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
        .await
        .expect("open");
    until(ServingStatus::Serving).await;
}
