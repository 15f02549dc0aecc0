//! Calls as HTTP shows them: status, headers, body and trailers.

use std::net::SocketAddr;

use http::{HeaderMap, Method, Request, StatusCode};
use http_body::Body as _;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tonic::{Code, Status};

/// A client that speaks HTTP/2 and knows nothing of gRPC.
pub struct Http {
    client: Client<HttpConnector, tonic::body::Body>,
    address: SocketAddr,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

impl Answer {
    /// What headers and trailers take together, as HTTP/2 counts it: 32 bytes for each, and its name and value.
    pub fn header_size(&self) -> usize {
        let all = self.headers.iter().chain(&self.trailers);
        all.map(|(name, value)| name.as_str().len() + value.len() + 32)
            .sum()
    }

    /// The status of the call.
    pub fn grpc_status(&self) -> Status {
        let from = |map| Status::from_header_map(map);
        from(&self.headers)
            .or_else(|| from(&self.trailers))
            .unwrap_or_else(|| panic!("no gRPC status: {self:?}"))
    }

    pub fn is_ok(&self) -> bool {
        self.grpc_status().code() == Code::Ok
    }
}

impl Http {
    pub fn new(address: SocketAddr) -> Self {
        let mut client = Client::builder(TokioExecutor::new());
        Self {
            client: client.http2_only(true).build_http(),
            address,
        }
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = tonic::body::Body::new(FullBody(Some(body.into())));
        let request = request.body(body).expect("a request");
        let response = self.client.request(request).await.expect("an answer");
        let (parts, mut body) = response.into_parts();
        let mut answer = Answer {
            status: parts.status,
            headers: parts.headers,
            body: Vec::new(),
            trailers: HeaderMap::new(),
        };
        let mut next = async || {
            std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context)).await
        };
        while let Some(frame) = next().await {
            let frame = frame.expect("a frame");
            match frame.into_data() {
                Ok(data) => answer.body.extend(data),
                Err(frame) => answer.trailers = frame.into_trailers().expect("data or trailers"),
            }
        }
        answer
    }

    /// A unary call of gRPC.
    pub async fn call(&self, path: &str, message: &[u8]) -> Answer {
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        self.send(Method::POST, path, &headers, framed(message))
            .await
    }
}

/// A message as gRPC sends it.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a message of less than 4 GiB");
    [&[0], &length.to_be_bytes()[..], message].concat()
}

struct FullBody(Option<bytes::Bytes>);

impl http_body::Body for FullBody {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        std::task::Poll::Ready(self.0.take().map(|data| Ok(http_body::Frame::data(data))))
    }
}
