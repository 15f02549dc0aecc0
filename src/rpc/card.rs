//! CardService: see `proto/ballast/v1/card_service.proto`.

pub(super) mod authorizer;
pub(super) mod payment_error;
pub(super) mod request;
mod reversals;
mod settlements;

use tonic::{Request, Response, Status};
use tonic_types::StatusExt;

use super::context::{Call, Context};
use super::page;
use super::proto::{self, card_rule, card_service_server::CardService};
use super::reply;
use super::status::RpcError;
use crate::domain::card::{Pattern, SettlementMethod};
use crate::domain::{Amount, Category, Currency};
use crate::store::{CardRule, Store, UnsettledPayment, card_rule_key};

use authorizer::{Authorizer, Decision};
use settlements::{Settled, Settlements};

/// Serves CardService: payments through the authorizer, rules from the store.
#[derive(Debug)]
pub struct CardRpc {
    authorizer: Authorizer,
    settlements: Settlements,
    store: Store,
}

impl CardRpc {
    /// Serves from this authorizer and this store.
    pub fn new(authorizer: Authorizer, store: Store) -> Self {
        Self {
            settlements: authorizer.settlements(),
            authorizer,
            store,
        }
    }

    async fn set_rule(
        &self,
        (pattern, category): (Pattern, Category),
        context: &Context,
    ) -> Result<proto::CardRule, RpcError> {
        let store = self.store.before(context.deadline());
        let rule = store.set_card_rule(pattern, category).await;
        Ok(rule_reply(&rule.map_err(RpcError::of_unnamed_write)?))
    }

    async fn delete_rule(&self, pattern: Pattern, context: &Context) -> Result<bool, RpcError> {
        let store = self.store.before(context.deadline());
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

fn money(amount: Amount, currency: Currency) -> Option<proto::Money> {
    Some(proto::Money {
        currency_code: currency.to_string(),
        minor_units: amount.minor_units(),
    })
}

fn unsettled_reply(payment: &UnsettledPayment) -> proto::UnsettledPayment {
    let settlement_id = payment.settlement_id.as_ref();
    proto::UnsettledPayment {
        operation_id: payment.operation_id.to_string(),
        account_id: payment.balance.account_id.to_string(),
        category: payment.balance.category.to_string(),
        amount: money(payment.amount, payment.currency),
        mcc: payment.mcc.clone(),
        merchant: payment.merchant.clone(),
        create_time: Some(reply::timestamp(payment.create_time)),
        refusal_reason: payment.refusal_reason.clone(),
        reversal_operation_id: payment.reversal_id.to_string(),
        refuse_time: Some(reply::timestamp(payment.refuse_time)),
        settlement_operation_id: settlement_id.map(ToString::to_string).unwrap_or_default(),
    }
}

fn settlement_reply(settled: &Settled) -> proto::Settlement {
    let (settlement, command) = (&settled.settlement, &settled.payment.command);
    let destination = settlement.destination.as_ref();
    let amount = command.amount();
    proto::Settlement {
        operation_id: settlement.operation_id.to_string(),
        payment_operation_id: command.operation_id.to_string(),
        method: match settlement.method {
            SettlementMethod::Credit => proto::SettlementMethod::Credit,
            SettlementMethod::Other => proto::SettlementMethod::Other,
        }
        .into(),
        account_id: destination
            .map(|key| key.account_id.to_string())
            .unwrap_or_default(),
        category: destination
            .map(|key| key.category.to_string())
            .unwrap_or_default(),
        amount: amount.and_then(|amount| money(amount, command.currency)),
        note: settlement.note.clone(),
        settle_time: Some(reply::timestamp(settled.settle_time)),
    }
}

/// What a card is told, whichever way it asked.
pub(super) fn decision_reply(decision: Decision) -> proto::AuthorizePaymentResponse {
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
        let (call, request) = Call::split(request)?;
        let context = call.context.until(self.authorizer.answer_by());
        let decision = match request::authorize_payment(&request) {
            Ok(asked) => self.authorizer.authorize(asked, context).await,
            Err(violations) => violations.into(),
        };
        Ok(Response::new(decision_reply(decision)))
    }

    async fn list_unsettled_payments(
        &self,
        request: Request<proto::ListUnsettledPaymentsRequest>,
    ) -> Result<Response<proto::ListUnsettledPaymentsResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let page = request::list_unsettled_payments(&request).map_err(RpcError::from)?;
        let store = self.store.before(call.context.deadline());
        let payments = store.list_unsettled_payments(page.after, page.size + 1);
        let mut payments = payments.await.map_err(RpcError::of_read)?;
        let more = payments.len() as i64 > page.size;
        payments.truncate(page.size as usize);
        let last = payments.last().filter(|_| more);
        Ok(Response::new(proto::ListUnsettledPaymentsResponse {
            next_page_token: last.map(request::unsettled_token).unwrap_or_default(),
            payments: payments.iter().map(unsettled_reply).collect(),
        }))
    }

    async fn settle_payment(
        &self,
        request: Request<proto::SettlePaymentRequest>,
    ) -> Result<Response<proto::SettlePaymentResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let asked = request::settle_payment(&request).map_err(RpcError::from)?;
        let settled = self.settlements.settle(asked, &call.context).await?;
        Ok(Response::new(proto::SettlePaymentResponse {
            settlement: Some(settlement_reply(&settled)),
            replayed: settled.replayed,
        }))
    }

    async fn set_mcc_rule(
        &self,
        request: Request<proto::SetMccRuleRequest>,
    ) -> Result<Response<proto::SetMccRuleResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let rule = request::set_mcc_rule(&request).map_err(RpcError::from)?;
        let rule = Some(self.set_rule(rule, &call.context).await?);
        Ok(Response::new(proto::SetMccRuleResponse { rule }))
    }

    async fn delete_mcc_rule(
        &self,
        request: Request<proto::DeleteMccRuleRequest>,
    ) -> Result<Response<proto::DeleteMccRuleResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let pattern = request::delete_mcc_rule(&request).map_err(RpcError::from)?;
        let deleted = self.delete_rule(pattern, &call.context).await?;
        Ok(Response::new(proto::DeleteMccRuleResponse { deleted }))
    }

    async fn set_merchant_rule(
        &self,
        request: Request<proto::SetMerchantRuleRequest>,
    ) -> Result<Response<proto::SetMerchantRuleResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let rule = request::set_merchant_rule(&request).map_err(RpcError::from)?;
        let rule = Some(self.set_rule(rule, &call.context).await?);
        Ok(Response::new(proto::SetMerchantRuleResponse { rule }))
    }

    async fn delete_merchant_rule(
        &self,
        request: Request<proto::DeleteMerchantRuleRequest>,
    ) -> Result<Response<proto::DeleteMerchantRuleResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let pattern = request::delete_merchant_rule(&request).map_err(RpcError::from)?;
        let deleted = self.delete_rule(pattern, &call.context).await?;
        Ok(Response::new(proto::DeleteMerchantRuleResponse { deleted }))
    }

    async fn list_rules(
        &self,
        request: Request<proto::ListRulesRequest>,
    ) -> Result<Response<proto::ListRulesResponse>, Status> {
        let (call, request) = Call::split(request)?;
        let page = request::list_rules(&request).map_err(RpcError::from)?;
        let reserved = call
            .reserve(page::reserved_size(page.size as usize))
            .await?;
        let store = self.store.before(call.context.deadline());
        let rules = store.list_card_rules(page.after, page.size + 1).await;
        let rules = rules.map_err(RpcError::of_read)?;
        let mut replies = rules.iter().map(rule_reply).collect();
        let more = page::cut(&mut replies, page.size as usize);
        let token = |rule: &CardRule| {
            let (kind, pattern) = card_rule_key(&rule.pattern);
            request::RULES.token(&format!("{kind},{pattern}"))
        };
        let last = rules[..replies.len()].last().filter(|_| more);
        Ok(reserved.answer(proto::ListRulesResponse {
            next_page_token: last.map(token).unwrap_or_default(),
            rules: replies,
        }))
    }
}
