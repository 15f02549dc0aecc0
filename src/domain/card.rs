//! Card payments: which category pays at which merchant, and what makes two requests the same payment.
//!
//! A payment is a debit that asks the mapped category first, and CASH second. What the card said (mcc, merchant) and the
//! rule that was used are in its metadata, so a retry is compared with what was recorded and not with today's rules.

mod merchant;
mod reversal;

use std::collections::BTreeMap;
use std::fmt;

use super::command::{Command, Kind, Movement, Note, Source};
use super::id::{AccountId, Category, OperationId};
use super::money::{Amount, Currency};
use super::operation::Operation;
use super::refusal::Refusal;

pub use merchant::{MERCHANT_LENGTH_MAX, Merchant};
pub use reversal::{
    REVERSAL_SUFFIX, Reversal, Settlement, SettlementMethod, is_reserved_id, reversal, reversal_id,
    source_entry,
};

/// The category that pays where no rule says otherwise, and where the mapped one cannot.
pub const CASH: &str = "CASH";
/// The most characters of a merchant category code in a payment. Card networks send 4.
const MCC_LENGTH_MAX: usize = 16;
/// The most characters of a decimal number; more than any amount has.
const DECIMAL_LENGTH_MAX: usize = 64;

const MCC: &str = "mcc";
const MERCHANT: &str = "merchant";
const RULE: &str = "rule";
const ATTEMPT: &str = "attempt";

/// The answer on the wire of a card network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The payment is posted.
    Approved,
    /// Neither the category nor CASH covers the whole amount.
    Insufficient,
    /// Anything else.
    Declined,
}

impl Code {
    /// The two digits.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "00",
            Self::Insufficient => "51",
            Self::Declined => "07",
        }
    }

    /// The code of a refusal.
    pub fn of(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::InsufficientFunds { .. } => Self::Insufficient,
            Refusal::InLeg { cause, .. } => Self::of(cause),
            Refusal::OperationIdReused { .. }
            | Refusal::AccountNotFound { .. }
            | Refusal::CurrencyMismatch { .. }
            | Refusal::SettlementAccount { .. }
            | Refusal::OriginalNotFound { .. }
            | Refusal::AlreadyReversed { .. }
            | Refusal::ReversalExceedsOriginal { .. }
            | Refusal::HoldsOpen { .. }
            | Refusal::BalanceNegative { .. }
            | Refusal::AccountNotEmpty { .. }
            | Refusal::AccountMerged { .. }
            | Refusal::OverdraftInUse { .. }
            | Refusal::BalanceAboveLimit { .. }
            | Refusal::VersionMismatch { .. }
            | Refusal::MinAvailableNotMet { .. }
            | Refusal::AccountClosed { .. }
            | Refusal::AccountFrozen { .. }
            | Refusal::BalanceLimitExceeded { .. }
            | Refusal::CategoryLimitExceeded { .. } => Self::Declined,
        }
    }
}

/// Why a text of a card is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CardTextError {
    /// It is longer than any card network's.
    #[error("has {length} characters, at most {length_max} are allowed")]
    TooLong {
        /// How many it has.
        length: usize,
        /// The most that are allowed.
        length_max: usize,
    },
    /// It gets longer in the form in which names are compared.
    #[error(
        "has {length} characters after Unicode normalization (NFKC), at most {length_max} are allowed"
    )]
    TooLongNormalized {
        /// How many it has then.
        length: usize,
        /// The most that are allowed.
        length_max: usize,
    },
    /// It has something that no name has.
    #[error("has control characters, none are allowed")]
    Control,
    /// A rule needs four digits.
    #[error("must be four digits, such as 5811")]
    NotAnMcc,
    /// A rule needs a name.
    #[error("is required: the name of a merchant")]
    NoMerchant,
}

fn check(text: &str, length_max: usize) -> Result<(), CardTextError> {
    let length = text.chars().count();
    if length > length_max {
        return Err(CardTextError::TooLong { length, length_max });
    }
    if text.chars().any(char::is_control) {
        return Err(CardTextError::Control);
    }
    Ok(())
}

/// A merchant category code. In a rule four digits, in a payment whatever was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mcc(String);

impl Mcc {
    /// As a payment has it. An MCC that no rule can match is not an error: CASH pays.
    pub fn of_payment(text: &str) -> Result<Self, CardTextError> {
        let text = text.trim();
        check(text, MCC_LENGTH_MAX).map(|()| Self(text.to_owned()))
    }

    /// As a rule needs it.
    pub fn of_rule(text: &str) -> Result<Self, CardTextError> {
        let is_mcc = text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_mcc
            .then(|| Self(text.to_owned()))
            .ok_or(CardTextError::NotAnMcc)
    }

    /// The code as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a rule applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// Payments of this code.
    Mcc(Mcc),
    /// Payments at this merchant, whatever the code.
    Merchant(Merchant),
}

/// The rules that apply to one payment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// The category by the merchant's rule.
    pub merchant: Option<Category>,
    /// The category by the code's rule.
    pub mcc: Option<Category>,
}

impl Rules {
    /// The category that is asked first, which is the only one that a payment of nothing needs.
    pub fn category(&self) -> Category {
        self.first().0
    }

    /// The category that the merchant's rule says, else the code's, else CASH; and the name of that rule.
    fn first(&self) -> (Category, &'static str) {
        match (&self.merchant, &self.mcc) {
            (Some(category), _) => (category.clone(), MERCHANT),
            (None, Some(category)) => (category.clone(), MCC),
            (None, None) => (Category::from_stored(CASH), "none"),
        }
    }
}

/// Tells the attempts at one payment apart: a payment belongs to the attempt that its metadata names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attempt(String);

impl Attempt {
    /// From a random number.
    pub fn new(random: u64) -> Self {
        Self(format!("{random:016x}"))
    }

    /// Takes over one that was stored.
    pub fn from_stored(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The attempt that made this operation; `None`: it is no card payment.
    pub fn of(operation: &Operation) -> Option<Self> {
        let attempt = operation.command.note.metadata.get(ATTEMPT)?;
        Some(Self(attempt.clone()))
    }

    /// The attempt as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One card payment as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// Its identity.
    pub operation_id: OperationId,
    /// The card's account.
    pub account_id: AccountId,
    /// The whole amount.
    pub amount: Amount,
    /// Its currency.
    pub currency: Currency,
    /// What the merchant sells.
    pub mcc: Mcc,
    /// Who the merchant is.
    pub merchant: Merchant,
}

impl Payment {
    /// The debit that an attempt executes.
    pub fn command(&self, rules: &Rules, attempt: &Attempt) -> Command {
        let (category, rule) = rules.first();
        let mut categories = vec![category];
        if categories[0].as_str() != CASH {
            categories.push(Category::from_stored(CASH));
        }
        let facts = [
            (MCC, self.mcc.as_str()),
            (MERCHANT, self.merchant.as_str()),
            (RULE, rule),
            (ATTEMPT, attempt.as_str()),
        ];
        let source = Source {
            account_id: self.account_id.clone(),
            categories,
        };
        Command::of_movement(
            self.operation_id.clone(),
            Movement::Debit { source },
            (self.amount, self.currency),
            note("card payment", facts),
        )
    }

    /// The names of the fields in which a recorded operation of this id is another payment; empty: it is this one. The
    /// categories do not count: they follow from the rules of that time.
    pub fn differing_fields(&self, recorded: &Operation) -> Vec<&'static str> {
        let command = &recorded.command;
        let (note, currency) = (&command.note, command.currency);
        let is_payment = command.kind() == Kind::Debit && Attempt::of(recorded).is_some();
        let account_id = command.source_account_id();
        let fact = |name| note.metadata.get(name).map_or("", String::as_str);
        [
            ("kind", !is_payment),
            ("account_id", account_id != Some(&self.account_id)),
            (
                "total_amount.minor_units",
                command.amount() != Some(self.amount),
            ),
            ("total_amount.currency_code", currency != self.currency),
            (MCC, fact(MCC) != self.mcc.as_str()),
            (MERCHANT, !self.merchant.is_stored_as(fact(MERCHANT))),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
    }
}

fn note<const N: usize>(description: &str, facts: [(&str, &str); N]) -> Note {
    let said = facts.into_iter().filter(|(_, value)| !value.is_empty());
    let metadata: BTreeMap<_, _> = said
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Note {
        description: description.to_owned(),
        metadata,
    }
}

/// A number as JSON writes it, exact: `digits * 10^exponent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal {
    digits: i128,
    exponent: i32,
}

/// Why a decimal number is not an amount of a currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// It is none.
    #[error("is not a decimal number, such as 100.00")]
    NotANumber,
    /// It has a part that the currency cannot express.
    #[error("has more decimals than the currency, which has {0}")]
    TooPrecise(u16),
    /// It is negative, too large, or zero where an amount is needed.
    #[error("must not be negative and at most 10^18 minor units")]
    OutOfRange,
}

impl Decimal {
    /// Parses what JSON allows as a number. Never a float: 0.1 is a tenth.
    pub fn parse(text: &str) -> Result<Self, DecimalError> {
        let not_a_number = DecimalError::NotANumber;
        if text.len() > DECIMAL_LENGTH_MAX {
            return Err(DecimalError::OutOfRange);
        }
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => {
                (mantissa, exponent.parse::<i16>().map_err(|_| not_a_number)?)
            }
            None => (text, 0),
        };
        let (sign, mantissa) = match mantissa.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, mantissa),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((_, "")) => return Err(not_a_number),
            Some(parts) => parts,
            None => (mantissa, ""),
        };
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let has_leading_zero = whole.len() > 1 && whole.starts_with('0');
        if whole.is_empty() || has_leading_zero || !is_digits(whole) || !is_digits(fraction) {
            return Err(not_a_number);
        }
        // What does not fit into 38 digits is no amount, unless it is zeros that say nothing.
        let fraction = fraction.trim_end_matches('0');
        let digits: i128 = format!("{whole}{fraction}")
            .parse()
            .map_err(|_| DecimalError::OutOfRange)?;
        let scale = i32::try_from(fraction.len()).map_err(|_| DecimalError::OutOfRange)?;
        Ok(Self {
            digits: sign * digits,
            exponent: i32::from(exponent) - scale,
        })
    }

    /// Whether it is nothing, which has no amount.
    pub fn is_zero(self) -> bool {
        self.digits == 0
    }

    /// The amount in minor units of a currency with so many decimals. Fails rather than round.
    pub fn amount(self, decimals: u16) -> Result<Amount, DecimalError> {
        let mut minor_units = self.digits;
        if minor_units <= 0 {
            return Err(DecimalError::OutOfRange);
        }
        let shift = self.exponent + i32::from(decimals);
        for _ in 0..shift {
            minor_units = minor_units
                .checked_mul(10)
                .ok_or(DecimalError::OutOfRange)?;
        }
        for _ in shift..0 {
            if minor_units % 10 != 0 {
                return Err(DecimalError::TooPrecise(decimals));
            }
            minor_units /= 10;
        }
        let minor_units = i64::try_from(minor_units).map_err(|_| DecimalError::OutOfRange)?;
        Amount::new(minor_units).map_err(|_| DecimalError::OutOfRange)
    }
}

#[cfg(test)]
mod tests;
