//! A client that sends a deadline and waits for the answer nevertheless; tonic's own would give up first.

use std::time::Duration;

use ballast::rpc::proto::account_service_client::AccountServiceClient;
use ballast::rpc::proto::balance_service_client::BalanceServiceClient;
use ballast::rpc::proto::card_service_client::CardServiceClient;
use http::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tonic::Request;

use super::Ballast;

pub type Http = Client<HttpConnector, tonic::body::Body>;

pub fn patient(ballast: &Ballast) -> BalanceServiceClient<Http> {
    BalanceServiceClient::with_origin(http(), origin(ballast))
}

/// The same for accounts.
pub fn patient_with_accounts(ballast: &Ballast) -> AccountServiceClient<Http> {
    AccountServiceClient::with_origin(http(), origin(ballast))
}

/// The same for cards.
pub fn patient_with_cards(ballast: &Ballast) -> CardServiceClient<Http> {
    CardServiceClient::with_origin(http(), origin(ballast))
}

fn http() -> Http {
    Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http()
}

fn origin(ballast: &Ballast) -> Uri {
    format!("http://{}", ballast.address)
        .parse()
        .expect("an address is a URI")
}

/// A message with a deadline, of 100 seconds at most.
pub fn within<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    let header = format!("{}u", timeout.as_micros())
        .parse()
        .expect("a header");
    request.metadata_mut().insert("grpc-timeout", header);
    request
}
