//! What is not gRPC moves no money: it is turned away before any RPC sees it.

use ballast::rpc::proto::GetOperationRequest;
use http::{Method, StatusCode};
use prost::Message;
use tonic::Code;

use crate::support::web::{Http, framed};
use crate::support::*;

const CREDIT: &str = "/ballast.v1.BalanceService/Credit";

#[tokio::test]
async fn another_method_or_content_type_is_refused_and_does_nothing() {
    let mut ballast = Ballast::start().await;
    open(&mut ballast, "a", 0).await;
    let http = Http::new(ballast.address);
    let message = framed(&credit("c", "a", 1).encode_to_vec());
    let grpc = "application/grpc";
    let rows = [
        (Method::GET, Some(grpc), StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, None, StatusCode::METHOD_NOT_ALLOWED),
        (Method::PUT, Some(grpc), StatusCode::METHOD_NOT_ALLOWED),
        (Method::OPTIONS, Some(grpc), StatusCode::METHOD_NOT_ALLOWED),
        (Method::POST, None, StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (Method::POST, Some(""), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (
            Method::POST,
            Some("text/plain"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        (
            Method::POST,
            Some("application/json"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        (
            Method::POST,
            Some("application/x-www-form-urlencoded"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        (
            Method::POST,
            Some("application/grpc-web"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        (
            Method::POST,
            Some("application/grpc-web+proto"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        (
            Method::POST,
            Some("application/grpc+json"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
    ];
    let paths = [CREDIT, "/grpc.health.v1.Health/Check", "/"];
    for (method, content_type, expected) in rows {
        for path in paths {
            let shown = format!("{method} {path} {content_type:?}");
            let headers: Vec<_> = content_type
                .map(|text| ("content-type", text))
                .into_iter()
                .collect();
            let answer = http
                .send(method.clone(), path, &headers, message.clone())
                .await;
            assert_eq!(answer.status, expected, "{shown}");
            assert!(!answer.headers.contains_key("grpc-status"), "{shown}");
            let allow = answer.headers.get("allow").map(|allow| allow.as_bytes());
            let is_method = expected == StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!(allow, is_method.then_some(&b"POST"[..]), "{shown}");
        }
    }
    let unknown = GetOperationRequest {
        operation_id: "c".to_owned(),
        ..GetOperationRequest::default()
    };
    Rejection::of(ballast.balances.get_operation(unknown).await)
        .expect(Code::NotFound, "OPERATION_NOT_FOUND");

    for content_type in ["application/grpc", "application/grpc+proto"] {
        let headers = [("content-type", content_type), ("te", "trailers")];
        let answer = http
            .send(Method::POST, CREDIT, &headers, message.clone())
            .await;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.is_ok(), "{answer:?}");
    }
    assert_eq!(posted(&mut ballast.balances, "a").await, 1);
}
