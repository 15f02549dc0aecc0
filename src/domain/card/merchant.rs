//! A merchant's name as it is compared.
//!
//! Two names are one if they are equal after Unicode's compatibility caseless matching (definition D146 of the Unicode
//! Standard: full case folding and compatibility normalization), after trimming and after making each run of white space one
//! space. So `PÃO` is one name whether `Ã` is one character or two, `STRASSE` is `straße`, and full-width letters are letters.

use std::borrow::Cow;

use icu_casemap::CaseMapper;
use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};

use super::{CardTextError, check};

/// The most characters of a merchant's name. Card networks send 40.
pub const MERCHANT_LENGTH_MAX: usize = 256;

/// A merchant's name as it is compared: normalized, case folded, trimmed, single spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merchant(String);

impl Merchant {
    /// As a payment brings it; empty if it brings none.
    pub fn of_payment(text: &str) -> Result<Self, CardTextError> {
        let name = collapsed(text);
        // First, so that nobody has a megabyte normalized.
        check(&name, MERCHANT_LENGTH_MAX)?;
        // Normalization makes spaces of what was none, such as of U+00B4.
        let name = collapsed(&normalized(&name));
        match name.chars().count() {
            length if length > MERCHANT_LENGTH_MAX => Err(CardTextError::TooLongNormalized {
                length,
                length_max: MERCHANT_LENGTH_MAX,
            }),
            _ => Ok(Self(name)),
        }
    }

    /// As a rule needs it.
    pub fn of_rule(text: &str) -> Result<Self, CardTextError> {
        let merchant = Self::of_payment(text)?;
        if merchant.0.is_empty() {
            return Err(CardTextError::NoMerchant);
        }
        Ok(merchant)
    }

    /// Takes over one that was stored.
    pub fn from_stored(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Whether a stored name is this one, also if it was stored in the form of an older version.
    pub fn is_stored_as(&self, stored: &str) -> bool {
        stored == self.0 || Self::of_payment(stored).is_ok_and(|stored| stored == *self)
    }

    /// The name as it is compared.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn collapsed(text: &str) -> String {
    let mut name = String::with_capacity(text.len().min(MERCHANT_LENGTH_MAX));
    for word in text.split_whitespace() {
        if !name.is_empty() {
            name.push(' ');
        }
        name.push_str(word);
    }
    name
}

/// The form in which equal names are equal texts. Of ASCII it is lower case.
fn normalized(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Owned(text.to_ascii_lowercase());
    }
    let (nfd, nfkc) = (
        DecomposingNormalizerBorrowed::new_nfd(),
        ComposingNormalizerBorrowed::new_nfkc(),
    );
    let case = CaseMapper::new();
    let text = nfd.normalize(text);
    let text = case.fold_string(&text);
    // What compatibility brings to light may have a case of its own, and folding may leave what is not composed.
    let text = nfkc.normalize(&text);
    let text = case.fold_string(&text);
    Cow::Owned(nfkc.normalize(&text).into_owned())
}
