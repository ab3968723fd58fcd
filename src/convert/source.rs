//! A file as values, one after the other: the elements of an array, JSON on a line each, or objects over several lines.
//!
//! Only one value is in memory, of at most [`VALUE_BYTES_MAX`]: its text first, then what is read from that, which takes about
//! four times as much. A bad value hides no other.

use std::io::{BufRead, BufReader, Cursor, Read};

use serde::Deserialize as _;
use serde_json::Value;
use serde_json::value::RawValue;

use super::format::ConvertError;
use super::split::{ReadValue, VALUE_BYTES_MAX, ValueReader, too_long};
use crate::message::whole_characters;

/// The deepest nesting: 5000 messages in a row of LibreChat's recursive export. What is deeper is skipped, and told.
const LEVELS_MAX: usize = 10_000;
/// The stack that reads and walks it, in bytes: address space, of which only touched pages take memory.
pub const STACK_BYTES: usize = 256 << 20;
/// Bytes before the first line that is JSON.
const HEAD_BYTES_MAX: usize = 1 << 20;
/// Bytes of one read.
const BUFFER_BYTES: usize = 64 << 10;

/// A file whose form is known.
pub(super) enum ValueSource<'r> {
    /// A JSON array.
    Array(Box<dyn BufRead + 'r>),
    /// A value on a line each; the first one that can be read.
    Lines(Box<dyn BufRead + 'r>, Value),
    /// Objects over several lines.
    Values(Box<dyn BufRead + 'r>),
}

/// Gets each value with its number, from 1, or why it cannot be read.
pub(super) type TakeValue<'a> = &'a mut dyn FnMut(u64, Result<Value, String>) -> Result<(), ConvertError>;

impl<'r> ValueSource<'r> {
    /// Looks at the beginning of a file.
    pub(super) fn open(from: impl Read + 'r) -> Result<Self, ConvertError> {
        let mut from = BufReader::with_capacity(BUFFER_BYTES, from);
        if from.fill_buf().map_err(ConvertError::Read)?.starts_with(b"\xef\xbb\xbf") {
            from.consume(3);
        }
        // Lines that are not JSON stand before the first one that is, and are told with their numbers.
        let (mut head, mut unreadable) = (Vec::new(), None);
        loop {
            let at = head.len();
            let left = (HEAD_BYTES_MAX + 1 - at.min(HEAD_BYTES_MAX)) as u64;
            let is_end = (&mut from).take(left).read_until(b'\n', &mut head).map_err(ConvertError::Read)? == 0;
            let line = head[at..].trim_ascii();
            if line.starts_with(b"[") && head[..at].trim_ascii().is_empty() {
                return Ok(Self::Array(Box::new(Cursor::new(head).chain(from))));
            }
            match serde_json::from_slice::<&RawValue>(line) {
                Ok(_) if line.starts_with(b"{") => match value_of(line) {
                    Ok(value) => return Ok(Self::Lines(Box::new(Cursor::new(head).chain(from)), value)),
                    Err(why) => unreadable = unreadable.or(Some(why)),
                },
                Err(fault) if fault.is_eof() && line.starts_with(b"{") => {
                    return Ok(Self::Values(Box::new(Cursor::new(head).chain(from))));
                }
                _ => {}
            }
            if is_end || head.len() > HEAD_BYTES_MAX {
                return Err(ConvertError::Unknown(unreadable.unwrap_or_else(|| without_json(&head).to_owned())));
            }
        }
    }

    /// Hands out every value.
    pub(super) fn each(self, take: TakeValue<'_>) -> Result<(), ConvertError> {
        match self {
            Self::Array(from) => each_element(ValueReader::of_array(from).map_err(ConvertError::Read)?, take),
            Self::Lines(from, _) => each_line(from, take),
            Self::Values(from) => each_element(ValueReader::in_turn(from), take),
        }
    }
}

/// What a file is that has no JSON.
fn without_json(head: &[u8]) -> &'static str {
    match head {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [_, 0, ..] => "it is UTF-16 or UTF-32; make it UTF-8 (iconv -f utf-16)",
        [0x1f, 0x8b, ..] => "it is gzip; unpack it (gunzip)",
        _ if head.trim_ascii().is_empty() => "it is empty",
        _ => "it is no JSON",
    }
}

/// The value of a text, its cut characters replaced.
///
/// # Errors
/// It is no JSON, or deeper than [`LEVELS_MAX`]. A shallower one needs a stack of [`STACK_BYTES`].
pub(super) fn value_of(json: &[u8]) -> Result<Value, String> {
    if levels(json) > LEVELS_MAX {
        return Err(format!(
            "it is nested deeper than {LEVELS_MAX} levels; LibreChat exports it flat without \"recursive\""
        ));
    }
    let json = whole_characters(json);
    let mut json = serde_json::Deserializer::from_slice(&json);
    json.disable_recursion_limit();
    let value = Value::deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    value.map_err(|fault| format!("it is no JSON: {fault}"))
}

/// How deep a text is nested.
fn levels(json: &[u8]) -> usize {
    let (mut level, mut deepest, mut is_text) = (0_usize, 0, false);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_text = !is_text,
            // Whatever is escaped ends no text.
            b'\\' => _ = bytes.next(),
            b'[' | b'{' if !is_text => {
                level += 1;
                deepest = deepest.max(level);
            }
            b']' | b'}' if !is_text => level = level.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn each_line(mut from: Box<dyn BufRead + '_>, take: TakeValue<'_>) -> Result<(), ConvertError> {
    let (mut line, mut unit) = (Vec::new(), 0);
    loop {
        line.clear();
        unit += 1;
        if (&mut from).take(VALUE_BYTES_MAX as u64).read_until(b'\n', &mut line).map_err(ConvertError::Read)? == 0 {
            return Ok(());
        }
        if line.len() == VALUE_BYTES_MAX && !line.ends_with(b"\n") {
            line = Vec::new();
            from.skip_until(b'\n').map_err(ConvertError::Read)?;
            take(unit, Err(too_long()))?;
            continue;
        }
        let text = line.trim_ascii();
        if !text.is_empty() {
            take(unit, value_of(text))?;
        }
    }
}

fn each_element(mut values: ValueReader<impl BufRead>, take: TakeValue<'_>) -> Result<(), ConvertError> {
    for unit in 1.. {
        let cut = |why: &str| Err(ConvertError::Damaged(unit, why.to_owned()));
        let value = match values.next().map_err(ConvertError::Read)? {
            ReadValue::Text(text) => value_of(&text),
            ReadValue::TooLong => Err(too_long()),
            ReadValue::Cut => return cut("the file ends before it does"),
            ReadValue::Behind => return cut("something follows the list that the file began with"),
            ReadValue::End => break,
        };
        take(unit, value)?;
    }
    Ok(())
}
