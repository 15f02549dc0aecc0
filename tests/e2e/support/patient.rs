//! A client that sends a deadline and waits for the answer nevertheless; tonic's own would give up first.

use std::time::Duration;

use ballast::rpc::proto::balance_service_client::BalanceServiceClient;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tonic::Request;

use super::Ballast;

pub type Patient = BalanceServiceClient<Client<HttpConnector, tonic::body::Body>>;

pub fn patient(ballast: &Ballast) -> Patient {
    let http = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let origin = format!("http://{}", ballast.address)
        .parse()
        .expect("an address is a URI");
    BalanceServiceClient::with_origin(http, origin)
}

/// A message with a deadline.
pub fn within<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    let header = format!("{}m", timeout.as_millis())
        .parse()
        .expect("a header");
    request.metadata_mut().insert("grpc-timeout", header);
    request
}
