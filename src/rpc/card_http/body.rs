//! The body of a payment at the JSON endpoint: every field that breaks a rule is found before any is reported, as over gRPC.
//!
//! Unknown fields are ignored, as in gRPC. But a name that is almost that of a known field, such as `ID`, is a mistake, and so
//! is another name of the payment's id, such as `operation_id`, where there is no `id`: each retry would be a payment of its own.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::domain::card::Decimal;
use crate::rpc::card::authorizer::{Asked, AskedAmount, Total};
use crate::rpc::card::request::{Words, asked};
use crate::rpc::violations::Violations;

/// The identity of the payment. Without one, each request is a payment of its own.
const ID: &str = "id";
const ACCOUNT: &str = "account";
/// A number, or a string that holds one, as written.
const TOTAL_AMOUNT: &str = "totalAmount";
const MCC: &str = "mcc";
const MERCHANT: &str = "merchant";
const FIELDS: [&str; 5] = [ID, ACCOUNT, TOTAL_AMOUNT, MCC, MERCHANT];

/// The fields as they came.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields, M::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// The payment of a body.
pub(super) fn parse(body: &[u8]) -> Result<Asked, Violations> {
    let Fields(fields) = serde_json::from_slice(body).map_err(|error| match error.classify() {
        _ if body.is_empty() => {
            invalid(r#"is empty, must be like {"account":"123","totalAmount":1.00}"#)
        }
        Category::Data => {
            invalid(r#"is not a JSON object, must be like {"account":"123","totalAmount":1.00}"#)
        }
        Category::Syntax | Category::Eof | Category::Io => {
            invalid(format!("is not valid JSON: {error}"))
        }
    })?;
    let mut violations = Violations::default();
    let mut values = [const { None }; FIELDS.len()];
    for (name, value) in &fields {
        match FIELDS.iter().position(|known| known == name) {
            Some(index) if values[index].is_some() => {
                violations.add(name, "is given more than once");
            }
            Some(index) => values[index] = Some(value.get()),
            None => {
                if let Some(meant) = FIELDS.iter().find(|known| is_alike(known, name)) {
                    violations.add(*meant, format!("is written {}", Violations::quoted(name)));
                }
            }
        }
    }
    if values[0].is_none()
        && let Some((name, _)) = fields.iter().find(|(name, _)| may_mean_id(name))
    {
        let rule = format!(
            "is missing, and {} may be meant by it",
            Violations::quoted(name)
        );
        violations.add(ID, rule);
    }
    let [id, account, total, mcc, merchant] = values;
    let random = || format!("card-{:032x}", rand::random::<u128>());
    let id = match id {
        None => Some(random()),
        Some(raw) => violations.note(ID, string(raw)),
    };
    let account = violations.note(ACCOUNT, account.map_or(Ok(String::new()), string));
    let mcc = violations.note(MCC, mcc.map_or(Ok(String::new()), string));
    let merchant = violations.note(MERCHANT, merchant.map_or(Ok(String::new()), string));
    let total = violations.note(TOTAL_AMOUNT, number(total));
    let total = total.and_then(|text| violations.note(TOTAL_AMOUNT, Decimal::parse(&text)));
    let total = total.map(|decimal| match decimal.is_zero() {
        true => Total::Nothing(None),
        false => Total::Amount(AskedAmount::Decimal(decimal)),
    });
    let words = Words {
        operation_id: (ID, id.as_deref()),
        account_id: (ACCOUNT, account.as_deref()),
        mcc: mcc.as_deref(),
        merchant: merchant.as_deref(),
    };
    asked(violations, &words, total)
}

/// What is wrong with a body as a whole.
pub(super) fn invalid(rule: impl ToString) -> Violations {
    Violations::one("body", rule)
}

/// Whether a name differs only in what people get wrong.
fn is_alike(known: &str, name: &str) -> bool {
    letters(name).eq(letters(known))
}

/// What the id is called elsewhere.
const OTHER_IDS: [&str; 3] = ["operation_id", "payment_id", "transaction_id"];

/// Whether an unknown name may be that of the id, to somebody who knows it from elsewhere, or in letters of another alphabet
/// that look the same.
fn may_mean_id(name: &str) -> bool {
    let looks_like_id = !name.is_ascii() && letters(name).count() == ID.len();
    looks_like_id || OTHER_IDS.iter().any(|other| is_alike(other, name))
}

fn letters(name: &str) -> impl Iterator<Item = char> {
    let letters = name.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase)
}

/// A string as it was meant.
fn string(raw: &str) -> Result<String, String> {
    match kind(raw) {
        "a string" => {
            serde_json::from_str(raw).map_err(|error| format!("is not a valid string: {error}"))
        }
        "null" => Err("is null, must be a string; leave it out if there is none".to_owned()),
        kind => Err(format!("is {kind}, must be a string")),
    }
}

/// A number as it was written.
fn number(raw: Option<&str>) -> Result<String, String> {
    let Some(raw) = raw else {
        return Err("is required: a number, such as 100.00".to_owned());
    };
    match kind(raw) {
        "a number" => Ok(raw.to_owned()),
        "a string" => string(raw),
        kind => Err(format!("is {kind}, must be a number, such as 100.00")),
    }
}

/// What a value is, of valid JSON.
fn kind(raw: &str) -> &'static str {
    match raw.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'n') => "null",
        Some(b't' | b'f') => "a boolean",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        _ => "a number",
    }
}
