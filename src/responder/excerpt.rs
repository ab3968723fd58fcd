//! What a program or server said of its own failure, made fit for users: short, on one line, without control
//! characters.
//!
//! Knows nothing of secrets: callers with a secret remove it.

/// `text` with control characters and bidirectional controls escaped: users see what was sent.
pub(super) fn escaped(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut shown = String::with_capacity(text.len());
    for c in text.trim().chars() {
        match c.is_control() || turns(c) {
            true => shown.extend(c.escape_debug()),
            false => shown.push(c),
        }
    }
    shown
}

/// The last bytes of a stream, and no more.
#[derive(Debug)]
pub(super) struct OutputTail {
    bytes: Vec<u8>,
    bytes_max: usize,
    /// Earlier bytes were dropped.
    is_cut: bool,
}

impl OutputTail {
    /// Keeps the last `bytes_max` bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), bytes_max, is_cut: false }
    }

    /// Appends bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let over = self.bytes.len().saturating_sub(self.bytes_max);
        self.bytes.drain(..over);
        self.is_cut |= over > 0;
    }

    /// The tail as text for users; empty if it is only white space.
    pub(super) fn shown(&self) -> String {
        let mut bytes = &self.bytes[..];
        if self.is_cut {
            // The rest of a character whose beginning was dropped.
            let rest = bytes.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
            bytes = &bytes[rest..];
        }
        let shown = escaped(&String::from_utf8_lossy(bytes));
        if self.is_cut { format!("…{shown}") } else { shown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_sent() {
        assert_eq!(escaped(" a\nb\x1b[31m\u{202e}ü\0\n"), "a\\nb\\u{1b}[31m\\u{202e}ü\\0");
    }

    #[test]
    fn the_tail_is_the_end_of_what_came_in_whole_characters() {
        let mut tail = OutputTail::new(5);
        assert_eq!(tail.shown(), "");
        for (bytes, shown) in [("ab", "ab"), ("cde", "abcde"), ("€€", "…€"), ("0123456789", "…56789")] {
            tail.push(bytes.as_bytes());
            assert_eq!(tail.shown(), shown);
        }
    }
}
