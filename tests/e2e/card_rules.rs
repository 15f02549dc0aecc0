//! The rules of cards: seeded, set, listed in pages, deleted.

use ballast::rpc::proto::card_rule::Pattern;
use ballast::rpc::proto::{
    CardRule, DeleteMccRuleRequest, DeleteMerchantRuleRequest, ListRulesRequest, SetMccRuleRequest,
    SetMerchantRuleRequest,
};
use ballast::store::schema;
use tonic::Code;

use crate::support::cards::*;
use crate::support::*;

fn merchant_rule(merchant: &str, category: &str) -> SetMerchantRuleRequest {
    SetMerchantRuleRequest {
        merchant: merchant.to_owned(),
        category: category.to_owned(),
    }
}

fn mcc_rule(mcc: &str, category: &str) -> SetMccRuleRequest {
    SetMccRuleRequest {
        mcc: mcc.to_owned(),
        category: category.to_owned(),
    }
}

async fn list(cards: &mut Cards, page_size: i32, page_token: &str) -> (Vec<CardRule>, String) {
    let request = ListRulesRequest {
        page_size,
        page_token: page_token.to_owned(),
    };
    let page = cards
        .list_rules(request)
        .await
        .expect("a page")
        .into_inner();
    (page.rules, page.next_page_token)
}

fn shown(rules: &[CardRule]) -> Vec<(String, String)> {
    let pattern = |rule: &CardRule| match &rule.pattern {
        Some(Pattern::Mcc(text) | Pattern::Merchant(text)) => text.clone(),
        None => String::new(),
    };
    rules
        .iter()
        .map(|rule| (pattern(rule), rule.category.clone()))
        .collect()
}

#[tokio::test]
async fn rules_are_seeded_replaced_listed_in_pages_and_deleted() {
    let ballast = Ballast::start().await;
    let mut cards = ballast.cards();
    let (seeded, next) = list(&mut cards, 0, "").await;
    let pair = |pattern: &str, category: &str| (pattern.to_owned(), category.to_owned());
    let seeds = [
        pair("5411", "FOOD"),
        pair("5412", "FOOD"),
        pair("5811", "MEAL"),
        pair("5812", "MEAL"),
    ];
    assert_eq!((shown(&seeded), next), (seeds.to_vec(), String::new()));

    cards
        .set_mcc_rule(mcc_rule("5411", "MEAL"))
        .await
        .expect("replaced");
    let set = cards
        .set_merchant_rule(merchant_rule(" ZÉ,  Bar ", "CASH"))
        .await;
    let rule = set.expect("set").into_inner().rule.expect("the rule");
    assert_eq!(rule.pattern, Some(Pattern::Merchant("zé, bar".to_owned())));
    assert!(rule.update_time.is_some());
    cards
        .set_merchant_rule(merchant_rule("adega", "MEAL"))
        .await
        .expect("set");
    let expected = [
        pair("5411", "MEAL"),
        pair("5412", "FOOD"),
        pair("5811", "MEAL"),
        pair("5812", "MEAL"),
        pair("adega", "MEAL"),
        pair("zé, bar", "CASH"),
    ];
    for page_size in [1, 2, 4, 5] {
        let (mut all, mut token) = (Vec::new(), String::new());
        loop {
            let (page, next) = list(&mut cards, page_size, &token).await;
            all.extend(page);
            token = next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(shown(&all), expected, "in pages of {page_size}");
    }

    let adega = DeleteMerchantRuleRequest {
        merchant: "ADEGA".to_owned(),
    };
    for deleted in [true, false] {
        let answer = cards.delete_merchant_rule(adega.clone()).await;
        assert_eq!(
            answer.expect("safe to repeat").into_inner().deleted,
            deleted
        );
    }
    assert_eq!(list(&mut cards, 0, "").await.0.len(), 5);
}

#[tokio::test]
async fn a_merchant_has_one_rule_in_whichever_form_its_name_is_written() {
    let ballast = Ballast::start().await;
    let mut cards = ballast.cards();
    let forms = ["Pão Straße", "PA\u{303}O STRASSE", "ＰÃＯ  straſſe"];
    for (merchant, category) in forms.into_iter().zip(POCKETS) {
        let set = cards
            .set_merchant_rule(merchant_rule(merchant, category))
            .await;
        let rule = set.expect("set").into_inner().rule.expect("the rule");
        assert_eq!(
            rule.pattern,
            Some(Pattern::Merchant("pão strasse".to_owned()))
        );
    }
    let (rules, _) = list(&mut cards, 0, "").await;
    let last = shown(&rules).pop();
    assert_eq!(
        (rules.len(), last),
        (5, Some(("pão strasse".to_owned(), "CASH".to_owned())))
    );
    let request = DeleteMerchantRuleRequest {
        merchant: "PÃO STRASSE".to_owned(),
    };
    let deleted = cards.delete_merchant_rule(request).await;
    assert!(deleted.expect("deleted").into_inner().deleted);
}

#[tokio::test]
async fn rules_of_an_older_version_get_the_form_of_this_one_and_the_newest_wins() {
    let ballast = Ballast::start().await;
    let sql = ballast.database.sql().await;
    let many = "INSERT INTO card_rules (kind, pattern, category, update_time)
                SELECT 'MERCHANT', 'shop ' || i || ' pa' || chr(771) || 'o', 'MEAL', now() FROM generate_series(1, 1100) i";
    sql.batch_execute(many).await.expect("inserted");
    let insert = "INSERT INTO card_rules (kind, pattern, category, update_time)
                  VALUES ('MERCHANT', $1, $2, now() - $3::text::interval)";
    for (pattern, category, age) in [
        ("straße", "FOOD", "1 day"),
        ("strasse", "MEAL", "2 days"),
        ("pa\u{303}o", "FOOD", "2 days"),
        ("pão", "MEAL", "1 day"),
        ("ﬁne", "CASH", "1 day"),
        ("uber eats", "FOOD", "1 day"),
    ] {
        sql.execute(insert, &[&pattern, &category, &age])
            .await
            .expect("inserted");
    }
    // Several instances start at once, and rules are set meanwhile.
    let starts = (0..4).map(|_| {
        let database = ballast.database.clone();
        tokio::spawn(async move {
            let timeout = std::time::Duration::from_secs(20);
            let url = database.url();
            let mut client = schema::connect(&url, timeout).await.expect("connected");
            schema::migrate(&mut client).await.expect("migrated");
        })
    });
    let starts: Vec<_> = starts.collect();
    let mut cards = ballast.cards();
    let set = cards.set_merchant_rule(merchant_rule("FINE", "MEAL")).await;
    set.expect("set");
    for start in starts {
        start.await.expect("no panic");
    }
    let rows = sql
        .query(
            "SELECT pattern, category FROM card_rules WHERE kind = 'MERCHANT' AND pattern NOT LIKE 'shop %'
             ORDER BY pattern",
            &[],
        )
        .await
        .expect("rows");
    let rows: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let pair = |pattern: &str, category: &str| (pattern.to_owned(), category.to_owned());
    assert_eq!(
        rows,
        [
            pair("fine", "MEAL"),
            pair("pão", "MEAL"),
            pair("strasse", "FOOD"),
            pair("uber eats", "FOOD"),
        ]
    );
    let left = "SELECT count(*) FROM card_rules WHERE pattern LIKE '%' || chr(771) || '%'";
    let left: i64 = sql.query_one(left, &[]).await.expect("a count").get(0);
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_rule_that_breaks_a_rule_names_all_its_fields() {
    let ballast = Ballast::start().await;
    let mut cards = ballast.cards();
    let invalid = |status: tonic::Status| {
        Rejection::of_status(&status)
            .expect(Code::InvalidArgument, "INVALID_ARGUMENT")
            .fields
    };
    for (mcc, category, fields) in [
        ("541", "", &["mcc", "category"][..]),
        ("cake", "FOOD", &["mcc"]),
        ("5411", "no good", &["category"]),
    ] {
        let rejected = cards.set_mcc_rule(mcc_rule(mcc, category)).await;
        assert_eq!(invalid(rejected.expect_err("invalid")), fields);
    }
    let rejected = cards.set_merchant_rule(merchant_rule("  ", "")).await;
    assert_eq!(
        invalid(rejected.expect_err("invalid")),
        ["merchant", "category"]
    );
    let rejected = cards
        .delete_mcc_rule(DeleteMccRuleRequest { mcc: String::new() })
        .await;
    assert_eq!(invalid(rejected.expect_err("invalid")), ["mcc"]);
    // 256 characters as it is written, and 4,608 as it is compared.
    let rejected = cards
        .set_merchant_rule(merchant_rule(&"\u{fdfa}".repeat(256), "FOOD"))
        .await;
    assert_eq!(invalid(rejected.expect_err("invalid")), ["merchant"]);
    let nobody = DeleteMerchantRuleRequest {
        merchant: String::new(),
    };
    let rejected = cards.delete_merchant_rule(nobody).await;
    assert_eq!(invalid(rejected.expect_err("invalid")), ["merchant"]);
    let forged = ListRulesRequest {
        page_size: -1,
        page_token: "forged".to_owned(),
    };
    let rejected = cards.list_rules(forged).await;
    assert_eq!(
        invalid(rejected.expect_err("invalid")),
        ["page_size", "page_token"]
    );
}
