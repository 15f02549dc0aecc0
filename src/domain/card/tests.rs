use std::sync::Arc;

use super::*;
use crate::domain::id::ID_LENGTH_MAX;
use crate::domain::{BalanceKey, Entry, Intent, Outcome, Timestamp};

fn payment() -> Payment {
    Payment {
        operation_id: OperationId::from_stored("p"),
        account_id: AccountId::from_stored("a"),
        amount: Amount::new(100).expect("an amount"),
        currency: Currency::new("BRL").expect("a currency"),
        mcc: Mcc::of_payment("5811").expect("a code"),
        merchant: Merchant::of_payment("Padaria").expect("a name"),
    }
}

fn rules(merchant: Option<&str>, mcc: Option<&str>) -> Rules {
    let category = |text: Option<&str>| text.map(Category::from_stored);
    Rules {
        merchant: category(merchant),
        mcc: category(mcc),
    }
}

fn recorded(command: Command, category: &str) -> Operation {
    let balance = BalanceKey {
        account_id: AccountId::from_stored("a"),
        category: Category::from_stored(category),
    };
    let entry = Entry {
        balance,
        version: 1,
        amount: -100,
        posted_after: 0,
        held_after: 0,
        available_after: 0,
        previous_operation_id: None,
    };
    Operation {
        command: Arc::new(command),
        outcome: Outcome::Posted([entry].into_iter().collect()),
        create_time: Timestamp::from_micros(1),
    }
}

fn name(text: &str) -> Result<String, CardTextError> {
    Merchant::of_payment(text).map(|merchant| merchant.as_str().to_owned())
}

#[test]
fn names_are_equal_after_trimming_folding_and_collapsing() {
    let same = "uber eats sao paulo br";
    for text in [
        "UBER EATS                   SAO PAULO BR",
        "  Uber Eats Sao Paulo BR  ",
        "uber\teats sao\u{a0}paulo br",
        "ＵＢＥＲ\u{3000}ＥＡＴＳ São Paulo BR"
            .replace('ã', "a")
            .as_str(),
    ] {
        assert_eq!(name(text), Ok(same.to_owned()), "{text:?}");
    }
    assert_eq!(name("   "), Ok(String::new()));
    assert_eq!(Merchant::of_rule("  "), Err(CardTextError::NoMerchant));
    assert_eq!(name("a\0b"), Err(CardTextError::Control));
    assert!(name(&"x".repeat(256)).is_ok());
    assert!(name(&"x".repeat(257)).is_err());
    assert!(name(&format!("{}{}", " ".repeat(1_000), "x".repeat(256))).is_ok());
}

#[test]
fn names_are_equal_in_all_normal_forms_and_cases() {
    let groups = [
        &[
            "PÃO DE AÇÚCAR",
            "pão de açúcar",
            "PA\u{303}O DE AC\u{327}U\u{301}CAR",
        ][..],
        &["STRASSE", "straße", "STRAẞE", "Straſse"],
        &["ΟΔΟΣ", "οδος", "οδοσ"],
        &["ﬁne", "FINE", "ﬁNE"],
        &["№ 1", "no 1"],
        &["Ω-bar", "ω-bar", "\u{2126}-BAR"],
        &["\u{1e9e}\u{323}\u{307}", "ss\u{307}\u{323}"],
        &["①", "1"],
        &["ǰ", "J\u{30c}"],
        &["ᾳ", "ΑΙ", "\u{3b1}\u{345}"],
    ];
    for group in groups {
        for text in group {
            assert_eq!(name(text), name(group[0]), "{text:?} and {:?}", group[0]);
        }
    }
    for (one, other) in [("pao", "pão"), ("uber", "ubér"), ("i", "ı"), ("o", "ø")] {
        assert_ne!(name(one), name(other));
    }
    // The longest expansion of Unicode: 18 characters.
    assert!(matches!(
        name(&"\u{fdfa}".repeat(15)),
        Err(CardTextError::TooLongNormalized { .. })
    ));
}

#[test]
fn a_name_in_the_form_that_is_compared_stays_as_it_is() {
    // All of Unicode that has a case or another form, and some of the rest.
    let ranges = [
        '\0'..='\u{33ff}',
        '\u{a000}'..='\u{ac20}',
        '\u{d7a0}'..='\u{d7ff}',
        '\u{f900}'..='\u{12fff}',
        '\u{16000}'..='\u{16fff}',
        '\u{1c000}'..='\u{1f7ff}',
        '\u{1fb00}'..='\u{20010}',
        '\u{2f7f0}'..='\u{2fa20}',
        '\u{e0000}'..='\u{e01ff}',
    ];
    for character in ranges.into_iter().flatten() {
        for text in [format!("x{character}"), format!("{character}\u{301}y")] {
            let Ok(once) = name(&text) else { continue };
            assert_eq!(name(&once).as_ref(), Ok(&once), "{text:?}");
            // What older versions stored is the same name.
            let stored = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let stored = stored.to_lowercase();
            assert_eq!(
                name(&stored).as_ref(),
                Ok(&once),
                "{text:?} stored as {stored:?}"
            );
            let merchant = Merchant::from_stored(&once);
            assert!(merchant.is_stored_as(&stored), "{text:?}");
        }
    }
}

#[test]
fn a_rule_needs_four_digits_and_a_payment_does_not() {
    assert!(Mcc::of_rule("0742").is_ok());
    for text in ["", "581", "58111", "581x", "٥٨١١", " 5811"] {
        assert_eq!(Mcc::of_rule(text), Err(CardTextError::NotAnMcc), "{text:?}");
    }
    assert_eq!(
        Mcc::of_payment(" 5811 ").map(|mcc| mcc.0),
        Ok("5811".to_owned())
    );
    assert!(Mcc::of_payment("").is_ok() && Mcc::of_payment("cake").is_ok());
    assert!(Mcc::of_payment(&"1".repeat(17)).is_err());
    assert_eq!(Mcc::of_payment("58\u{0}1"), Err(CardTextError::Control));
}

#[test]
fn the_merchant_s_rule_comes_before_the_code_s_and_cash_comes_last() {
    let rows = [
        (rules(None, None), &["CASH"][..], "none"),
        (rules(None, Some("FOOD")), &["FOOD", "CASH"], "mcc"),
        (rules(None, Some("CASH")), &["CASH"], "mcc"),
        (rules(Some("MEAL"), None), &["MEAL", "CASH"], "merchant"),
        (
            rules(Some("MEAL"), Some("FOOD")),
            &["MEAL", "CASH"],
            "merchant",
        ),
        (rules(Some("CASH"), Some("FOOD")), &["CASH"], "merchant"),
    ];
    for (rules, categories, rule) in rows {
        let command = payment().command(&rules, &Attempt::new(1));
        let source = command.source().expect("a debit");
        let asked: Vec<_> = source.categories.iter().map(Category::as_str).collect();
        assert_eq!(asked, categories, "{rules:?}");
        assert_eq!(command.note.metadata["rule"], rule, "{rules:?}");
    }
}

#[test]
fn a_retry_is_the_same_payment_whatever_the_rules_say_by_then() {
    let then = payment().command(&rules(None, Some("FOOD")), &Attempt::new(1));
    let then = recorded(then, "FOOD");
    assert!(payment().differing_fields(&then).is_empty());
    let mut other = payment();
    other.amount = Amount::new(101).expect("an amount");
    other.mcc = Mcc::of_payment("5411").expect("a code");
    other.merchant = Merchant::of_payment("").expect("no name");
    other.account_id = AccountId::from_stored("b");
    other.currency = Currency::new("EUR").expect("a currency");
    assert_eq!(
        other.differing_fields(&then),
        [
            "account_id",
            "total_amount.minor_units",
            "total_amount.currency_code",
            "mcc",
            "merchant"
        ]
    );
    let mut plain = payment().command(&rules(None, None), &Attempt::new(1));
    plain.note.metadata.remove(ATTEMPT);
    assert_eq!(
        payment().differing_fields(&recorded(plain, "CASH")),
        ["kind"]
    );
}

#[test]
fn a_reversal_gives_back_to_the_category_that_paid() {
    let command = payment().command(&rules(None, Some("FOOD")), &Attempt::new(1));
    let credit = reversal(&recorded(command.clone(), "CASH")).expect("a reversal");
    assert_eq!(credit.operation_id.as_str(), "p:reversal");
    let destination = credit.destination().expect("a credit");
    assert_eq!(destination.category.as_str(), "CASH");
    assert_eq!(
        (credit.amount(), credit.currency),
        (command.amount(), command.currency)
    );
    assert_eq!(credit.note.metadata["reverses"], "p");
}

/// A posted credit, as the entry of this version.
fn credited(command: Command, version: i64) -> Operation {
    let balance = command.destination().expect("a credit").clone();
    let entry = Entry {
        balance,
        version,
        amount: 100,
        posted_after: 100,
        held_after: 0,
        available_after: 100,
        previous_operation_id: None,
    };
    Operation {
        command: Arc::new(command),
        outcome: Outcome::Posted([entry].into_iter().collect()),
        create_time: Timestamp::from_micros(2),
    }
}

#[test]
fn only_a_later_credit_of_the_same_content_is_a_reversal() {
    let command = payment().command(&rules(None, Some("FOOD")), &Attempt::new(1));
    let paid = recorded(command, "FOOD");
    let credit = || reversal(&paid).expect("a reversal");
    assert_eq!(
        Reversal::of(&paid, &credited(credit(), 2)),
        Reversal::Posted
    );
    // It was there before the payment: nothing was given back by it.
    assert_eq!(
        Reversal::of(&paid, &credited(credit(), 1)),
        Reversal::Another
    );
    let mut other = credit();
    if let Intent::Move { amount, .. } = &mut other.intent {
        *amount = Amount::new(99).expect("an amount");
    }
    assert_eq!(Reversal::of(&paid, &credited(other, 2)), Reversal::Another);
    let closed = Refusal::AccountClosed {
        account_id: AccountId::from_stored("a"),
    };
    let mut refused = credited(credit(), 2);
    refused.outcome = Outcome::Refused(closed.clone());
    assert_eq!(Reversal::of(&paid, &refused), Reversal::Refused(closed));
}

#[test]
fn the_id_of_a_reversal_keeps_the_rule_of_ids() {
    let long = |length: usize| OperationId::from_stored(&"i".repeat(length));
    for length in [1, 55, 56, 64] {
        for attempt in [Attempt::new(0), Attempt::new(u64::MAX)] {
            let id = reversal_id(&long(length), &attempt);
            assert!(OperationId::parse(id.as_str()).is_ok(), "{id}");
            assert!(is_reserved_id(id.as_str()), "{id}");
            assert!(id.as_str().len() <= ID_LENGTH_MAX, "{id}");
        }
    }
    // Two long ids with the same beginning stay apart.
    assert_ne!(
        reversal_id(&long(63), &Attempt::new(1)),
        reversal_id(&long(64), &Attempt::new(2))
    );
}

#[test]
fn a_decimal_is_exact_or_an_error() {
    let units = |text: &str, decimals| {
        Decimal::parse(text)
            .and_then(|decimal| decimal.amount(decimals))
            .map(Amount::minor_units)
    };
    let (number, precise) = (DecimalError::NotANumber, DecimalError::TooPrecise);
    let rows = [
        ("100", 2, Ok(10_000)),
        ("100.00", 2, Ok(10_000)),
        ("100.10", 2, Ok(10_010)),
        ("100.1", 2, Ok(10_010)),
        ("0.01", 2, Ok(1)),
        ("0.29", 2, Ok(29)),
        ("1.1", 2, Ok(110)),
        ("10.000", 2, Ok(1_000)),
        ("1e2", 2, Ok(10_000)),
        ("1.5E+1", 2, Ok(1_500)),
        ("150e-1", 2, Ok(1_500)),
        ("100", 0, Ok(100)),
        ("1.234", 3, Ok(1_234)),
        ("9999999999999999.99", 2, Ok(999_999_999_999_999_999)),
        ("10000000000000000.00", 2, Ok(1_000_000_000_000_000_000)),
        ("10000000000000000.01", 2, Err(DecimalError::OutOfRange)),
        ("10.001", 2, Err(precise(2))),
        ("1e-3", 2, Err(precise(2))),
        ("0.5", 0, Err(precise(0))),
        ("0", 2, Err(DecimalError::OutOfRange)),
        ("0.00", 2, Err(DecimalError::OutOfRange)),
        ("-1", 2, Err(DecimalError::OutOfRange)),
        ("-0.001", 2, Err(DecimalError::OutOfRange)),
        ("1e30000", 2, Err(DecimalError::OutOfRange)),
        ("1e99999", 2, Err(number)),
        ("1e-30000", 2, Err(precise(2))),
        ("", 2, Err(number)),
        ("1.", 2, Err(number)),
        (".5", 2, Err(number)),
        ("01", 2, Err(number)),
        ("+1", 2, Err(number)),
        ("1,00", 2, Err(number)),
        ("1_0", 2, Err(number)),
        ("0x10", 2, Err(number)),
        ("NaN", 2, Err(number)),
        ("1e", 2, Err(number)),
        ("--1", 2, Err(number)),
        ("1.2.3", 2, Err(number)),
        (" 1", 2, Err(number)),
    ];
    for (text, decimals, expected) in rows {
        assert_eq!(units(text, decimals), expected, "{text:?} with {decimals}");
    }
    let long = "9".repeat(65);
    assert_eq!(units(&long, 2), Err(DecimalError::OutOfRange));
}
