//! Pages: how many, and from where. A token is opaque, and bound to the list that it came from.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// The page size of a request that names none.
const PAGE_SIZE_DEFAULT: i64 = 50;
/// The largest page.
const PAGE_SIZE_MAX: i64 = 1000;
/// How many bytes of a token tell which list it belongs to.
const BINDING_LENGTH: usize = 8;

/// How many items a request asks for; `None` if the number is negative.
pub fn size(requested: i32) -> Option<i64> {
    match i64::from(requested) {
        ..0 => None,
        0 => Some(PAGE_SIZE_DEFAULT),
        size => Some(size.min(PAGE_SIZE_MAX)),
    }
}

/// The list that a token belongs to: the method and all its filters, in order.
#[derive(Debug)]
pub struct List<'a>(pub &'a [&'a str]);

impl List<'_> {
    /// The token that continues this list after `position`.
    pub fn token(&self, position: &str) -> String {
        let mut bytes = self.binding().to_vec();
        bytes.extend_from_slice(position.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The position that a token of this list continues after; `None` if it is not one.
    pub fn position(&self, token: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (binding, position) = bytes.split_at_checked(BINDING_LENGTH)?;
        (binding == self.binding()).then(|| String::from_utf8(position.to_vec()).ok())?
    }

    fn binding(&self) -> [u8; BINDING_LENGTH] {
        let mut hash = Sha256::new();
        for part in self.0 {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let hash = hash.finalize();
        std::array::from_fn(|index| hash[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_continues_its_own_list_only() {
        let list = List(&["entries", "a", "b"]);
        let token = list.token("42");
        assert_eq!(list.position(&token).as_deref(), Some("42"));
        assert_eq!(List(&["entries", "ab", ""]).position(&token), None);
        for forged in ["", "!", "AAAA", &token[1..]] {
            assert_eq!(list.position(forged), None, "{forged:?}");
        }
    }

    #[test]
    fn a_page_has_a_default_and_a_maximum() {
        assert_eq!(
            [0, 1, 1000, 1001].map(size),
            [Some(50), Some(1), Some(1000), Some(1000)]
        );
        assert_eq!(size(-1), None);
    }
}
