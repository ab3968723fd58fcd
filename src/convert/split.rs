//! The texts of the values in a file that are not a line each: the values of an array, or objects one after the other.
//!
//! Where a value ends is told by brackets and quotes alone, so one that is no JSON, or longer than [`VALUE_BYTES_MAX`], hides
//! no other. Of a longer one nothing is kept. Knows nothing of what values say.

use std::io::{self, BufRead};

/// The longest value: a conversation, or a line. A longer one is skipped, and told.
pub(super) const VALUE_BYTES_MAX: usize = if cfg!(test) { 64 << 10 } else { 256 << 20 };

/// Why a value cannot be read that is too long.
pub(super) fn too_long() -> String {
    format!("it has more than {VALUE_BYTES_MAX} bytes, which is the most that one conversation or line may have")
}

/// A value's text, or what is in its place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadValue {
    Text(Vec<u8>),
    TooLong,
    /// The file ends within the value, or before the array does.
    Cut,
    /// Something follows the array.
    Behind,
    /// There are no more.
    End,
}

/// Reads them one after the other.
pub(super) struct ValueReader<R> {
    from: R,
    /// They are those of an array, whose bracket is read.
    is_array: bool,
}

/// What was read of a value so far.
#[derive(Default)]
struct ValueScan {
    level: usize,
    is_text: bool,
    is_escaped: bool,
}

impl<R: BufRead> ValueReader<R> {
    /// Those of the array with which the file begins.
    pub(super) fn of_array(mut from: R) -> io::Result<Self> {
        next_byte(&mut from)?;
        from.consume(1);
        Ok(Self { from, is_array: true })
    }

    /// Those that stand one after the other.
    pub(super) fn in_turn(from: R) -> Self {
        Self { from, is_array: false }
    }

    /// The next one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn next(&mut self) -> io::Result<ReadValue> {
        match (next_byte(&mut self.from)?, self.is_array) {
            (None, true) => return Ok(ReadValue::Cut),
            (None, false) => return Ok(ReadValue::End),
            (Some(b']'), true) => {
                self.from.consume(1);
                return Ok(if next_byte(&mut self.from)?.is_some() { ReadValue::Behind } else { ReadValue::End });
            }
            (Some(_), _) => {}
        }
        let (mut text, mut scan, mut is_too_long, mut ended) = (Vec::new(), ValueScan::default(), false, false);
        while !ended {
            let part = self.from.fill_buf()?;
            if part.is_empty() {
                // What has begun may be whole, as the last one of several.
                let is_whole = scan.level == 0 && !scan.is_text;
                return Ok(if is_whole && !is_too_long { ReadValue::Text(text) } else { ReadValue::Cut });
            }
            let end = part.iter().position(|byte| scan.ends(*byte, self.is_array));
            ended = end.is_some();
            // A bracket belongs to the value that it ends, a comma and the array's own bracket do not.
            let length = end.map_or(part.len(), |end| if self.is_array { end } else { end + 1 });
            is_too_long |= text.len() + length > VALUE_BYTES_MAX;
            if is_too_long {
                text = Vec::new();
            } else {
                text.extend_from_slice(&part[..length]);
            }
            let is_comma = self.is_array && end.is_some_and(|end| part[end] == b',');
            self.from.consume(length + usize::from(is_comma));
        }
        Ok(if is_too_long { ReadValue::TooLong } else { ReadValue::Text(text) })
    }
}

impl ValueScan {
    /// Takes the next byte; whether it ends the value.
    fn ends(&mut self, byte: u8, is_array: bool) -> bool {
        if self.is_text {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.is_text = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.is_text = true,
            b'[' | b'{' => self.level += 1,
            b',' | b']' if self.level == 0 && is_array => return true,
            // What has no brackets is no value here: a line of it.
            b'\n' if self.level == 0 => return !is_array,
            b']' | b'}' => {
                self.level = self.level.saturating_sub(1);
                return self.level == 0 && !is_array;
            }
            _ => {}
        }
        false
    }
}

/// The next byte that is no white space, which stays unread.
fn next_byte(from: &mut impl BufRead) -> io::Result<Option<u8>> {
    loop {
        let part = from.fill_buf()?;
        if part.is_empty() {
            return Ok(None);
        }
        let blanks = part.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let found = part.get(blanks).copied();
        from.consume(blanks);
        if found.is_some() {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    /// What is read in pieces of that length.
    fn read(from: &str, piece: usize) -> Vec<String> {
        let from = BufReader::with_capacity(piece, from.as_bytes());
        let is_array = from.get_ref().trim_ascii_start().starts_with(b"[");
        let mut values = if is_array { ValueReader::of_array(from).unwrap() } else { ValueReader::in_turn(from) };
        let mut found = Vec::new();
        loop {
            match values.next().unwrap() {
                ReadValue::End => return found,
                ReadValue::Text(text) => found.push(String::from_utf8(text.trim_ascii().to_vec()).unwrap()),
                other @ (ReadValue::Cut | ReadValue::Behind) => {
                    found.push(format!("{other:?}"));
                    return found;
                }
                ReadValue::TooLong => found.push("TooLong".to_owned()),
            }
        }
    }

    #[test]
    fn values_end_where_their_brackets_do_whatever_is_in_them() {
        let long = format!("{{\"a\":\"{}\"}}", "],[{\\\"".repeat(20_000));
        let longer = format!("[1,{long},2]");
        let cases: [(&str, &[&str]); 16] = [
            ("[]", &[]),
            (" [ ] \n", &[]),
            ("[null, {\"a\":[1,2]} ,\"x,]\\\\\"]", &["null", "{\"a\":[1,2]}", "\"x,]\\\\\""]),
            ("[{\"a\":NaN},{\"b\":\"\\\"]\"}]", &["{\"a\":NaN}", "{\"b\":\"\\\"]\"}"]),
            ("[1 2, 3,]", &["1 2", "3"]),
            ("[{\"a\":1}},2]", &["{\"a\":1}}", "2"]),
            ("[1,2", &["1", "2", "Cut"]),
            ("[1,{\"a\":", &["1", "Cut"]),
            ("[1,\"x", &["1", "Cut"]),
            ("[1,", &["1", "Cut"]),
            ("[", &["Cut"]),
            ("[1] x", &["1", "Behind"]),
            ("{\n\"a\":1}\n{\"b\":[{}]}{}", &["{\n\"a\":1}", "{\"b\":[{}]}", "{}"]),
            ("{\n}\nno json\n{}", &["{\n}", "no json", "{}"]),
            ("{\n} {\"a\":", &["{\n}", "Cut"]),
            (&longer, &["1", "TooLong", "2"]),
        ];
        for (from, wanted) in cases {
            for piece in [1, 2, 3, 7, 64 << 10] {
                assert_eq!(read(from, piece), wanted, "{from} in pieces of {piece}");
            }
        }
    }
}
