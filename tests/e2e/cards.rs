//! Cards: which category pays, what the codes are, and that they stay.

use ballast::rpc::proto::{
    AuthorizePaymentRequest, DeleteMccRuleRequest, ListOperationsRequest, Money, OperationKind,
    OperationState, SetMccRuleRequest, SetMerchantRuleRequest,
};

use crate::support::cards::*;
use crate::support::*;

#[tokio::test]
async fn each_mcc_has_its_category_and_any_other_is_paid_in_cash() {
    let mut ballast = Ballast::start().await;
    open_card(&mut ballast, "c", [1_000, 1_000, 1_000]).await;
    let mut cards = ballast.cards();
    let rows = [
        ("5411", "FOOD"),
        ("5412", "FOOD"),
        ("5811", "MEAL"),
        ("5812", "MEAL"),
        ("5813", "CASH"),
        ("0000", "CASH"),
        ("541", "CASH"),
        ("cake", "CASH"),
        ("", "CASH"),
    ];
    for (index, (mcc, category)) in rows.into_iter().enumerate() {
        let request = payment(&format!("p-{index}"), "c", 10, mcc);
        assert_eq!(
            decided(&mut cards, request).await,
            says("00", category),
            "{mcc:?}"
        );
    }
    assert_eq!(pockets(&mut ballast.balances, "c").await, [980, 980, 950]);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_category_pays_the_whole_amount_or_cash_is_tried() {
    let mut ballast = Ballast::start().await;
    let mut cards = ballast.cards();
    let (food, meal, other) = ("5411", "5811", "9999");
    // Before, mcc, amount, answer, after.
    let rows = [
        ([100, 0, 0], food, 100, says("00", "FOOD"), [0, 0, 0]),
        ([100, 0, 100], food, 100, says("00", "FOOD"), [0, 0, 100]),
        ([100, 0, 101], food, 101, says("00", "CASH"), [100, 0, 0]),
        (
            [100, 0, 100],
            food,
            101,
            says("51", "INSUFFICIENT_FUNDS"),
            [100, 0, 100],
        ),
        (
            [60, 0, 60],
            food,
            100,
            says("51", "INSUFFICIENT_FUNDS"),
            [60, 0, 60],
        ),
        ([0, 0, 7], meal, 7, says("00", "CASH"), [0, 0, 0]),
        (
            [100, 0, 5],
            meal,
            6,
            says("51", "INSUFFICIENT_FUNDS"),
            [100, 0, 5],
        ),
        ([0, 5, 0], meal, 5, says("00", "MEAL"), [0, 0, 0]),
        ([9, 9, 9], other, 9, says("00", "CASH"), [9, 9, 0]),
        (
            [99, 99, 9],
            other,
            10,
            says("51", "INSUFFICIENT_FUNDS"),
            [99, 99, 9],
        ),
        (
            [0, 0, 0],
            other,
            1,
            says("51", "INSUFFICIENT_FUNDS"),
            [0, 0, 0],
        ),
    ];
    for (index, (before, mcc, minor_units, answer, after)) in rows.into_iter().enumerate() {
        let account_id = format!("c-{index}");
        open_card(&mut ballast, &account_id, before).await;
        let request = payment(&format!("p-{index}"), &account_id, minor_units, mcc);
        let row = format!("{before:?} {mcc} {minor_units}");
        assert_eq!(decided(&mut cards, request).await, answer, "{row}");
        assert_eq!(
            pockets(&mut ballast.balances, &account_id).await,
            after,
            "{row}"
        );
    }
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_merchant_s_rule_comes_before_the_mcc_however_its_name_is_written() {
    let mut ballast = Ballast::start().await;
    open_card(&mut ballast, "c", [1_000, 1_000, 1_000]).await;
    let mut cards = ballast.cards();
    let rules = [
        ("UBER EATS                   SAO PAULO BR", "FOOD"),
        ("  pão  de  açúcar ", "MEAL"),
        ("UBER TRIP                   SAO PAULO BR", "CASH"),
    ];
    for (merchant, category) in rules {
        let rule = SetMerchantRuleRequest {
            merchant: merchant.to_owned(),
            category: category.to_owned(),
        };
        cards.set_merchant_rule(rule).await.expect("set");
    }
    let rows = [
        ("UBER EATS                   SAO PAULO BR", "5811", "FOOD"),
        ("   Uber Eats Sao Paulo br   ", "5811", "FOOD"),
        ("uber eats sao paulo br", "", "FOOD"),
        ("PÃO DE AÇÚCAR", "5411", "MEAL"),
        ("PA\u{303}O DE AC\u{327}U\u{301}CAR", "5411", "MEAL"),
        ("ｐão\u{3000}de açúcar", "5411", "MEAL"),
        ("UBER TRIP SAO PAULO BR", "5811", "CASH"),
        ("UBER EATS", "5811", "MEAL"),
        ("UBEREATS SAO PAULO BR", "5411", "FOOD"),
        ("", "5811", "MEAL"),
    ];
    for (index, (merchant, mcc, category)) in rows.into_iter().enumerate() {
        let request = AuthorizePaymentRequest {
            merchant: merchant.to_owned(),
            ..payment(&format!("p-{index}"), "c", 1, mcc)
        };
        let answer = decided(&mut cards, request).await;
        assert_eq!(answer, says("00", category), "{merchant:?} {mcc}");
    }
    // A mapping to CASH does not ask CASH twice, and does not fall back on the MCC.
    let broke = AuthorizePaymentRequest {
        merchant: "UBER TRIP SAO PAULO BR".to_owned(),
        ..payment("broke", "c", 1_000, "5811")
    };
    assert_eq!(
        decided(&mut cards, broke).await,
        says("51", "INSUFFICIENT_FUNDS")
    );

    let used = operation(&mut ballast.balances, "p-0")
        .await
        .expect("recorded");
    assert_eq!(used.kind(), OperationKind::Debit);
    assert_eq!(used.source_categories, ["FOOD", "CASH"]);
    let said = ["mcc", "merchant", "rule"].map(|name| used.metadata[name].as_str());
    assert_eq!(said, ["5811", "uber eats sao paulo br", "merchant"]);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn whatever_else_is_wrong_is_07_and_moves_nothing() {
    let mut ballast = Ballast::start().await;
    for name in ["c", "frozen", "closed"] {
        open_card(&mut ballast, name, [100, 100, 100]).await;
    }
    let sql = ballast.database.sql().await;
    sql.batch_execute(
        "UPDATE balances SET debits_frozen = true WHERE account_id = 'frozen';
         UPDATE balances SET closed = true WHERE account_id = 'closed'",
    )
    .await
    .expect("frozen and closed");
    let mut cards = ballast.cards();
    let good = || payment("p", "c", 10, "5411");
    let money = |currency_code: &str, minor_units| {
        Some(Money {
            currency_code: currency_code.to_owned(),
            minor_units,
        })
    };
    let total = |total_amount| AuthorizePaymentRequest {
        total_amount,
        ..good()
    };
    let invalid = "INVALID_ARGUMENT";
    let rows = [
        (payment("p", "nobody", 10, "5411"), "ACCOUNT_NOT_FOUND"),
        (payment("p", "", 10, "5411"), invalid),
        (payment("p", "no such id", 10, "5411"), invalid),
        (payment("", "c", 10, "5411"), invalid),
        (payment(&"p".repeat(65), "c", 10, "5411"), invalid),
        (payment("p:reversal", "c", 10, "5411"), invalid),
        (total(money("EUR", -10)), invalid),
        (total(money("EUR", i64::MIN)), invalid),
        (total(money("EUR", 1_000_000_000_000_000_001)), invalid),
        (total(money("eur", 10)), invalid),
        (total(money("", 10)), invalid),
        (total(None), invalid),
        (total(money("USD", 10)), "CURRENCY_MISMATCH"),
        (
            AuthorizePaymentRequest {
                mcc: "5".repeat(17),
                ..good()
            },
            invalid,
        ),
        (
            AuthorizePaymentRequest {
                mcc: "54\u{0}1".to_owned(),
                ..good()
            },
            invalid,
        ),
        (
            AuthorizePaymentRequest {
                merchant: "m".repeat(257),
                ..good()
            },
            invalid,
        ),
        (
            AuthorizePaymentRequest {
                merchant: "a\u{0}b".to_owned(),
                ..good()
            },
            invalid,
        ),
        (AuthorizePaymentRequest::default(), invalid),
        (payment("f", "frozen", 10, "5411"), "ACCOUNT_FROZEN"),
        (payment("f", "frozen", 10, "5411"), "ACCOUNT_FROZEN"),
        (payment("x", "closed", 10, "5411"), "ACCOUNT_CLOSED"),
    ];
    for (request, reason) in rows {
        let shown = format!("{request:?}");
        assert_eq!(
            decided(&mut cards, request).await,
            says("07", reason),
            "{shown}"
        );
    }
    let negative = cards.authorize_payment(total(money("EUR", -1))).await;
    assert_eq!(
        negative.expect("an answer").into_inner().message,
        "total_amount.minor_units is -1, must be from 0 (verifies the account) to 1000000000000000000 minor units"
    );
    for name in ["c", "frozen", "closed"] {
        assert_eq!(pockets(&mut ballast.balances, name).await, [100; 3]);
    }
    // What was not recorded does not use its id up.
    assert_eq!(decided(&mut cards, good()).await, says("00", "FOOD"));
    sql.batch_execute("UPDATE balances SET closed = false WHERE account_id = 'closed'")
        .await
        .expect("restored");
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn an_amount_of_zero_verifies_the_account_and_moves_nothing() {
    let mut ballast = Ballast::start().await;
    for name in ["c", "frozen", "credits-frozen", "closed"] {
        open_card(&mut ballast, name, [100, 0, 0]).await;
    }
    open_card(&mut ballast, "empty", [0, 0, 0]).await;
    let sql = ballast.database.sql().await;
    sql.batch_execute(
        "UPDATE balances SET debits_frozen = true WHERE account_id = 'frozen';
         UPDATE balances SET credits_frozen = true WHERE account_id = 'credits-frozen';
         UPDATE balances SET closed = true WHERE account_id = 'closed'",
    )
    .await
    .expect("frozen and closed");
    let mut cards = ballast.cards();
    let dollars = AuthorizePaymentRequest {
        total_amount: Some(Money {
            currency_code: "USD".to_owned(),
            minor_units: 0,
        }),
        ..payment("v", "c", 0, "5411")
    };
    let rows = [
        (payment("v", "c", 0, "5411"), says("00", "FOOD")),
        (payment("v", "c", 0, "5811"), says("00", "MEAL")),
        (payment("v", "c", 0, ""), says("00", "CASH")),
        (payment("v", "empty", 0, "5411"), says("00", "FOOD")),
        (
            payment("v", "credits-frozen", 0, "5411"),
            says("00", "FOOD"),
        ),
        (
            payment("v", "nobody", 0, "5411"),
            says("07", "ACCOUNT_NOT_FOUND"),
        ),
        (dollars, says("07", "CURRENCY_MISMATCH")),
        (
            payment("v", "closed", 0, "5411"),
            says("07", "ACCOUNT_CLOSED"),
        ),
        (
            payment("v", "frozen", 0, "5411"),
            says("07", "ACCOUNT_FROZEN"),
        ),
        (
            payment("v:reversal", "c", 0, "5411"),
            says("07", "INVALID_ARGUMENT"),
        ),
        (
            payment("c-FOOD", "c", 0, "5411"),
            says("07", "OPERATION_ID_REUSED"),
        ),
    ];
    for (request, answer) in rows {
        let shown = format!("{request:?}");
        assert_eq!(decided(&mut cards, request).await, answer, "{shown}");
    }
    // It is evaluated afresh, and does not use its id up.
    sql.batch_execute("UPDATE balances SET debits_frozen = false WHERE account_id = 'frozen'")
        .await
        .expect("thawed");
    let thawed = decided(&mut cards, payment("v", "frozen", 0, "5411")).await;
    assert_eq!(thawed, says("00", "FOOD"));
    assert_eq!(operation(&mut ballast.balances, "v").await, None);
    assert_eq!(pockets(&mut ballast.balances, "c").await, [100, 0, 0]);
    let paid = decided(&mut cards, payment("v", "c", 10, "5411")).await;
    assert_eq!(paid, says("00", "FOOD"));
    let verified = decided(&mut cards, payment("v", "c", 0, "5411")).await;
    assert_eq!(verified, says("07", "OPERATION_ID_REUSED"));
    sql.batch_execute("UPDATE balances SET closed = false WHERE account_id = 'closed'")
        .await
        .expect("restored");
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn fifty_payments_at_once_spend_exactly_what_is_there() {
    let mut ballast = Ballast::start().await;
    open_card(&mut ballast, "c", [0, 300, 200]).await;
    let sibling = ballast.sibling().await;
    let calls: Vec<_> = (0..80)
        .map(|index| {
            let instance = if index % 2 == 0 { &ballast } else { &sibling };
            let mut cards = instance.cards();
            let request = payment(&format!("p-{index}"), "c", 10, "5811");
            tokio::spawn(async move { decided(&mut cards, request).await })
        })
        .collect();
    let mut answers = std::collections::BTreeMap::new();
    for call in calls {
        *answers.entry(call.await.expect("no panic")).or_insert(0) += 1;
    }
    let expected = [
        (says("00", "CASH"), 20),
        (says("00", "MEAL"), 30),
        (says("51", "INSUFFICIENT_FUNDS"), 30),
    ];
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(pockets(&mut ballast.balances, "c").await, [0; 3]);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_retry_gets_the_same_code_whatever_changed_meanwhile() {
    let mut ballast = Ballast::start().await;
    open_card(&mut ballast, "c", [100, 100, 0]).await;
    let mut cards = ballast.cards();
    let paid = || AuthorizePaymentRequest {
        merchant: "PADARIA  DO ZE".to_owned(),
        ..payment("paid", "c", 60, "5411")
    };
    let broke = || payment("broke", "c", 101, "5411");
    assert_eq!(decided(&mut cards, paid()).await, says("00", "FOOD"));
    assert_eq!(
        decided(&mut cards, broke()).await,
        says("51", "INSUFFICIENT_FUNDS")
    );

    // The rules change, money comes, and the server starts anew.
    let rule = SetMccRuleRequest {
        mcc: "5411".to_owned(),
        category: "MEAL".to_owned(),
    };
    cards.set_mcc_rule(rule).await.expect("set");
    let filling = ballast::rpc::proto::CreditRequest {
        category: "MEAL".to_owned(),
        ..credit("more", "c", 1_000)
    };
    ballast.balances.credit(filling).await.expect("filled");
    let mut restarted = ballast.sibling().await;
    assert!(ballast.stopped().await);
    let mut cards = restarted.cards();
    for _ in 0..2 {
        assert_eq!(decided(&mut cards, paid()).await, says("00", "FOOD"));
        assert_eq!(
            decided(&mut cards, broke()).await,
            says("51", "INSUFFICIENT_FUNDS")
        );
    }
    let padded = AuthorizePaymentRequest {
        merchant: " padaria do zé ".replace('é', "e"),
        ..paid()
    };
    assert_eq!(decided(&mut cards, padded).await, says("00", "FOOD"));
    let others = [
        payment("paid", "c", 61, "5411"),
        AuthorizePaymentRequest {
            mcc: "5412".to_owned(),
            ..paid()
        },
        AuthorizePaymentRequest {
            merchant: "BAR".to_owned(),
            ..paid()
        },
        payment("broke", "other", 101, "5411"),
        payment("more", "c", 1_000, "5411"),
    ];
    for other in others {
        let shown = format!("{other:?}");
        let answer = decided(&mut cards, other).await;
        assert_eq!(answer, says("07", "OPERATION_ID_REUSED"), "{shown}");
    }
    assert_eq!(pockets(&mut restarted.balances, "c").await, [40, 1_100, 0]);

    // A payment that an older version recorded, with the merchant's name in the form of that time.
    let street = |merchant: &str| AuthorizePaymentRequest {
        merchant: merchant.to_owned(),
        ..payment("street", "c", 1, "5812")
    };
    let paid = decided(&mut cards, street("Pa\u{303}o Straße")).await;
    assert_eq!(paid, says("00", "MEAL"));
    let sql = restarted.database.sql().await;
    let older =
        "UPDATE operations SET metadata = jsonb_set(metadata, '{merchant}', to_jsonb($1::text))
                 WHERE operation_id = 'street'";
    let before = ["Pa\u{303}o Straße".to_lowercase()];
    assert_eq!(sql.execute(older, &[&before[0]]).await.expect("older"), 1);
    for merchant in ["Pa\u{303}o Straße", "pão strasse", "PÃO STRASSE"] {
        let again = decided(&mut cards, street(merchant)).await;
        assert_eq!(again, says("00", "MEAL"), "{merchant}");
    }
    restarted.assert_in_order().await;
}

#[tokio::test]
async fn one_payment_sent_by_thirty_callers_to_two_instances_is_paid_once() {
    let mut ballast = Ballast::start().await;
    open_card(&mut ballast, "c", [1_000, 0, 0]).await;
    let sibling = ballast.sibling().await;
    for round in 0..5 {
        let calls: Vec<_> = (0..30)
            .map(|caller| {
                let instance = if caller % 2 == 0 { &ballast } else { &sibling };
                let mut cards = instance.cards();
                let request = payment(&format!("p-{round}"), "c", 10, "5411");
                tokio::spawn(async move { decided(&mut cards, request).await })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.expect("no panic"), says("00", "FOOD"));
        }
    }
    assert_eq!(pockets(&mut ballast.balances, "c").await, [950, 0, 0]);
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn a_rule_counts_at_once_on_every_instance() {
    let mut ballast = Ballast::start().await;
    open_card(&mut ballast, "c", [1_000, 1_000, 1_000]).await;
    let sibling = ballast.sibling().await;
    let (mut here, mut there) = (ballast.cards(), sibling.cards());
    for round in 0..20 {
        let category = POCKETS[round % 3];
        let rule = SetMccRuleRequest {
            mcc: "7777".to_owned(),
            category: category.to_owned(),
        };
        here.set_mcc_rule(rule).await.expect("set");
        let request = payment(&format!("set-{round}"), "c", 1, "7777");
        assert_eq!(decided(&mut there, request).await, says("00", category));
        let rule = DeleteMccRuleRequest {
            mcc: "7777".to_owned(),
        };
        assert!(
            here.delete_mcc_rule(rule)
                .await
                .expect("gone")
                .into_inner()
                .deleted
        );
        let request = payment(&format!("gone-{round}"), "c", 1, "7777");
        assert_eq!(decided(&mut there, request).await, says("00", "CASH"));
    }
    ballast.assert_in_order().await;
}

#[tokio::test]
async fn refused_payments_are_in_the_history_with_what_the_card_said() {
    let mut ballast = Ballast::start().await;
    open_card(&mut ballast, "c", [0, 5, 0]).await;
    let mut cards = ballast.cards();
    let broke = decided(&mut cards, payment("broke", "c", 6, "5812")).await;
    assert_eq!(broke, says("51", "INSUFFICIENT_FUNDS"));
    let request = ListOperationsRequest {
        filter: Some(
            ballast::rpc::proto::list_operations_request::Filter::AccountId("c".to_owned()),
        ),
        ..ListOperationsRequest::default()
    };
    let listed = ballast.balances.list_operations(request).await;
    let newest = listed.expect("a list").into_inner().operations.remove(0);
    assert_eq!(
        (newest.operation_id.as_str(), newest.state()),
        ("broke", OperationState::Refused)
    );
    assert_eq!(newest.source_categories, ["MEAL", "CASH"]);
    assert_eq!(
        (
            newest.metadata["mcc"].as_str(),
            newest.metadata["rule"].as_str()
        ),
        ("5812", "mcc")
    );
}
