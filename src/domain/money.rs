//! Money: whole minor units of one currency, checked at every step.

use std::fmt;

/// The largest amount of one operation, in minor units: 10^18. Nine such credits fit into one balance, and any sum of
/// two amounts fits into an `i64`.
pub const AMOUNT_MAX_MINOR_UNITS: i64 = 1_000_000_000_000_000_000;

/// A positive amount in minor units, at most [`AMOUNT_MAX_MINOR_UNITS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(i64);

/// Why a number is not an [`Amount`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is {0}, must be from 1 to {AMOUNT_MAX_MINOR_UNITS} minor units")]
pub struct AmountError(i64);

impl Amount {
    /// Accepts 1 to [`AMOUNT_MAX_MINOR_UNITS`] minor units.
    pub fn new(minor_units: i64) -> Result<Self, AmountError> {
        match minor_units {
            1..=AMOUNT_MAX_MINOR_UNITS => Ok(Self(minor_units)),
            other => Err(AmountError(other)),
        }
    }

    /// The amount in minor units; always positive.
    pub fn minor_units(self) -> i64 {
        self.0
    }
}

/// The code of a currency: three capital letters. Whether ISO 4217 lists it is checked where requests are parsed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

/// Why a text is not the code of a currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a currency code of ISO 4217 in capitals, such as EUR")]
pub struct CurrencyError;

impl Currency {
    /// Accepts three capital letters.
    pub fn new(code: &str) -> Result<Self, CurrencyError> {
        let letters: [u8; 3] = code.as_bytes().try_into().map_err(|_| CurrencyError)?;
        letters
            .iter()
            .all(u8::is_ascii_uppercase)
            .then_some(Self(letters))
            .ok_or(CurrencyError)
    }

    /// The code as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("three ASCII capitals, checked by `new`")
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_positive_and_bounded() {
        for accepted in [1, 2, AMOUNT_MAX_MINOR_UNITS] {
            assert_eq!(Amount::new(accepted).map(Amount::minor_units), Ok(accepted));
        }
        for rejected in [0, -1, i64::MIN, AMOUNT_MAX_MINOR_UNITS + 1, i64::MAX] {
            assert_eq!(Amount::new(rejected), Err(AmountError(rejected)));
        }
    }

    #[test]
    fn a_currency_is_three_capitals() {
        assert_eq!(
            Currency::new("EUR").map(|c| c.to_string()),
            Ok("EUR".to_owned())
        );
        for rejected in ["", "EU", "EURO", "eur", "E\u{dc}", "E1R"] {
            assert_eq!(Currency::new(rejected), Err(CurrencyError), "{rejected:?}");
        }
    }
}
