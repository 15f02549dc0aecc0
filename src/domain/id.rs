//! Ids: short names that callers choose. A value of these types has passed its rule; nothing checks it again.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// The most characters that an account, owner or operation id may have. 64 holds a UUID with a prefix, and keeps an
/// index entry of the ledger below 100 bytes.
pub const ID_LENGTH_MAX: usize = 64;
/// The most characters that a category may have.
pub const CATEGORY_LENGTH_MAX: usize = 32;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// No character at all.
    #[error("is required: 1 to {length_max} characters of A-Z a-z 0-9 . _ : -")]
    Empty {
        /// The most characters that this kind of id may have.
        length_max: usize,
    },
    /// More characters than allowed.
    #[error("has {length} characters, at most {length_max} are allowed")]
    TooLong {
        /// How many bytes it has.
        length: usize,
        /// The most characters that this kind of id may have.
        length_max: usize,
    },
    /// A character outside of `A-Z a-z 0-9 . _ : -`.
    #[error("has {character:?} at position {position}, only A-Z a-z 0-9 . _ : - are allowed")]
    Character {
        /// The first offending character.
        character: char,
        /// Its byte position, from 0.
        position: usize,
    },
}

fn check(text: &str, length_max: usize) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { length_max });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
    if let Some((position, character)) = text.char_indices().find(|(_, c)| !allowed(*c)) {
        return Err(IdError::Character {
            character,
            position,
        });
    }
    if text.len() > length_max {
        let length = text.len();
        return Err(IdError::TooLong { length, length_max });
    }
    Ok(())
}

/// How ids are shown.
macro_rules! texts {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
    };
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $length_max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Accepts the text if it keeps the rule of this id.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check(text, $length_max).map(|()| Self(text.into()))
            }

            /// Takes over a text that kept the rule when it was stored.
            pub fn from_stored(text: &str) -> Self {
                Self(text.into())
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        texts!($name);
    };
}

id!(
    /// Names an account.
    AccountId,
    ID_LENGTH_MAX
);
id!(
    /// Names the owner of accounts, in the caller's system.
    OwnerId,
    ID_LENGTH_MAX
);
id!(
    /// Names an operation: its identity and its idempotency key.
    OperationId,
    ID_LENGTH_MAX
);

/// Names a pocket of an account.
///
/// Nearly all are [`Category::MAIN`], and nearly every thread has some in hand: one text for all of them would be counted
/// up and down by all of them, so it has none.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Category(Option<Arc<str>>);

impl Category {
    /// The category that every account has and that an empty field means.
    pub const MAIN: &str = "main";

    /// The category [`Category::MAIN`].
    pub const fn main() -> Self {
        Self(None)
    }

    /// Accepts the text if it keeps the rule of this id.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        check(text, CATEGORY_LENGTH_MAX).map(|()| Self::from_stored(text))
    }

    /// Takes over a text that kept the rule when it was stored.
    pub fn from_stored(text: &str) -> Self {
        Self((text != Self::MAIN).then(|| text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or(Self::MAIN)
    }

    /// Whether this is [`Category::MAIN`].
    pub const fn is_main(&self) -> bool {
        self.0.is_none()
    }
}

impl Ord for Category {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl PartialOrd for Category {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

texts!(Category);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_keeps_its_length_and_its_alphabet() {
        assert!(AccountId::parse("a").is_ok());
        assert!(AccountId::parse(&"Z".repeat(64)).is_ok());
        assert!(AccountId::parse("shop.7_x:EUR-1").is_ok());
        assert_eq!(AccountId::parse(""), Err(IdError::Empty { length_max: 64 }));
        let length = 65;
        assert_eq!(
            AccountId::parse(&"a".repeat(65)),
            Err(IdError::TooLong {
                length,
                length_max: 64
            })
        );
        for (text, character, position) in [
            ("a b", ' ', 1),
            ("\0", '\0', 0),
            ("ab\n", '\n', 2),
            ("caf\u{e9}", '\u{e9}', 3),
        ] {
            assert_eq!(
                AccountId::parse(text),
                Err(IdError::Character {
                    character,
                    position
                }),
                "{text:?}"
            );
        }
        assert!(Category::parse(&"c".repeat(32)).is_ok());
        assert!(Category::parse(&"c".repeat(33)).is_err());
    }

    #[test]
    fn main_is_one_category_however_it_is_made_and_ordered_by_its_name() {
        let main = Category::main();
        assert_eq!(Category::parse("main"), Ok(main.clone()));
        assert_eq!(Category::from_stored("main"), main);
        assert_eq!(main.to_string(), "main");
        let mut categories = ["z", "main", "MEAL", "maim"].map(Category::from_stored);
        categories.sort_unstable();
        assert_eq!(
            categories.each_ref().map(Category::as_str),
            ["MEAL", "maim", "main", "z"]
        );
    }
}
