//! BalanceService: see `proto/ballast/v1/balance_service.proto`.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::batch;
use super::edge::Deadline;
use super::member::{self, Member};
use super::page;
use super::proto::{self, balance_service_server::BalanceService};
use super::reply::{self, Posted};
use super::request::{self, HistoryFilter, HistoryPage};
use super::room::Room;
use super::status::RpcError;
use super::submission::{self, Results};
use super::violations::Violations;
use crate::batcher::Batcher;
use crate::domain::{AccountId, Command, Operation, card};
use crate::store::{BalanceAt, HistoryPosition, Store};

/// Serves BalanceService: what moves money through the batcher, what reads from the store.
#[derive(Debug)]
pub struct BalanceRpc {
    batcher: Batcher,
    store: Store,
    limits: Limits,
}

/// What ends an operation of a stream, and the stream.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The longest that one operation may take, from its arrival on.
    pub operation_timeout: Duration,
    /// Cancelled when the server drains: then streams read no more.
    pub draining: CancellationToken,
}

/// How many pages' worth of operations ListOperations looks through for one page of a direction.
const SCANNED_PAGES_MAX: usize = 20;

impl BalanceRpc {
    /// Serves from this batcher and this store, streams within these limits.
    pub fn new(batcher: Batcher, store: Store, limits: Limits) -> Self {
        Self {
            batcher,
            store,
            limits,
        }
    }

    async fn execute(&self, command: Command, deadline: Instant) -> Result<Posted, RpcError> {
        let answer = self.batcher.execute(command, deadline).await;
        member::outcome(answer).map(|receipt| reply::posted(&receipt))
    }

    /// The command of a request, with what had to be asked about its accounts.
    async fn command(&self, member: Member, deadline: Instant) -> Result<Command, RpcError> {
        match member {
            Member::Command(command) => Ok(*command),
            Member::Asks(asks) => {
                let facts = member::ask(&self.store, [&*asks], deadline).await;
                asks.settle(&facts)
            }
        }
    }

    /// The command of a merge. Accounts stay and keep their currency, so what is read here holds for the decision later.
    async fn merge_command(
        &self,
        merge: request::Merge,
        deadline: Instant,
    ) -> Result<Command, RpcError> {
        if card::is_reserved_id(merge.operation_id.as_str()) {
            let ids = vec![merge.operation_id.clone()];
            let recorded = self.store.before(deadline).recorded_operations(ids).await?;
            if recorded.is_empty() {
                let mut violations = Violations::default();
                violations.reserved("operation_id");
                return Err(violations.into());
            }
        }
        let account_ids = vec![merge.source.clone(), merge.destination.clone()];
        let found = self
            .store
            .before(deadline)
            .get_accounts(account_ids)
            .await?;
        let currency_of = |account_id: &AccountId| {
            let account = found
                .iter()
                .find(|account| account.account_id == *account_id);
            account
                .map(|account| account.currency)
                .ok_or_else(|| RpcError::AccountNotFound(account_id.clone()))
        };
        let currency = currency_of(&merge.source)?;
        currency_of(&merge.destination)?;
        Ok(merge.command(currency))
    }

    /// The operations of a page, and the position to go on from if there may be more.
    async fn history(
        &self,
        page: &HistoryPage,
        deadline: Instant,
    ) -> Result<(Vec<Operation>, Option<HistoryPosition>), RpcError> {
        let (filter, direction) = &page.filter;
        let size = page.size as usize;
        let mut position = page.after.clone().unwrap_or_else(HistoryPosition::newest);
        let mut found = Vec::new();
        for _ in 0..SCANNED_PAGES_MAX {
            let (operations, listed) = self
                .scan(filter, position.clone(), page.size + 1, deadline)
                .await?;
            let is_last = operations.len() <= size;
            for operation in operations.into_iter().take(size) {
                let operation_id = operation.command.operation_id.to_string();
                position = HistoryPosition {
                    create_time: operation.create_time,
                    operation_id,
                };
                if goes(&operation, *direction, &listed) {
                    found.push(operation);
                }
                if found.len() == size && !is_last {
                    return Ok((found, Some(position)));
                }
            }
            if is_last {
                // A page that filled up before the end of the scan ends there, and the rest is the next page's.
                let rest = found.split_off(size.min(found.len()));
                let position = if rest.is_empty() {
                    None
                } else {
                    found.last().map(position_of)
                };
                return Ok((found, position));
            }
        }
        Ok((found, Some(position)))
    }

    async fn scan(
        &self,
        filter: &HistoryFilter,
        after: HistoryPosition,
        limit: i64,
        deadline: Instant,
    ) -> Result<(Vec<Operation>, Vec<AccountId>), RpcError> {
        let store = self.store.before(deadline);
        match filter.clone() {
            HistoryFilter::Account(account_id) => {
                let operations = store
                    .account_history(account_id.clone(), after, limit)
                    .await?;
                Ok((operations, vec![account_id]))
            }
            HistoryFilter::Owner(owner_id) => {
                Ok(store.owner_history(owner_id, after, limit).await?)
            }
        }
    }
}

fn position_of(operation: &Operation) -> HistoryPosition {
    let operation_id = operation.command.operation_id.to_string();
    HistoryPosition {
        create_time: operation.create_time,
        operation_id,
    }
}

/// Whether an operation goes in this direction, seen from the listed accounts.
fn goes(operation: &Operation, direction: proto::Direction, listed: &[AccountId]) -> bool {
    let movement = &operation.command.movement;
    let listed: HashSet<&AccountId> = listed.iter().collect();
    let is_listed = |id: Option<&AccountId>| id.is_some_and(|id| listed.contains(id));
    let from_listed = is_listed(movement.source_account_id());
    let to_listed = is_listed(movement.destination_account_id());
    match direction {
        proto::Direction::Unspecified => true,
        proto::Direction::Incoming => to_listed && !from_listed,
        proto::Direction::Outgoing => from_listed && !to_listed,
        proto::Direction::Internal => from_listed && to_listed,
    }
}

#[tonic::async_trait]
impl BalanceService for BalanceRpc {
    async fn debit(
        &self,
        request: Request<proto::DebitRequest>,
    ) -> Result<Response<proto::DebitResponse>, Status> {
        let deadline = Deadline::of(&request);
        let debit = request::debit(request.into_inner()).map_err(RpcError::from)?;
        let command = self.command(Member::of_debit(debit), deadline).await?;
        let Posted {
            operation,
            entries,
            balances,
            replayed,
        } = self.execute(command, deadline).await?;
        Ok(Response::new(proto::DebitResponse {
            operation: Some(operation),
            entries,
            balances,
            replayed,
        }))
    }

    async fn credit(
        &self,
        request: Request<proto::CreditRequest>,
    ) -> Result<Response<proto::CreditResponse>, Status> {
        let deadline = Deadline::of(&request);
        let credit = request::credit(request.into_inner()).map_err(RpcError::from)?;
        let command = self.command(Member::of_credit(credit), deadline).await?;
        let Posted {
            operation,
            entries,
            balances,
            replayed,
        } = self.execute(command, deadline).await?;
        Ok(Response::new(proto::CreditResponse {
            operation: Some(operation),
            entries,
            balances,
            replayed,
        }))
    }

    async fn transfer(
        &self,
        request: Request<proto::TransferRequest>,
    ) -> Result<Response<proto::TransferResponse>, Status> {
        let deadline = Deadline::of(&request);
        let transfer = request::transfer(request.into_inner()).map_err(RpcError::from)?;
        let member = Member::of_transfer(transfer)?;
        let command = self.command(member, deadline).await?;
        let Posted {
            operation,
            entries,
            balances,
            replayed,
        } = self.execute(command, deadline).await?;
        Ok(Response::new(proto::TransferResponse {
            operation: Some(operation),
            entries,
            balances,
            replayed,
        }))
    }

    async fn merge_accounts(
        &self,
        request: Request<proto::MergeAccountsRequest>,
    ) -> Result<Response<proto::MergeAccountsResponse>, Status> {
        let deadline = Deadline::of(&request);
        let merge = request::merge(request.into_inner()).map_err(RpcError::from)?;
        let command = self.merge_command(merge, deadline).await?;
        let mut posted = self.execute(command, deadline).await?;
        let cut_at = posted.cut();
        let Posted {
            operation,
            entries,
            balances,
            replayed,
        } = posted;
        let next_page_token =
            cut_at.map(|count| request::operation_entries_token(&operation.operation_id, count));
        Ok(Response::new(proto::MergeAccountsResponse {
            operation: Some(operation),
            entries,
            balances,
            replayed,
            next_page_token: next_page_token.unwrap_or_default(),
        }))
    }

    async fn execute_batch(
        &self,
        request: Request<proto::ExecuteBatchRequest>,
    ) -> Result<Response<proto::ExecuteBatchResponse>, Status> {
        let deadline = Deadline::of(&request);
        let count = request::execute_batch(request.get_ref()).map_err(RpcError::from)?;
        let reserved = Room::reserve(&request, batch::room(count)).await?;
        let operations = request.into_inner().operations;
        let results = batch::execute(&self.batcher, &self.store, operations, deadline).await;
        Ok(reserved.answer(proto::ExecuteBatchResponse { results }))
    }

    type SubmitOperationsStream = Results;

    async fn submit_operations(
        &self,
        request: Request<tonic::Streaming<proto::SubmitOperationsRequest>>,
    ) -> Result<Response<Self::SubmitOperationsStream>, Status> {
        let deadline = Deadline::of_stream(&request);
        let room = Room::of(&request)?;
        let (batcher, store) = (self.batcher.clone(), self.store.clone());
        let requests = request.into_inner();
        let results = submission::start(requests, batcher, store, deadline, room, &self.limits);
        Ok(Response::new(results))
    }

    async fn get_balance(
        &self,
        request: Request<proto::GetBalanceRequest>,
    ) -> Result<Response<proto::GetBalanceResponse>, Status> {
        let (key, at_time) = request::get_balance(request.get_ref()).map_err(RpcError::from)?;
        let account_id = key.account_id.clone();
        let store = self.store.before(Deadline::of(&request));
        let balance = match at_time {
            None => {
                let details = store.get_balance(key).await.map_err(RpcError::from)?;
                details.map(|details| reply::balance(account_id.as_str(), &details))
            }
            Some(at) => match store
                .get_balance_at(key, at)
                .await
                .map_err(RpcError::from)?
            {
                None => None,
                Some(BalanceAt::Entry { now, then }) => {
                    Some(reply::balance_at(account_id.as_str(), &now, then.as_ref()))
                }
                Some(BalanceAt::Future(clock)) => {
                    let rule = format!(
                        "lies in the future, the database's clock shows {}",
                        reply::timestamp(clock)
                    );
                    return Err(RpcError::from(Violations::one("at_time", rule)).into());
                }
            },
        };
        let balance = balance.ok_or(RpcError::AccountNotFound(account_id))?;
        Ok(Response::new(proto::GetBalanceResponse {
            balance: Some(balance),
        }))
    }

    async fn get_operation(
        &self,
        request: Request<proto::GetOperationRequest>,
    ) -> Result<Response<proto::GetOperationResponse>, Status> {
        let (operation_id, after) =
            request::get_operation(request.get_ref()).map_err(RpcError::from)?;
        let store = self.store.before(Deadline::of(&request));
        let operation = store
            .get_operation(operation_id.clone())
            .await
            .map_err(RpcError::from)?;
        let operation = operation.ok_or(RpcError::OperationNotFound(operation_id))?;
        let entries = reply::entries(&operation);
        let operation = reply::operation(&operation);
        let (entries, next) = reply::entry_page(&operation, entries, after);
        let next_page_token =
            next.map(|count| request::operation_entries_token(&operation.operation_id, count));
        Ok(Response::new(proto::GetOperationResponse {
            operation: Some(operation),
            entries,
            next_page_token: next_page_token.unwrap_or_default(),
        }))
    }

    async fn list_operations(
        &self,
        request: Request<proto::ListOperationsRequest>,
    ) -> Result<Response<proto::ListOperationsResponse>, Status> {
        let page = request::list_operations(request.get_ref()).map_err(RpcError::from)?;
        let reserved = Room::reserve(&request, page::room(page.size as usize)).await?;
        let (operations, next) = self.history(&page, Deadline::of(&request)).await?;
        let (filter, direction) = &page.filter;
        let mut replies = operations.iter().map(reply::operation).collect();
        // What an answer has no room for is the next page's.
        let next = match page::cut(&mut replies, operations.len()) {
            true => operations[..replies.len()].last().map(position_of),
            false => next,
        };
        let next_page_token = next.map(|position| {
            let text = request::history_position_text(&position);
            request::history_list(filter, *direction, |list| list.token(&text))
        });
        Ok(reserved.answer(proto::ListOperationsResponse {
            operations: replies,
            next_page_token: next_page_token.unwrap_or_default(),
        }))
    }

    async fn list_entries(
        &self,
        request: Request<proto::ListEntriesRequest>,
    ) -> Result<Response<proto::ListEntriesResponse>, Status> {
        let page = request::list_entries(request.get_ref()).map_err(RpcError::from)?;
        let (key, order) = page.filter;
        let reserved = Room::reserve(&request, page::room(page.size as usize)).await?;
        let store = self.store.before(Deadline::of(&request));
        let entries = store.list_entries(key.clone(), order, page.after, page.size + 1);
        let entries = entries.await.map_err(RpcError::from)?;
        let mut entries = entries.iter().map(reply::entry_record).collect();
        let more = page::cut(&mut entries, page.size as usize);
        let last = entries
            .last()
            .filter(|_| more)
            .map(|last| last.version.to_string());
        let token = |version: String| request::entry_list(&key, order, |list| list.token(&version));
        Ok(reserved.answer(proto::ListEntriesResponse {
            next_page_token: last.map(token).unwrap_or_default(),
            entries,
        }))
    }
}
