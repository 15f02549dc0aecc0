//! Words for card payments.

use std::time::Duration;

use ballast::rpc::proto::card_service_client::CardServiceClient;
use ballast::rpc::proto::{
    AuthorizePaymentRequest, AuthorizePaymentResponse, CreditRequest, GetOperationRequest,
    Operation,
};
use tonic::transport::Channel;

use super::instance::{Balances, channel};
use super::*;

pub type Cards = CardServiceClient<Channel>;

/// The categories of a card, in the order in which the tests write their balances.
pub const POCKETS: [&str; 3] = ["FOOD", "MEAL", "CASH"];

impl Ballast {
    pub fn cards(&self) -> Cards {
        CardServiceClient::new(channel(self.address))
    }
}

/// A payment in euro cents at no merchant in particular.
pub fn payment(
    operation_id: &str,
    account_id: &str,
    minor_units: i64,
    mcc: &str,
) -> AuthorizePaymentRequest {
    AuthorizePaymentRequest {
        operation_id: operation_id.to_owned(),
        account_id: account_id.to_owned(),
        total_amount: eur(minor_units),
        mcc: mcc.to_owned(),
        merchant: String::new(),
    }
}

pub async fn authorize(
    cards: &mut Cards,
    request: AuthorizePaymentRequest,
) -> AuthorizePaymentResponse {
    let answer = cards.authorize_payment(request).await;
    let answer = answer.expect("always OK").into_inner();
    assert_eq!(answer.code == "00", answer.reason.is_empty(), "{answer:?}");
    assert_eq!(
        answer.code == "00",
        !answer.category.is_empty(),
        "{answer:?}"
    );
    assert_eq!(answer.code == "00", answer.message.is_empty(), "{answer:?}");
    answer
}

/// The code, and the category that paid or the reason why not.
pub async fn decided(cards: &mut Cards, request: AuthorizePaymentRequest) -> (String, String) {
    let answer = authorize(cards, request).await;
    (answer.code, format!("{}{}", answer.category, answer.reason))
}

pub fn says(code: &str, word: &str) -> (String, String) {
    (code.to_owned(), word.to_owned())
}

/// Opens the account of a card and fills its pockets: FOOD, MEAL, CASH.
pub async fn open_card(ballast: &mut Ballast, account_id: &str, pockets: [i64; 3]) {
    open(ballast, account_id, 0).await;
    for (category, minor_units) in POCKETS.into_iter().zip(pockets) {
        if minor_units > 0 {
            let filling = CreditRequest {
                category: category.to_owned(),
                ..credit(&format!("{account_id}-{category}"), account_id, minor_units)
            };
            ballast.balances.credit(filling).await.expect("filled");
        }
    }
}

pub async fn pockets(balances: &mut Balances, account_id: &str) -> [i64; 3] {
    let mut pockets = [0; 3];
    for (pocket, category) in pockets.iter_mut().zip(POCKETS) {
        *pocket = balance_of(balances, account_id, category)
            .await
            .posted_minor_units;
    }
    pockets
}

pub async fn operation(balances: &mut Balances, operation_id: &str) -> Option<Operation> {
    let request = GetOperationRequest {
        operation_id: operation_id.to_owned(),
        ..GetOperationRequest::default()
    };
    match balances.get_operation(request).await {
        Ok(response) => response.into_inner().operation,
        Err(status) => {
            Rejection::of_status(&status).expect(tonic::Code::NotFound, "OPERATION_NOT_FOUND");
            None
        }
    }
}

/// Comes back with an operation when it is recorded.
pub async fn until_recorded(balances: &mut Balances, operation_id: &str) -> Operation {
    let recorded = async {
        loop {
            if let Some(operation) = operation(balances, operation_id).await {
                return operation;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), recorded)
        .await
        .unwrap_or_else(|_| panic!("{operation_id} is never recorded"))
}
