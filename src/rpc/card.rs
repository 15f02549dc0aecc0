//! CardService: see `proto/ballast/v1/card_service.proto`.

pub(super) mod authorizer;
pub(super) mod request;
mod reversals;

use tonic::{Request, Response, Status};
use tonic_types::StatusExt;

use super::edge::Deadline;
use super::proto::{self, card_rule, card_service_server::CardService};
use super::reply;
use super::status::RpcError;
use crate::domain::Category;
use crate::domain::card::Pattern;
use crate::store::{CardRule, Store, card_rule_key};

use authorizer::{Authorizer, Decision};

/// Serves CardService: payments through the authorizer, rules from the store.
#[derive(Debug)]
pub struct CardRpc {
    authorizer: Authorizer,
    store: Store,
}

impl CardRpc {
    /// Serves from this authorizer and this store.
    pub fn new(authorizer: Authorizer, store: Store) -> Self {
        Self { authorizer, store }
    }

    async fn set_rule(
        &self,
        (pattern, category): (Pattern, Category),
        deadline: tokio::time::Instant,
    ) -> Result<proto::CardRule, RpcError> {
        let store = self.store.before(deadline);
        let rule = store.set_card_rule(pattern, category).await;
        Ok(rule_reply(&rule.map_err(RpcError::of_unnamed_write)?))
    }

    async fn delete_rule(
        &self,
        pattern: Pattern,
        deadline: tokio::time::Instant,
    ) -> Result<bool, RpcError> {
        let store = self.store.before(deadline);
        let deleted = store.delete_card_rule(pattern).await;
        deleted.map_err(RpcError::of_unnamed_write)
    }
}

fn rule_reply(rule: &CardRule) -> proto::CardRule {
    let pattern = match &rule.pattern {
        Pattern::Mcc(mcc) => card_rule::Pattern::Mcc(mcc.as_str().to_owned()),
        Pattern::Merchant(merchant) => card_rule::Pattern::Merchant(merchant.as_str().to_owned()),
    };
    proto::CardRule {
        pattern: Some(pattern),
        category: rule.category.to_string(),
        update_time: Some(reply::timestamp(rule.update_time)),
    }
}

fn decision_reply(decision: Decision) -> proto::AuthorizePaymentResponse {
    let code = decision.code().as_str().to_owned();
    match decision {
        Decision::Approved(category) => proto::AuthorizePaymentResponse {
            code,
            category: category.to_string(),
            ..proto::AuthorizePaymentResponse::default()
        },
        Decision::Declined(error) => {
            // The one table of errors says what a caller is told.
            let status = Status::from(error);
            let info = status.get_details_error_info();
            proto::AuthorizePaymentResponse {
                code,
                category: String::new(),
                reason: info.map(|info| info.reason).unwrap_or_default(),
                message: status.message().to_owned(),
            }
        }
    }
}

#[tonic::async_trait]
impl CardService for CardRpc {
    async fn authorize_payment(
        &self,
        request: Request<proto::AuthorizePaymentRequest>,
    ) -> Result<Response<proto::AuthorizePaymentResponse>, Status> {
        let answer_by = Deadline::of(&request).min(self.authorizer.answer_by());
        let decision = match request::authorize_payment(request.get_ref()) {
            Ok(asked) => self.authorizer.authorize(asked, answer_by).await,
            Err(violations) => violations.into(),
        };
        Ok(Response::new(decision_reply(decision)))
    }

    async fn set_mcc_rule(
        &self,
        request: Request<proto::SetMccRuleRequest>,
    ) -> Result<Response<proto::SetMccRuleResponse>, Status> {
        let rule = request::set_mcc_rule(request.get_ref()).map_err(RpcError::from)?;
        let rule = Some(self.set_rule(rule, Deadline::of(&request)).await?);
        Ok(Response::new(proto::SetMccRuleResponse { rule }))
    }

    async fn delete_mcc_rule(
        &self,
        request: Request<proto::DeleteMccRuleRequest>,
    ) -> Result<Response<proto::DeleteMccRuleResponse>, Status> {
        let pattern = request::delete_mcc_rule(request.get_ref()).map_err(RpcError::from)?;
        let deleted = self.delete_rule(pattern, Deadline::of(&request)).await?;
        Ok(Response::new(proto::DeleteMccRuleResponse { deleted }))
    }

    async fn set_merchant_rule(
        &self,
        request: Request<proto::SetMerchantRuleRequest>,
    ) -> Result<Response<proto::SetMerchantRuleResponse>, Status> {
        let rule = request::set_merchant_rule(request.get_ref()).map_err(RpcError::from)?;
        let rule = Some(self.set_rule(rule, Deadline::of(&request)).await?);
        Ok(Response::new(proto::SetMerchantRuleResponse { rule }))
    }

    async fn delete_merchant_rule(
        &self,
        request: Request<proto::DeleteMerchantRuleRequest>,
    ) -> Result<Response<proto::DeleteMerchantRuleResponse>, Status> {
        let pattern = request::delete_merchant_rule(request.get_ref()).map_err(RpcError::from)?;
        let deleted = self.delete_rule(pattern, Deadline::of(&request)).await?;
        Ok(Response::new(proto::DeleteMerchantRuleResponse { deleted }))
    }

    async fn list_rules(
        &self,
        request: Request<proto::ListRulesRequest>,
    ) -> Result<Response<proto::ListRulesResponse>, Status> {
        let page = request::list_rules(request.get_ref()).map_err(RpcError::from)?;
        let store = self.store.before(Deadline::of(&request));
        let rules = store.list_card_rules(page.after, page.size + 1).await;
        let mut rules = rules.map_err(RpcError::from)?;
        let more = rules.len() as i64 > page.size;
        rules.truncate(page.size as usize);
        let token = |rule: &CardRule| {
            let (kind, pattern) = card_rule_key(&rule.pattern);
            request::RULES.token(&format!("{kind},{pattern}"))
        };
        let last = rules.last().filter(|_| more);
        Ok(Response::new(proto::ListRulesResponse {
            next_page_token: last.map(token).unwrap_or_default(),
            rules: rules.iter().map(rule_reply).collect(),
        }))
    }
}
