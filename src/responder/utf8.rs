//! Bytes that come in pieces of any size to text: a character that is split between two pieces waits for its rest.
//!
//! Invariant: the pieces of text put together are what [`String::from_utf8_lossy`] makes of all bytes, each invalid sequence
//! one U+FFFD. Holds at most three bytes back. Knows nothing of where the bytes come from.

/// Decodes one stream.
#[derive(Debug, Default)]
pub(super) struct Utf8Decoder {
    /// The beginning of a character whose rest has not come; at most three bytes.
    begun: Vec<u8>,
}

impl Utf8Decoder {
    /// The text that is complete with `bytes`.
    pub(super) fn decode(&mut self, bytes: &[u8]) -> String {
        let joined;
        let mut rest = bytes;
        if !self.begun.is_empty() {
            self.begun.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.begun);
            rest = &joined;
        }
        let mut text = String::with_capacity(rest.len());
        loop {
            match str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    return text;
                }
                Err(e) => {
                    let (valid, after) = rest.split_at(e.valid_up_to());
                    text.push_str(str::from_utf8(valid).unwrap_or_default());
                    let Some(invalid) = e.error_len() else {
                        self.begun.extend_from_slice(after);
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[invalid..];
                }
            }
        }
    }

    /// What is left at the end: nothing, or the sign for a character that was never finished.
    pub(super) fn finish(self) -> &'static str {
        if self.begun.is_empty() { "" } else { "\u{fffd}" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARD: &[u8] =
        b"a\xc3\xbc\xe2\x82\xac\xf0\x9f\xa6\x80 \xff\xc3 \xe2\x82 \xf0\x9f\xa6\xed\xa0\x80\xf8\x88\xc0\xafz\xf0\x9f";

    fn decoded<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
        let mut decoder = Utf8Decoder::default();
        let mut text: String = pieces.into_iter().map(|piece| decoder.decode(piece)).collect();
        text += decoder.finish();
        text
    }

    #[test]
    fn text_is_the_same_wherever_it_is_split() {
        let whole = String::from_utf8_lossy(HARD);
        for first in 0..=HARD.len() {
            for second in first..=HARD.len() {
                let pieces = [&HARD[..first], &HARD[first..second], &HARD[second..]];
                assert_eq!(decoded(pieces), whole, "{first} {second}");
            }
        }
        assert_eq!(decoded(HARD.chunks(1)), whole);
    }

    #[test]
    fn no_character_is_given_in_parts_or_held_back_longer_than_needed() {
        let mut decoder = Utf8Decoder::default();
        for (bytes, text) in
            [(&b"a\xe2"[..], "a"), (b"\x82", ""), (b"\xacb", "€b"), (b"\xf0\x9f", ""), (b"x", "\u{fffd}x")]
        {
            assert_eq!(decoder.decode(bytes), text);
        }
        assert_eq!(decoder.finish(), "");
    }
}
