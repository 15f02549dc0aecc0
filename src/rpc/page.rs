//! Pages: how many, and from where. A token is opaque, and bound to the list that it came from. A page ends early when it
//! is as large as an answer may be.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use sha2::{Digest, Sha256};

/// The page size of a request that names none.
const PAGE_SIZE_DEFAULT: i64 = 50;
/// The largest page.
const PAGE_SIZE_MAX: i64 = 1000;
/// The largest answer, in bytes. Clients receive 4 MiB by default; the rest is for tokens and for fields to come.
pub const ANSWER_SIZE_MAX: usize = 4 * 1024 * 1024 - 64 * 1024;
/// What a message takes in a list beyond its own bytes: its field and its length.
const ITEM_OVERHEAD: usize = 6;
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

/// How many bytes are reserved for an answer with so many items: more than nearly all of them have.
pub fn reserved_size(count: usize) -> usize {
    (count * 4 * 1024).min(ANSWER_SIZE_MAX)
}

/// How many bytes a message takes in a list.
pub fn item_size(message: &impl Message) -> usize {
    message.encoded_len() + ITEM_OVERHEAD
}

/// How many items of these sizes, from the first on, are within `size_max` together. At least one, if there are any: a page
/// always goes on.
pub fn fitting(sizes: impl IntoIterator<Item = usize>, size_max: usize) -> usize {
    let mut total = 0;
    let within = sizes.into_iter().enumerate().take_while(|(index, size)| {
        total += size;
        total <= size_max || *index == 0
    });
    within.count()
}

/// A page of at most `count` messages that an answer has room for, and whether that leaves something out. `messages` has one
/// more than `count`, if there are more.
pub fn cut<M: Message>(messages: &mut Vec<M>, count: usize) -> bool {
    let sizes = messages.iter().take(count).map(item_size);
    let fitting = fitting(sizes, ANSWER_SIZE_MAX);
    let leaves_out = messages.len() > fitting;
    messages.truncate(fitting);
    leaves_out
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
    fn a_page_ends_before_it_is_too_large_and_never_without_an_item() {
        assert_eq!(fitting([], 10), 0);
        assert_eq!(fitting([11, 1], 10), 1);
        assert_eq!(fitting([4, 6, 1], 10), 2);
        assert_eq!(fitting([4, 7, 1], 10), 1);
        let mut texts = vec!["x".repeat(1024 * 1024); 5];
        assert!(cut(&mut texts, 5));
        assert_eq!(texts.len(), 3);
        assert!(!cut(&mut texts, 3));
        assert!(cut(&mut texts, 2));
        assert_eq!(texts.len(), 2);
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
