//! JSON as model servers send it: read strictly, and if that fails read again with common faults corrected.
//!
//! | fault | becomes |
//! |---|---|
//! | half of a surrogate pair (a server that cuts its text anywhere) | a mark that [`Halves`] joins with the other half |
//! | an invalid number (`NaN`, `1e999`) and a bare word | `null` |
//! | an unknown escape, a control character in a string | the character |
//! | bytes that are not UTF-8 | U+FFFD |
//!
//! Knows nothing of what the values mean.

use serde_json::Value;

/// The mark before the four digits of half a surrogate pair: a noncharacter of Unicode, which occurs in no text.
const HALF: char = '\u{fdd0}';

/// The object or list in `bytes`, if it can be recognised.
pub(super) fn read(bytes: &[u8]) -> Option<Value> {
    let strict = serde_json::from_slice(bytes);
    let value = strict.or_else(|_| serde_json::from_str(&mended(&String::from_utf8_lossy(bytes))));
    value.ok().filter(|value: &Value| value.is_object() || value.is_array())
}

fn mended(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let is_bare = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
        let end = match c {
            '"' => string(rest, &mut out),
            c if is_bare(c) => {
                let end = rest.find(|c| !is_bare(c)).unwrap_or(rest.len());
                let is_valid = serde_json::from_str::<Value>(&rest[..end]).is_ok();
                out.push_str(if is_valid { &rest[..end] } else { "null" });
                end
            }
            c => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[end..];
    }
    out
}

/// Corrects the string at the beginning of `text`; returns its end.
fn string(text: &str, out: &mut String) -> usize {
    out.push('"');
    let mut at = 1;
    while let Some(c) = text[at..].chars().next() {
        at += c.len_utf8();
        match c {
            '"' => {
                out.push('"');
                break;
            }
            '\\' => at += escape(&text[at..], out),
            c => character(c, out),
        }
    }
    at
}

/// Corrects the escape after a backslash; returns its length.
fn escape(text: &str, out: &mut String) -> usize {
    match text.chars().next() {
        Some(c @ ('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't')) => {
            out.extend(['\\', c]);
            1
        }
        Some('u') => match unit(&text[1..]) {
            Some(0xd800..=0xdbff) if low_behind(&text[5..]) => {
                out.push('\\');
                out.push_str(&text[..11]);
                11
            }
            Some(0xd800..=0xdfff) => {
                out.push(HALF);
                out.push_str(&text[1..5]);
                5
            }
            Some(_) => {
                out.push('\\');
                out.push_str(&text[..5]);
                5
            }
            None => {
                out.push(char::REPLACEMENT_CHARACTER);
                1
            }
        },
        Some(c) => {
            character(c, out);
            c.len_utf8()
        }
        None => 0,
    }
}

fn character(c: char, out: &mut String) {
    match c {
        c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        c => out.push(c),
    }
}

/// The number of the four digits that `text` begins with.
fn unit(text: &str) -> Option<u16> {
    let digits = text.get(..4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

fn low_behind(text: &str) -> bool {
    let low = text.strip_prefix("\\u").and_then(unit);
    matches!(low, Some(0xdc00..=0xdfff))
}

/// Joins the halves of surrogate pairs in consecutive texts. A half without its other half becomes U+FFFD.
#[derive(Debug, Default)]
pub(super) struct Halves {
    high: Option<u16>,
}

impl Halves {
    /// `text` with its halves joined; a half at its end waits for the next text.
    pub(super) fn join(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            match unit(&rest[c.len_utf8()..]).filter(|_| c == HALF) {
                Some(half) => {
                    self.half(half, &mut out);
                    rest = &rest[c.len_utf8() + 4..];
                }
                None => {
                    let end = rest[c.len_utf8()..].find(HALF).map_or(rest.len(), |at| c.len_utf8() + at);
                    out.push_str(self.finish());
                    out.push_str(&rest[..end]);
                    rest = &rest[end..];
                }
            }
        }
        out
    }

    fn half(&mut self, half: u16, out: &mut String) {
        let joined = self.high.and_then(|high| char::decode_utf16([high, half]).next()?.ok());
        match joined {
            Some(c) => {
                self.high = None;
                out.push(c);
            }
            None => {
                out.push_str(self.finish());
                match half {
                    0xd800..=0xdbff => self.high = Some(half),
                    _ => out.push(char::REPLACEMENT_CHARACTER),
                }
            }
        }
    }

    /// What a half becomes whose other half does not come.
    pub(super) fn finish(&mut self) -> &'static str {
        if self.high.take().is_some() { "\u{fffd}" } else { "" }
    }
}

/// `text` with the halves joined that it contains.
pub(super) fn joined(text: &str) -> String {
    let mut halves = Halves::default();
    let joined = halves.join(text);
    joined + halves.finish()
}

/// Joins the halves of surrogate pairs in every text of `value`.
pub(super) fn join_halves(value: &mut Value) {
    match value {
        Value::String(text) => *text = joined(text),
        Value::Array(items) => items.iter_mut().for_each(join_halves),
        Value::Object(fields) => fields.values_mut().for_each(join_halves),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_servers_get_wrong_in_json_is_read_all_the_same() {
        for (text, value) in [
            (r#"{"a":"\ud83e\udd80 \"ü\" \u00e4\n"}"#, json!({"a": "🦀 \"ü\" ä\n"})),
            (r#"{"a":"x\ud83ey"}"#, json!({"a": "x\u{fffd}y"})),
            (r#"{"a":"\udd80\ud83e"}"#, json!({"a": "\u{fffd}\u{fffd}"})),
            (r#"{"a":NaN,"b":[1e999,-Infinity,-1.5e3],"c":True,"d":"NaN \ud83e"}"#, {
                json!({"a": null, "b": [null, null, -1500.0], "c": null, "d": "NaN \u{fffd}"})
            }),
            ("{\"a\":\"tab\tstop\\x\\u12\"}", json!({"a": "tab\tstopx\u{fffd}12"})),
        ] {
            let mut read = read(text.as_bytes()).unwrap();
            for value in read.as_object_mut().unwrap().values_mut() {
                if let Value::String(text) = value {
                    *text = joined(text);
                }
            }
            assert_eq!(read, value, "{text}");
        }
        assert_eq!(read(b"{\"a\":\"\xff\"}"), Some(json!({"a": "\u{fffd}"})));
        for cut in
            ["", "{", "{\"a\":\"\\", "{\"a\":\"\\u", "{\"a\":\"\\ud8", "{\"a\":\"\\ud83e\\u", "<html>", "no", "5"]
        {
            assert_eq!(read(cut.as_bytes()), None, "{cut}");
        }
    }

    #[test]
    fn halves_are_joined_over_any_number_of_texts() {
        let mut halves = Halves::default();
        for (text, joined) in [
            ("hi \u{fdd0}d83d", "hi "),
            ("", ""),
            ("\u{fdd0}DE00 there", "😀 there"),
            ("\u{fdd0}de00", "\u{fffd}"),
            ("a\u{fdd0}d83d", "a"),
            ("\u{fdd0}d83d", "\u{fffd}"),
            ("b", "\u{fffd}b"),
            ("\u{fdd0}no half", "\u{fdd0}no half"),
            ("\u{fdd0}d83d", ""),
        ] {
            assert_eq!(halves.join(text), joined, "{text:?}");
        }
        assert_eq!((halves.finish(), halves.finish()), ("\u{fffd}", ""));
    }
}
