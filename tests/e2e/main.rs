//! The promises of Ballast, shown from outside: through gRPC, on a real PostgreSQL. One module per promise.

mod accounts;
mod batches;
mod bench;
mod card_door;
mod card_doubts;
mod card_rules;
mod cards;
mod concurrency;
mod deadlines;
mod errors;
mod execute_batch;
mod facade;
mod fleet;
mod get_or_create;
mod history;
mod idempotency;
mod isolation;
mod merge;
mod movements;
mod owners;
mod plans;
mod reflection;
mod shutdown;
mod start;
mod submit_operations;
mod support;
