//! AccountService: see `proto/ballast/v1/account_service.proto`.

use std::collections::HashMap;

use prost::Message;
use tonic::{Request, Response, Status};

use super::context::{Call, Context};
use super::member;
use super::page::{self, List};
use super::proto::{self, account_service_server::AccountService};
use super::reply::{self, Posted};
use super::request;
use super::status::RpcError;
use super::violations::Violations;
use crate::batcher::Batcher;
use crate::store::{Created, Store, account_id_of};

/// Serves AccountService: what has an operation id through the batcher, the rest from the store.
#[derive(Debug)]
pub struct AccountRpc {
    batcher: Batcher,
    store: Store,
}

impl AccountRpc {
    /// Serves from this batcher and this store.
    pub fn new(batcher: Batcher, store: Store) -> Self {
        Self { batcher, store }
    }

    /// The answer to a change.
    async fn change(
        &self,
        change: request::AccountChange,
        context: &Context,
    ) -> Result<Posted, RpcError> {
        let account_ids = [&change.account_id];
        let currency =
            member::currency_of(&self.store, &change.operation_id, account_ids, context).await?;
        let command = change.command(currency);
        let answer = self.batcher.execute(command, context.deadline()).await;
        member::outcome(answer).map(|receipt| reply::posted(&receipt))
    }
}

#[tonic::async_trait]
impl AccountService for AccountRpc {
    async fn create_account(
        &self,
        request: Request<proto::CreateAccountRequest>,
    ) -> Result<Response<proto::CreateAccountResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let categories_max = self.store.categories_per_account_max();
        let spec = request::create_account(request, categories_max);
        let spec = spec.map_err(RpcError::from)?;
        let (account_id, owner_id) = (spec.account_id.clone(), spec.owner_id.clone());
        let created = self
            .store
            .before(call.context.deadline())
            .create_account(spec)
            .await
            .map_err(RpcError::of_unnamed_write)?;
        match created {
            Created::Account { account, created } => {
                let account = Some(reply::account(&account));
                Ok(Response::new(proto::CreateAccountResponse {
                    account,
                    created,
                }))
            }
            Created::Different(fields) => {
                Err(RpcError::AccountExists { account_id, fields }.into())
            }
            Created::OtherSettlement(account_id) => Err(RpcError::SettlementAccountExists {
                owner_id,
                account_id,
            }
            .into()),
        }
    }

    async fn get_account(
        &self,
        request: Request<proto::GetAccountRequest>,
    ) -> Result<Response<proto::GetAccountResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let account_id = request::get_account(&request).map_err(RpcError::from)?;
        let store = self.store.before(call.context.deadline());
        let account = store
            .get_accounts(vec![account_id.clone()])
            .await
            .map_err(RpcError::of_read)?
            .pop();
        let account = account.ok_or(RpcError::AccountNotFound(account_id))?;
        Ok(Response::new(proto::GetAccountResponse {
            account: Some(reply::read_account(&account)),
        }))
    }

    async fn batch_get_accounts(
        &self,
        request: Request<proto::BatchGetAccountsRequest>,
    ) -> Result<Response<proto::BatchGetAccountsResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let account_ids = request::batch_get_accounts(&request).map_err(RpcError::from)?;
        let reserved = call.reserve(page::reserved_size(account_ids.len())).await?;
        let store = self.store.before(call.context.deadline());
        let found = store
            .get_accounts(account_ids.clone())
            .await
            .map_err(RpcError::of_read)?;
        let found: HashMap<&str, _> = found
            .iter()
            .map(|account| (account_id_of(account).as_str(), account))
            .collect();
        let mut response = proto::BatchGetAccountsResponse::default();
        for account_id in &account_ids {
            match found.get(account_id.as_str()) {
                Some(account) => response.accounts.push(reply::read_account(account)),
                None => response.not_found_account_ids.push(account_id.to_string()),
            }
        }
        let size = response.encoded_len();
        if size > page::ANSWER_SIZE_MAX {
            let rule = format!(
                "name accounts of {size} bytes together, at most {} fit into an answer; name fewer",
                page::ANSWER_SIZE_MAX
            );
            return Err(RpcError::from(Violations::one("account_ids", rule)).into());
        }
        Ok(reserved.answer(response))
    }

    async fn list_accounts(
        &self,
        request: Request<proto::ListAccountsRequest>,
    ) -> Result<Response<proto::ListAccountsResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let page = request::list_accounts(&request).map_err(RpcError::from)?;
        let owner_id = page.filter.clone();
        let reserved = call
            .reserve(page::reserved_size(page.size as usize))
            .await?;
        let store = self.store.before(call.context.deadline());
        let accounts = store
            .list_accounts(page.filter, page.after, page.size + 1)
            .await
            .map_err(RpcError::of_read)?;
        let mut accounts = accounts.iter().map(reply::read_account).collect();
        let more = page::cut(&mut accounts, page.size as usize);
        let last = accounts.last().filter(|_| more);
        let token = |account: &proto::Account| {
            List(&["accounts", owner_id.as_str()]).token(&account.account_id)
        };
        Ok(reserved.answer(proto::ListAccountsResponse {
            next_page_token: last.map(token).unwrap_or_default(),
            accounts,
        }))
    }

    async fn freeze_account(
        &self,
        request: Request<proto::FreezeAccountRequest>,
    ) -> Result<Response<proto::FreezeAccountResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let change = request::freeze(request).map_err(RpcError::from)?;
        let Posted {
            operation,
            replayed,
            ..
        } = self.change(change, &call.context).await?;
        Ok(Response::new(proto::FreezeAccountResponse {
            operation: Some(operation),
            replayed,
        }))
    }

    async fn unfreeze_account(
        &self,
        request: Request<proto::UnfreezeAccountRequest>,
    ) -> Result<Response<proto::UnfreezeAccountResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let change = request::unfreeze(request).map_err(RpcError::from)?;
        let Posted {
            operation,
            replayed,
            ..
        } = self.change(change, &call.context).await?;
        Ok(Response::new(proto::UnfreezeAccountResponse {
            operation: Some(operation),
            replayed,
        }))
    }

    async fn close_account(
        &self,
        request: Request<proto::CloseAccountRequest>,
    ) -> Result<Response<proto::CloseAccountResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let change = request::close(request).map_err(RpcError::from)?;
        let Posted {
            operation,
            replayed,
            ..
        } = self.change(change, &call.context).await?;
        Ok(Response::new(proto::CloseAccountResponse {
            operation: Some(operation),
            replayed,
        }))
    }

    async fn reopen_account(
        &self,
        request: Request<proto::ReopenAccountRequest>,
    ) -> Result<Response<proto::ReopenAccountResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let change = request::reopen(request).map_err(RpcError::from)?;
        let Posted {
            operation,
            replayed,
            ..
        } = self.change(change, &call.context).await?;
        Ok(Response::new(proto::ReopenAccountResponse {
            operation: Some(operation),
            replayed,
        }))
    }

    async fn update_account(
        &self,
        request: Request<proto::UpdateAccountRequest>,
    ) -> Result<Response<proto::UpdateAccountResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let change = request::update(request).map_err(RpcError::from)?;
        let Posted {
            operation,
            entries,
            balances,
            replayed,
        } = self.change(change, &call.context).await?;
        Ok(Response::new(proto::UpdateAccountResponse {
            operation: Some(operation),
            entries,
            balances,
            replayed,
        }))
    }
}
