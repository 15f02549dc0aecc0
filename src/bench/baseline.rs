//! Baselines: what Ballast is compared with, behind the same gRPC method.

use std::net::SocketAddr;
use std::time::SystemTime;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio::net::TcpListener;
use tokio_postgres::NoTls;
use tonic::{Request, Response, Status};

use super::error::BenchError;
use super::operation_ids::OperationIds;
use crate::rpc::proto::balance_service_server::{BalanceService, BalanceServiceServer};
use crate::rpc::proto::transfer_request::Destination;
use crate::rpc::proto::*;

/// What answers Transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// One transaction per request, written the usual way: BEGIN, two SELECT … FOR UPDATE in order, two UPDATEs, INSERTs
    /// of the operation and its entries, COMMIT; prepared statements on pooled connections. Operations and entries have
    /// tables of their own there, as usual.
    Transaction,
    /// Nothing: an answer of the usual size, at once. The ceiling of gRPC on this machine, as tonic serves it.
    Echo,
    /// The same transaction in one stored function, called by pgbench: no gRPC, one round trip. See `pgbench.rs`.
    Pgbench,
}

impl Baseline {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Echo => "echo",
            Self::Pgbench => "pgbench",
        }
    }

    /// The baseline of this name.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name {
            "transaction" => Ok(Self::Transaction),
            "echo" => Ok(Self::Echo),
            "pgbench" => Ok(Self::Pgbench),
            _ => Err("must be one of transaction, echo, pgbench".to_owned()),
        }
    }
}

/// A baseline and its numbers.
#[derive(Debug, Clone)]
pub struct BaselineConfig {
    /// Which one.
    pub baseline: Baseline,
    /// How many database connections it has.
    pub connection_count: usize,
}

impl BaselineConfig {
    /// What has to be known to compare with it.
    pub(super) fn note(&self, operation_ids: OperationIds) -> Option<String> {
        match (self.baseline, operation_ids) {
            (Baseline::Transaction, _) => None,
            (Baseline::Echo, _) => {
                Some("echo: tonic's own server, which sends each answer alone".to_owned())
            }
            (Baseline::Pgbench, operation_ids) => {
                let ids = match operation_ids {
                    OperationIds::Random => "",
                    OperationIds::TimeOrdered => "; its operation ids are random",
                };
                Some(format!(
                    "pgbench: at most {} in flight, one on each connection, so compare its throughput{ids}",
                    self.connection_count
                ))
            }
        }
    }
}

/// Serves a baseline until the process is ended, with tonic's own server. Says where it listens as the banner does.
pub async fn serve(
    config: &BaselineConfig,
    database_url: &str,
    listen: SocketAddr,
) -> Result<(), BenchError> {
    let pool = match config.baseline {
        Baseline::Echo | Baseline::Pgbench => None,
        Baseline::Transaction => {
            let manager_config = ManagerConfig {
                recycling_method: RecyclingMethod::Fast,
            };
            let manager = Manager::from_config(database_url.parse()?, NoTls, manager_config);
            let pool = Pool::builder(manager)
                .max_size(config.connection_count)
                .build();
            Some(pool.map_err(|error| BenchError::Database(error.to_string()))?)
        }
    };
    let listener = TcpListener::bind(listen).await?;
    crate::output::show(format_args!("gRPC {}", listener.local_addr()?));
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let service = BalanceServiceServer::new(Naive { pool });
    let served = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(incoming);
    served
        .await
        .map_err(|error| BenchError::Database(crate::store::with_source(&error)))
}

struct Naive {
    /// None: answers without asking anyone.
    pool: Option<Pool>,
}

/// One side of a transfer after it.
struct Side {
    account_id: String,
    version: i64,
    posted: i64,
    amount: i64,
}

impl Naive {
    async fn transact(
        &self,
        pool: &Pool,
        request: &TransferRequest,
        to: &str,
    ) -> Result<[Side; 2], Status> {
        let failed =
            |error: tokio_postgres::Error| Status::internal(crate::store::with_source(&error));
        let from = request.source_account_id.as_str();
        let amount = request.amount.as_ref().map_or(0, |money| money.minor_units);
        let mut client = pool
            .get()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let select = "SELECT posted, version, clock_timestamp() FROM balances WHERE account_id = $1 AND category = 'main' FOR UPDATE";
        let update =
            "UPDATE balances SET posted = posted + $2, version = version + 1, update_time = $3
                      WHERE account_id = $1 AND category = 'main'";
        let operation =
            "INSERT INTO operations (operation_id, kind, amount, currency_code, create_time,
                source_account_id, source_category, source_version,
                destination_account_id, destination_category, destination_version)
            VALUES ($1, 'TRANSFER', $2, 'EUR', $7, $3, 'main', $4, $5, 'main', $6)";
        let entries = "INSERT INTO entries (account_id, category, version, operation_id, amount, posted_after, create_time)
            VALUES ($1, 'main', $2, $3, $4, $5, $10), ($6, 'main', $7, $3, $8, $9, $10)";
        let [select, update, operation, entries] = {
            let mut statements = Vec::with_capacity(4);
            for sql in [select, update, operation, entries] {
                statements.push(client.prepare_cached(sql).await.map_err(failed)?);
            }
            <[_; 4]>::try_from(statements).map_err(|_| Status::internal("four statements"))?
        };
        let transaction = client.transaction().await.map_err(failed)?;
        let mut in_order = [from, to];
        in_order.sort_unstable();
        let mut sides = Vec::with_capacity(2);
        // The time after the last lock, so that it never runs backwards within a balance.
        let mut time = SystemTime::UNIX_EPOCH;
        for account_id in in_order {
            let row = transaction
                .query_opt(&select, &[&account_id])
                .await
                .map_err(failed)?;
            let row = row.ok_or_else(|| Status::not_found(account_id))?;
            let amount = if account_id == from { -amount } else { amount };
            let (posted, version): (i64, i64) = (row.get(0), row.get(1));
            time = row.get(2);
            let side = Side {
                account_id: account_id.to_owned(),
                version: version + 1,
                posted: posted + amount,
                amount,
            };
            sides.push(side);
        }
        sides.sort_unstable_by_key(|side| side.amount);
        let [from, to] = <[Side; 2]>::try_from(sides).map_err(|_| Status::internal("two sides"))?;
        if from.posted < 0 {
            return Err(Status::failed_precondition("insufficient funds"));
        }
        for side in [&from, &to] {
            transaction
                .execute(&update, &[&side.account_id, &side.amount, &time])
                .await
                .map_err(failed)?;
        }
        let (id, amount) = (&request.operation_id, &to.amount);
        transaction
            .execute(
                &operation,
                &[
                    id,
                    amount,
                    &from.account_id,
                    &from.version,
                    &to.account_id,
                    &to.version,
                    &time,
                ],
            )
            .await
            .map_err(failed)?;
        transaction
            .execute(
                &entries,
                &[
                    &from.account_id,
                    &from.version,
                    id,
                    &from.amount,
                    &from.posted,
                    &to.account_id,
                    &to.version,
                    &to.amount,
                    &to.posted,
                    &time,
                ],
            )
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok([from, to])
    }
}

/// An answer of the same shape and size as Ballast's.
fn response(request: TransferRequest, sides: &[Side; 2]) -> TransferResponse {
    let create_time = Some(prost_types::Timestamp {
        seconds: 1_700_000_000,
        nanos: 123_456_000,
    });
    let main = || "main".to_owned();
    let reference = |side: &Side| {
        Some(BalanceRef {
            account_id: side.account_id.clone(),
            category: main(),
        })
    };
    let entry = |side: &Side| Entry {
        unreadable: String::new(),
        account_id: side.account_id.clone(),
        category: main(),
        version: side.version,
        operation_id: request.operation_id.clone(),
        amount_minor_units: side.amount,
        posted_after_minor_units: side.posted,
        held_after_minor_units: 0,
        create_time,
    };
    let balance = |side: &Side| BalanceSnapshot {
        account_id: side.account_id.clone(),
        category: main(),
        currency_code: "EUR".to_owned(),
        posted_minor_units: side.posted,
        held_minor_units: 0,
        available_minor_units: side.posted,
        version: side.version,
    };
    let [from, to] = sides;
    TransferResponse {
        entries: sides.iter().map(entry).collect(),
        balances: sides.iter().map(balance).collect(),
        operation: Some(Operation {
            kind: OperationKind::Transfer.into(),
            state: OperationState::Posted.into(),
            source: reference(from),
            destination: reference(to),
            create_time,
            amount: request.amount,
            operation_id: request.operation_id,
            ..Operation::default()
        }),
        ..TransferResponse::default()
    }
}

/// Answers with UNIMPLEMENTED: a baseline is asked for transfers only.
macro_rules! only_transfers {
    ($($method:ident: $request:ty => $response:ty),* $(,)?) => {
        #[tonic::async_trait]
        impl BalanceService for Naive {
            async fn transfer(
                &self,
                request: Request<TransferRequest>,
            ) -> Result<Response<TransferResponse>, Status> {
                let request = request.into_inner();
                let Some(Destination::DestinationAccountId(to)) = request.destination.clone() else {
                    return Err(Status::invalid_argument("destination_account_id"));
                };
                let sides = match &self.pool {
                    Some(pool) => self.transact(pool, &request, &to).await?,
                    None => [request.source_account_id.clone(), to]
                        .map(|account_id| Side { account_id, version: 100, posted: 1_000_000_000, amount: 1 }),
                };
                Ok(Response::new(response(request, &sides)))
            }

            type SubmitOperationsStream =
                futures_util::stream::Empty<Result<SubmitOperationsResponse, Status>>;

            async fn submit_operations(
                &self,
                _: Request<tonic::Streaming<SubmitOperationsRequest>>,
            ) -> Result<Response<Self::SubmitOperationsStream>, Status> {
                Err(Status::unimplemented("a baseline only transfers"))
            }

            $(async fn $method(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented("a baseline only transfers"))
            })*
        }
    };
}

only_transfers!(
    debit: DebitRequest => DebitResponse,
    credit: CreditRequest => CreditResponse,
    merge_accounts: MergeAccountsRequest => MergeAccountsResponse,
    post_operation: PostOperationRequest => PostOperationResponse,
    reverse_operation: ReverseOperationRequest => ReverseOperationResponse,
    execute_batch: ExecuteBatchRequest => ExecuteBatchResponse,
    get_balance: GetBalanceRequest => GetBalanceResponse,
    get_operation: GetOperationRequest => GetOperationResponse,
    list_operations: ListOperationsRequest => ListOperationsResponse,
    list_entries: ListEntriesRequest => ListEntriesResponse,
);
