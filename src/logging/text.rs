//! The text of a message: bounded, and without anything that could forge a line or control a terminal.
//!
//! Pure: knows nothing of lines.

use std::fmt::{self, Write as _};

/// The longest message that is written whole, in bytes. An escape sequence at the limit is not cut.
pub(super) const MESSAGE_BYTES: usize = 8 * 1024;

/// `text` on one line, with every character escaped that could forge a line or control a terminal; cut at the longest
/// message.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut message = MessageText::new(true);
    // MessageText never fails.
    let _ = message.write_str(text);
    message.finish()
}

/// Takes formatted text, escapes control characters if it is to, and keeps at most [`MESSAGE_BYTES`].
pub(super) struct MessageText {
    is_escaped: bool,
    text: String,
    left_out: usize,
}

impl MessageText {
    pub(super) fn new(is_escaped: bool) -> Self {
        Self { is_escaped, text: String::new(), left_out: 0 }
    }

    pub(super) fn finish(mut self) -> String {
        if self.left_out > 0 {
            self.text.push_str(&format!("… ({} more bytes)", self.left_out));
        }
        self.text
    }
}

impl fmt::Write for MessageText {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for c in part.chars() {
            if self.text.len() >= MESSAGE_BYTES {
                self.left_out += c.len_utf8();
            } else if self.is_escaped && forges(c) {
                // \n, \r, \t, and \u{1b} for the others.
                self.text.extend(c.escape_default());
            } else {
                self.text.push(c);
            }
        }
        Ok(())
    }
}

/// Characters that could end the line, control a terminal, or reorder its text: C0, DEL, C1, the Unicode line
/// separators and the bidirectional controls.
pub(super) fn forges(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
