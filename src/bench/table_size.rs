//! Table sizes: what a ledger holds before the load comes.

use std::fmt;

/// What a ledger holds before the load comes. Each account has one entry from its opening besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSize {
    /// How many accounts.
    pub account_count: u64,
    /// How many transfers between them, of two entries each.
    pub operation_count: u64,
}

impl TableSize {
    /// What such as `10000`, `10m` or `10m+5m` says: accounts, and operations on them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} must be ACCOUNTS or ACCOUNTS+OPERATIONS, such as 10k or 10m+5m");
        let (accounts, operations) = text.split_once('+').unwrap_or((text, "0"));
        let account_count = count(accounts).ok_or_else(wrong)?;
        let operation_count = count(operations).ok_or_else(wrong)?;
        if account_count < 2 {
            return Err("a transfer needs two accounts".to_owned());
        }
        Ok(Self {
            account_count,
            operation_count,
        })
    }

    /// A count such as `500`, `10k` or `5m`.
    pub fn parse_count(text: &str) -> Result<u64, String> {
        count(text).ok_or_else(|| format!("{text:?} must be a count, such as 500, 10k or 5m"))
    }

    /// How many entries that makes.
    pub fn entry_count(self) -> u64 {
        self.account_count + 2 * self.operation_count
    }
}

impl fmt::Display for TableSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&short(self.account_count))?;
        match self.operation_count {
            0 => Ok(()),
            count => write!(f, "+{}", short(count)),
        }
    }
}

fn count(text: &str) -> Option<u64> {
    let (digits, factor) = match text.trim() {
        text if text.ends_with(['k', 'K']) => (&text[..text.len() - 1], 1_000),
        text if text.ends_with(['m', 'M']) => (&text[..text.len() - 1], 1_000_000),
        text => (text, 1),
    };
    let number: u64 = digits.parse().ok()?;
    // What fits into the arithmetic of the preload by far.
    number
        .checked_mul(factor)
        .filter(|count| *count <= 1_000_000_000)
}

/// A number as short as it can be without losing anything.
fn short(count: u64) -> String {
    match count {
        0 => "0".to_owned(),
        _ if count.is_multiple_of(1_000_000) => format!("{}m", count / 1_000_000),
        _ if count.is_multiple_of(1_000) => format!("{}k", count / 1_000),
        _ => count.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::TableSize;

    #[test]
    fn a_size_is_written_as_it_is_read() {
        for text in ["2", "10k", "10m+5m", "1234+1"] {
            assert_eq!(
                TableSize::parse(text).map(|size| size.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in ["", "1", "x", "10k+", "-1", "9999999m"] {
            assert!(TableSize::parse(text).is_err(), "{text:?}");
        }
    }
}
