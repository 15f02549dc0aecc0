//! Ids: short names that callers choose. A value of these types has passed its rule; nothing checks it again.

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

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
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
id!(
    /// Names a pocket of an account.
    Category,
    CATEGORY_LENGTH_MAX
);

impl Category {
    /// The category that every account has and that an empty field means.
    pub const MAIN: &str = "main";

    /// The category [`Category::MAIN`].
    pub fn main() -> Self {
        static MAIN: std::sync::LazyLock<Category> =
            std::sync::LazyLock::new(|| Category(Category::MAIN.into()));
        MAIN.clone()
    }

    /// Whether this is [`Category::MAIN`].
    pub fn is_main(&self) -> bool {
        self.as_str() == Self::MAIN
    }
}

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
}
