//! The RPCs: proto in, command out; receipt in, proto out. A value that leaves [`request`] is valid by its type.

mod account;
pub mod answer_budget;
mod balance;
mod batch;
mod card;
pub mod card_http;
pub mod codec;
mod context;
pub mod edge;
mod member;
mod page;
mod problem;
mod reply;
mod request;
mod short_errors;
mod status;
mod submission;
mod violations;

pub use account::AccountRpc;
pub use balance::BalanceRpc;
pub use card::CardRpc;
pub use card::authorizer::Authorizer;

/// The messages and services of `proto/ballast/v1`, generated.
#[allow(clippy::all, missing_docs, reason = "generated code")]
pub mod proto {
    tonic::include_proto!("ballast.v1");
}

/// The descriptors of `proto/`, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ballast.bin"));
