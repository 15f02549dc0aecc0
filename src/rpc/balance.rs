//! BalanceService: see `proto/ballast/v1/balance_service.proto`.

use std::collections::HashSet;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::batch;
use super::context::{Call, Context};
use super::member::{self, Member};
use super::page;
use super::proto::{self, balance_service_server::BalanceService};
use super::reply::{self, Posted};
use super::request::{self, HistoryFilter, HistoryPage};
use super::status::RpcError;
use super::submission::{self, Results};
use super::violations::Violations;
use crate::batcher::Batcher;
use crate::domain::{AccountId, Command, Side};
use crate::store::{BalanceAt, HistoryPosition, Listed, Store};

/// Serves BalanceService: what moves money through the batcher, what reads from the store.
#[derive(Debug)]
pub struct BalanceRpc {
    batcher: Batcher,
    store: Store,
    /// Cancelled when the server drains: then streams read no more.
    draining: CancellationToken,
}

/// How many pages' worth of operations ListOperations looks through for one page of a direction, at most half of its time.
const SCANNED_PAGES_MAX: usize = 20;

impl BalanceRpc {
    /// Serves from this batcher and this store. Streams read no more once `draining` is cancelled.
    pub fn new(batcher: Batcher, store: Store, draining: CancellationToken) -> Self {
        Self {
            batcher,
            store,
            draining,
        }
    }

    /// Executes a command, or only validates it.
    async fn execute(
        &self,
        command: Command,
        validate_only: bool,
        context: &Context,
    ) -> Result<Posted, RpcError> {
        let deadline = context.deadline();
        let answer = match validate_only {
            true => self.batcher.validate(command, deadline).await,
            false => self.batcher.execute(command, deadline).await,
        };
        member::outcome(answer).map(|receipt| reply::posted(&receipt))
    }

    /// The command of a request, after what had to be looked up for it.
    async fn command(&self, member: Member, context: &Context) -> Result<Command, RpcError> {
        match member {
            Member::Command(command) => Ok(*command),
            Member::Unresolved(operation) => {
                let resolved = member::resolve(&self.store, [&*operation], context).await;
                operation.command(&resolved)
            }
        }
    }

    /// The command of a merge. Accounts stay and keep their currency, so what is read here holds for the decision later.
    async fn merge_command(
        &self,
        merge: request::Merge,
        context: &Context,
    ) -> Result<Command, RpcError> {
        if merge.source == merge.destination {
            return Err(RpcError::SameAccount(merge.source));
        }
        let account_ids = [&merge.source, &merge.destination];
        let currency =
            member::currency_of(&self.store, &merge.operation_id, account_ids, context).await?;
        Ok(merge.command(currency))
    }

    /// The operations of a page, and the position to go on from if there may be more.
    async fn history(
        &self,
        page: &HistoryPage,
        context: &Context,
    ) -> Result<(Vec<Listed>, Option<HistoryPosition>), RpcError> {
        let (filter, direction) = &page.filter;
        let size = page.size as usize;
        let mut position = page.after.clone().unwrap_or_else(HistoryPosition::newest);
        let mut found = Vec::new();
        let begun = Instant::now();
        let half_of_the_time = begun + context.deadline().saturating_duration_since(begun) / 2;
        for scan_count in 0..SCANNED_PAGES_MAX {
            // The next page goes on from here: better a short one than none in time.
            if scan_count > 0 && Instant::now() > half_of_the_time {
                break;
            }
            let operations = self
                .scan(filter, position.clone(), page.size + 1, context)
                .await?;
            let sides = self.sides(filter, *direction, &operations, context).await?;
            let is_last = operations.len() <= size;
            for operation in operations.into_iter().take(size) {
                position = operation.position.clone();
                if sides.go(&operation, *direction) {
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
                    found.last().map(|last: &Listed| last.position.clone())
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
        context: &Context,
    ) -> Result<Vec<Listed>, RpcError> {
        let store = self.store.before(context.deadline());
        let operations = match filter.clone() {
            HistoryFilter::Account(account_id) => {
                store.account_history(account_id, after, limit).await
            }
            HistoryFilter::Owner(owner_id) => store.owner_history(owner_id, after, limit).await,
        };
        operations.map_err(RpcError::of_read)
    }

    /// What has to be known about the accounts of these operations to tell their directions. Of an owner, that is asked about
    /// the accounts of the operations, of which there are few, and not about all accounts of the owner.
    async fn sides(
        &self,
        filter: &HistoryFilter,
        direction: proto::Direction,
        operations: &[Listed],
        context: &Context,
    ) -> Result<Sides, RpcError> {
        let owner_id = match filter {
            _ if direction == proto::Direction::Unspecified => return Ok(Sides::default()),
            HistoryFilter::Account(account_id) => {
                return Ok(Sides(HashSet::from([account_id.clone()])));
            }
            HistoryFilter::Owner(owner_id) => owner_id,
        };
        let readable = operations
            .iter()
            .filter_map(|one| one.operation.as_ref().ok());
        let named: HashSet<AccountId> = readable
            .flat_map(|operation| operation.command.account_ids().cloned())
            .collect();
        if named.is_empty() {
            return Ok(Sides::default());
        }
        let store = self.store.before(context.deadline());
        let owners = store.account_owners(named.into_iter().collect()).await;
        let owners = owners.map_err(RpcError::of_read)?;
        let listed = owners.into_iter().filter(|(_, owner)| owner == owner_id);
        Ok(Sides(listed.map(|(account_id, _)| account_id).collect()))
    }
}

/// Those of the accounts of some operations that are listed.
#[derive(Debug, Default)]
struct Sides(HashSet<AccountId>);

impl Sides {
    /// Whether an operation goes in this direction, seen from the listed accounts. One that cannot be read may.
    fn go(&self, listed: &Listed, direction: proto::Direction) -> bool {
        let Ok(operation) = &listed.operation else {
            return true;
        };
        let command = &operation.command;
        let is_listed = |side| command.account_ids_on(side).any(|id| self.0.contains(id));
        let (from_listed, to_listed) = (is_listed(Side::Debits), is_listed(Side::Credits));
        match direction {
            proto::Direction::Unspecified => true,
            proto::Direction::Incoming => to_listed && !from_listed,
            proto::Direction::Outgoing => from_listed && !to_listed,
            proto::Direction::Internal => from_listed && to_listed,
        }
    }
}

#[tonic::async_trait]
impl BalanceService for BalanceRpc {
    async fn debit(
        &self,
        request: Request<proto::DebitRequest>,
    ) -> Result<Response<proto::DebitResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let validate_only = request.validate_only;
        let debit = request::debit(request).map_err(RpcError::from)?;
        let command = self.command(Member::of_debit(debit), &call.context).await?;
        let Posted {
            operation,
            entries,
            balances,
            replayed,
        } = self.execute(command, validate_only, &call.context).await?;
        Ok(Response::new(proto::DebitResponse {
            operation: Some(operation),
            entries,
            balances,
            replayed,
            validate_only,
        }))
    }

    async fn credit(
        &self,
        request: Request<proto::CreditRequest>,
    ) -> Result<Response<proto::CreditResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let validate_only = request.validate_only;
        let credit = request::credit(request).map_err(RpcError::from)?;
        let command = self
            .command(Member::of_command(credit), &call.context)
            .await?;
        let Posted {
            operation,
            entries,
            balances,
            replayed,
        } = self.execute(command, validate_only, &call.context).await?;
        Ok(Response::new(proto::CreditResponse {
            operation: Some(operation),
            entries,
            balances,
            replayed,
            validate_only,
        }))
    }

    async fn transfer(
        &self,
        request: Request<proto::TransferRequest>,
    ) -> Result<Response<proto::TransferResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let validate_only = request.validate_only;
        let transfer = request::transfer(request).map_err(RpcError::from)?;
        let member = Member::of_transfer(transfer)?;
        let command = self.command(member, &call.context).await?;
        let Posted {
            operation,
            entries,
            balances,
            replayed,
        } = self.execute(command, validate_only, &call.context).await?;
        Ok(Response::new(proto::TransferResponse {
            operation: Some(operation),
            entries,
            balances,
            replayed,
            validate_only,
        }))
    }

    async fn post_operation(
        &self,
        request: Request<proto::PostOperationRequest>,
    ) -> Result<Response<proto::PostOperationResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let validate_only = request.validate_only;
        let post = request::post(request).map_err(RpcError::from)?;
        let command = self
            .command(Member::of_command(post), &call.context)
            .await?;
        let Posted {
            operation,
            entries,
            balances,
            replayed,
        } = self.execute(command, validate_only, &call.context).await?;
        Ok(Response::new(proto::PostOperationResponse {
            operation: Some(operation),
            entries,
            balances,
            replayed,
            validate_only,
        }))
    }

    async fn reverse_operation(
        &self,
        request: Request<proto::ReverseOperationRequest>,
    ) -> Result<Response<proto::ReverseOperationResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let validate_only = request.validate_only;
        let reverse = request::reverse(request).map_err(RpcError::from)?;
        let command = self
            .command(Member::of_reverse(reverse), &call.context)
            .await?;
        let Posted {
            operation,
            entries,
            balances,
            replayed,
        } = self.execute(command, validate_only, &call.context).await?;
        Ok(Response::new(proto::ReverseOperationResponse {
            operation: Some(operation),
            entries,
            balances,
            replayed,
            validate_only,
        }))
    }

    async fn merge_accounts(
        &self,
        request: Request<proto::MergeAccountsRequest>,
    ) -> Result<Response<proto::MergeAccountsResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let validate_only = request.validate_only;
        let merge = request::merge(request).map_err(RpcError::from)?;
        let command = self.merge_command(merge, &call.context).await?;
        let mut posted = self.execute(command, validate_only, &call.context).await?;
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
            validate_only,
            next_page_token: next_page_token.unwrap_or_default(),
        }))
    }

    async fn execute_batch(
        &self,
        request: Request<proto::ExecuteBatchRequest>,
    ) -> Result<Response<proto::ExecuteBatchResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let count = request::execute_batch(&request).map_err(RpcError::from)?;
        let reserved = call.reserve(batch::reserved_size(count)).await?;
        let (batcher, store) = (&self.batcher, &self.store);
        let (operations, context) = (request.operations, &call.context);
        let validate_only = request.validate_only;
        let results = match request.atomic {
            true => {
                batch::execute_atomic(batcher, store, operations, validate_only, context).await?
            }
            false => batch::execute(batcher, store, operations, context).await,
        };
        Ok(reserved.answer(proto::ExecuteBatchResponse {
            results,
            validate_only,
        }))
    }

    type SubmitOperationsStream = Results;

    async fn submit_operations(
        &self,
        request: Request<tonic::Streaming<proto::SubmitOperationsRequest>>,
    ) -> Result<Response<Self::SubmitOperationsStream>, Status> {
        let (call, requests) = Call::split(request)?;
        let (batcher, store) = (self.batcher.clone(), self.store.clone());
        let draining = self.draining.clone();
        let results = submission::start(requests, batcher, store, call, draining);
        Ok(Response::new(results))
    }

    async fn get_balance(
        &self,
        request: Request<proto::GetBalanceRequest>,
    ) -> Result<Response<proto::GetBalanceResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let (key, at_time) = request::get_balance(&request).map_err(RpcError::from)?;
        let account_id = key.account_id.clone();
        let store = self.store.before(call.context.deadline());
        let balance = match at_time {
            None => {
                let details = store.get_balance(key).await.map_err(RpcError::of_read)?;
                details.map(|details| reply::balance(account_id.as_str(), &details))
            }
            Some(at) => match store
                .get_balance_at(key, at)
                .await
                .map_err(RpcError::of_read)?
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
        let (call, request) = Call::split(request)?;
        let (operation_id, after) = request::get_operation(&request).map_err(RpcError::from)?;
        let store = self.store.before(call.context.deadline());
        let found = store
            .get_operation_and_reversals(operation_id.clone())
            .await
            .map_err(RpcError::of_read)?;
        let (operation, reversals) = found.ok_or(RpcError::OperationNotFound(operation_id))?;
        let entries = reply::entries(&operation);
        let operation = reply::operation(&operation);
        let (entries, next) = reply::entry_page(&operation, entries, after);
        let next_page_token =
            next.map(|count| request::operation_entries_token(&operation.operation_id, count));
        Ok(Response::new(proto::GetOperationResponse {
            operation: Some(operation),
            entries,
            next_page_token: next_page_token.unwrap_or_default(),
            reversal_operation_ids: reversals
                .operation_ids
                .iter()
                .map(ToString::to_string)
                .collect(),
            reversed_minor_units: reversals.reversed,
        }))
    }

    async fn list_operations(
        &self,
        request: Request<proto::ListOperationsRequest>,
    ) -> Result<Response<proto::ListOperationsResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let page = request::list_operations(&request).map_err(RpcError::from)?;
        let reserved = call
            .reserve(page::reserved_size(page.size as usize))
            .await?;
        let (operations, next) = self.history(&page, &call.context).await?;
        let (filter, direction) = &page.filter;
        let mut replies = operations.iter().map(reply::listed_operation).collect();
        // What an answer has no room for is the next page's.
        let next = match page::cut(&mut replies, operations.len()) {
            true => operations[..replies.len()]
                .last()
                .map(|listed| listed.position.clone()),
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
        let (call, request) = Call::split(request)?;
        let page = request::list_entries(&request).map_err(RpcError::from)?;
        let (key, order) = page.filter;
        let reserved = call
            .reserve(page::reserved_size(page.size as usize))
            .await?;
        let store = self.store.before(call.context.deadline());
        let entries = store.list_entries(key.clone(), order, page.after, page.size + 1);
        let entries = entries.await.map_err(RpcError::of_read)?;
        let mut entries = entries
            .iter()
            .map(|entry| reply::listed_entry(&key, entry))
            .collect();
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
