//! Limits the text of an answer to what a message may hold.
//!
//! Knows nothing of who speaks and who listens.

use super::ResponderError;

/// The most text of one answer, in bytes: as much as a user's message has with the default `server.max_body_bytes`.
/// Beyond it the answer fails, and keeps its text so far.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// Passes text on, up to the limit; what an answer holds beside its text counts as well.
pub(super) struct OutputLimit<'a> {
    say: &'a mut dyn FnMut(&str),
    bytes: usize,
    has_text: bool,
}

impl<'a> OutputLimit<'a> {
    /// A limit before `say`.
    pub(super) fn new(say: &'a mut dyn FnMut(&str)) -> Self {
        Self { say, bytes: 0, has_text: false }
    }

    /// Whether anything was said but white space. What has not is no answer.
    pub(super) fn has_text(&self) -> bool {
        self.has_text
    }

    /// Counts so many bytes that are kept and not said.
    ///
    /// # Errors
    /// They do not fit.
    #[cfg(feature = "openai")]
    pub(super) fn count(&mut self, bytes: usize) -> Result<(), ResponderError> {
        if bytes > TEXT_BYTES_MAX - self.bytes {
            return Err(too_long());
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Passes `text` on, or as much of it as fits.
    ///
    /// # Errors
    /// Not all of it fits; the beginning was passed on.
    pub(super) fn say(&mut self, text: &str) -> Result<(), ResponderError> {
        let left = TEXT_BYTES_MAX - self.bytes;
        let fits = (0..=left.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        if fits > 0 {
            self.bytes += fits;
            self.has_text |= !text[..fits].trim().is_empty();
            (self.say)(&text[..fits]);
        }
        if fits == text.len() {
            return Ok(());
        }
        Err(too_long())
    }
}

fn too_long() -> ResponderError {
    ResponderError::Failed(format!("the answer is longer than {TEXT_BYTES_MAX} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_said_than_fits_and_no_character_is_cut() {
        let mut heard = String::new();
        let mut say = |text: &str| heard.push_str(text);
        let mut output_limit = OutputLimit::new(&mut say);
        output_limit.say("").unwrap();
        output_limit.say(&"x".repeat(TEXT_BYTES_MAX - 3)).unwrap();
        assert_eq!(output_limit.say("ü€").unwrap_err().to_string(), "the answer is longer than 1048576 bytes");
        assert!(heard.ends_with("xü") && heard.len() == TEXT_BYTES_MAX - 1);
    }
}
