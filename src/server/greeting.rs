//! The greeting: what an HTTP/2 connection begins with, a fixed preface and a SETTINGS frame. Until all of it
//! has arrived, the connection counts as one that has not begun.

/// Bytes of the preface.
const PREFACE_SIZE: usize = 24;
/// Bytes of a frame's header; the first three are the length of what follows it.
const FRAME_HEADER_SIZE: usize = 9;

/// How much of the greeting has arrived. Whether it is correct is checked by the HTTP/2 library.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    seen: usize,
    length: [u8; 3],
}

impl Greeting {
    /// Whether the greeting has come in full, with these bytes.
    pub(super) fn is_complete_with(&mut self, bytes: &[u8]) -> bool {
        for (place, byte) in self.length.iter_mut().enumerate() {
            let at = (PREFACE_SIZE + place).checked_sub(self.seen);
            if let Some(found) = at.and_then(|at| bytes.get(at)) {
                *byte = *found;
            }
        }
        self.seen += bytes.len();
        let header_end = PREFACE_SIZE + FRAME_HEADER_SIZE;
        let [high, middle, low] = self.length;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.seen >= header_end && self.seen - header_end >= length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_complete_with_the_last_byte_of_the_settings_however_it_comes() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend([0, 0, 6, 4, 0, 0, 0, 0, 0]);
        bytes.extend([0, 3, 0, 0, 0, 100]);
        for size in 1..=bytes.len() {
            let mut greeting = Greeting::default();
            let (last, first) = bytes.split_last().expect("not empty");
            for part in first.chunks(size) {
                assert!(!greeting.is_complete_with(part));
            }
            assert!(greeting.is_complete_with(&[*last]));
        }
        assert!(Greeting::default().is_complete_with(&bytes));
    }
}
