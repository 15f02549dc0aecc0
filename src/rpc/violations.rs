//! Violations: the fields of a request that break their rule, and the rules of the kinds of fields. Each rule returns the
//! valid value, or `None` and a violation; so all violations of a request are found before any is reported.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::page::{self, List};
use super::proto;
use crate::domain::card;
use crate::domain::money::CurrencyError;
use crate::domain::{AccountId, Amount, Category, Currency, OperationId, OwnerId};
use crate::store::is_money;

/// The most categories that one request may ask to pay, or give limits to.
pub(super) const CATEGORY_COUNT_MAX: usize = 16;
/// The most characters of a description, or of a value of a map.
const TEXT_LENGTH_MAX: usize = 256;
/// The most pairs of a map.
const PAIR_COUNT_MAX: usize = 32;
/// The most characters of what a caller sent that are sent back.
const ECHO_LENGTH_MAX: usize = 64;
/// The fields of a request that break their rule.
#[derive(Debug, Default)]
pub struct Violations(Vec<(String, String)>);

impl Violations {
    /// One violation alone.
    pub fn one(field: &str, rule: impl ToString) -> Self {
        Self(vec![(field.to_owned(), rule.to_string())])
    }

    /// Field and broken rule, in the order of their discovery.
    pub fn into_list(self) -> Vec<(String, String)> {
        self.0
    }

    /// Notes that a field breaks a rule.
    pub(super) fn add(&mut self, field: impl Into<String>, rule: impl ToString) {
        self.0.push((field.into(), rule.to_string()));
    }

    /// What the caller sent, cut to what is sent back.
    pub(super) fn echo(text: &str) -> String {
        text.chars().take(ECHO_LENGTH_MAX).collect()
    }

    /// What the caller sent, short enough to be sent back: a whole error has to fit into 7 KiB of trailers.
    pub(super) fn quoted(text: &str) -> String {
        let shown = Self::echo(text);
        if shown.len() < text.len() {
            format!("{shown:?}...")
        } else {
            format!("{shown:?}")
        }
    }

    /// The value, or `None` and a violation.
    pub(super) fn note<T, E: ToString>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|rule| self.add(field, rule)).ok()
    }

    /// `parsed` if no field broke a rule. A value that is missing then has its violation here.
    pub(super) fn check<T>(self, parsed: Option<T>) -> Result<T, Self> {
        match (parsed, self.0.is_empty()) {
            (Some(parsed), true) => Ok(parsed),
            _ => Err(self),
        }
    }

    /// The same for an operation of an id. An id that is reserved breaks a rule only if it is new, which is not known yet; what
    /// breaks other rules is told of this one too.
    pub(super) fn check_operation<T>(
        mut self,
        operation_id: &str,
        parsed: Option<T>,
    ) -> Result<T, Self> {
        if !self.0.is_empty() && card::is_reserved_id(operation_id) {
            self.reserved("operation_id");
        }
        self.check(parsed)
    }

    /// The id of an operation of which older versions cannot have made one with a reserved id.
    pub(super) fn new_operation_id(&mut self, field: &str, text: &str) -> Option<OperationId> {
        let operation_id = self.note(field, OperationId::parse(text))?;
        if card::is_reserved_id(text) {
            self.reserved(field);
            return None;
        }
        Some(operation_id)
    }

    /// Notes that an id is reserved.
    pub(super) fn reserved(&mut self, field: &str) {
        let suffix = card::REVERSAL_SUFFIX;
        let rule = format!(
            "ends with {suffix}, which is reserved for operations that Ballast makes by itself; choose another id"
        );
        self.add(field, rule);
    }

    /// An account id.
    pub(super) fn account_id(&mut self, field: &str, text: &str) -> Option<AccountId> {
        self.note(field, AccountId::parse(text))
    }

    /// An owner id.
    pub(super) fn owner_id(&mut self, field: &str, text: &str) -> Option<OwnerId> {
        self.note(field, OwnerId::parse(text))
    }

    /// A category; an empty one means main.
    pub(super) fn category(&mut self, field: &str, text: &str) -> Option<Category> {
        match text {
            "" => Some(Category::main()),
            text => self.note(field, Category::parse(text)),
        }
    }

    /// The categories that may pay; an empty list means main.
    pub(super) fn categories(&mut self, field: &str, texts: &[String]) -> Option<Vec<Category>> {
        if texts.is_empty() {
            return Some(vec![Category::main()]);
        }
        if texts.len() > CATEGORY_COUNT_MAX {
            self.add(
                field,
                format!(
                    "has {} categories, at most {CATEGORY_COUNT_MAX} are allowed",
                    texts.len()
                ),
            );
            return None;
        }
        let mut seen = HashSet::new();
        let mut categories = Some(Vec::with_capacity(texts.len()));
        for (index, text) in texts.iter().enumerate() {
            let item = format!("{field}[{index}]");
            let category = self.note(&item, Category::parse(text));
            if category.is_some() && !seen.insert(text) {
                self.add(
                    item,
                    format!("repeats {text}, each category may be named once"),
                );
            }
            categories = categories.zip(category).map(|(mut all, one)| {
                all.push(one);
                all
            });
        }
        categories
    }

    /// A currency that ISO 4217 lists.
    pub(super) fn currency(&mut self, field: &str, code: &str) -> Option<Currency> {
        match Currency::new(code).ok().filter(|_| is_money(code)) {
            Some(currency) => Some(currency),
            None if code.is_empty() => {
                self.add(
                    field,
                    "is required: a currency code of ISO 4217 in capitals, such as EUR",
                );
                None
            }
            None => {
                self.add(field, format!("is {}, {CurrencyError}", Self::quoted(code)));
                None
            }
        }
    }

    /// An amount that a request must have.
    pub(super) fn money(&mut self, money: Option<&proto::Money>) -> Option<(Amount, Currency)> {
        self.money_in("amount", money)
    }

    /// The same in a field of another name.
    pub(super) fn money_in(
        &mut self,
        field: &str,
        money: Option<&proto::Money>,
    ) -> Option<(Amount, Currency)> {
        let Some(money) = money else {
            self.add(field, "is required");
            return None;
        };
        let minor_units = format!("{field}.minor_units");
        let amount = self.note(&minor_units, Amount::new(money.minor_units));
        let currency_code = format!("{field}.currency_code");
        amount.zip(self.currency(&currency_code, &money.currency_code))
    }

    /// Checks free text.
    pub(super) fn text(&mut self, field: &str, text: &str) {
        let length = text.chars().count();
        if length > TEXT_LENGTH_MAX {
            self.add(
                field,
                format!("has {length} characters, at most {TEXT_LENGTH_MAX} are allowed"),
            );
        }
        if text.chars().any(char::is_control) {
            self.add(field, "has control characters, none are allowed");
        }
    }

    /// Checks a map of free facts.
    pub(super) fn map(
        &mut self,
        field: &str,
        map: HashMap<String, String>,
    ) -> BTreeMap<String, String> {
        if map.len() > PAIR_COUNT_MAX {
            self.add(
                field,
                format!(
                    "has {} pairs, at most {PAIR_COUNT_MAX} are allowed",
                    map.len()
                ),
            );
            return BTreeMap::new();
        }
        let map: BTreeMap<_, _> = map.into_iter().collect();
        for (key, value) in &map {
            // The rule of an id is the rule of a key.
            let key_shown = Self::quoted(key);
            self.note(&format!("{field} key {key_shown}"), OperationId::parse(key));
            self.text(&format!("{field}[{key_shown}]"), value);
        }
        map
    }

    /// The size of a page.
    pub(super) fn page_size(&mut self, size: i32) -> Option<i64> {
        self.note(
            "page_size",
            page::size(size).ok_or("is negative, must be 0 or more"),
        )
    }

    /// The position of a page token of this list; `None` inside: from the start.
    pub(super) fn page_token<T>(
        &mut self,
        token: &str,
        list: &List<'_>,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Option<T>> {
        if token.is_empty() {
            return Some(None);
        }
        let position = list.position(token).and_then(|position| parse(&position));
        let rule = "is not a next_page_token of this list; begin again without one";
        self.note("page_token", position.ok_or(rule)).map(Some)
    }
}
