//! A file as values, one after the other: the elements of an array, JSON on a line each, or objects over several lines.
//!
//! Only one value is in memory, of at most [`VALUE_BYTES_MAX`]: its text first, then what is read from that. A bad line hides
//! no other; in an array nothing after a fault can be read.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::rc::Rc;

use serde::Deserialize as _;
use serde::de::{Deserializer as _, Error as _, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::format::ConvertError;
use crate::message::whole_characters;

/// The longest value: a conversation, or a line. A file with a longer one is refused there.
const VALUE_BYTES_MAX: u64 = 256 << 20;
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
            Self::Array(from) => each_element(from, take),
            Self::Lines(from, _) => each_line(from, take),
            Self::Values(from) => {
                let (from, left) = Counted::new(from);
                let mut unit = 0;
                for value in serde_json::Deserializer::from_reader(from).into_iter::<Box<RawValue>>() {
                    left.set(VALUE_BYTES_MAX);
                    unit += 1;
                    let text = value.map_err(|fault| damaged(unit, fault))?;
                    let value = value_of(text.get().as_bytes());
                    drop(text);
                    take(unit, value)?;
                }
                Ok(())
            }
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
        if (&mut from).take(VALUE_BYTES_MAX).read_until(b'\n', &mut line).map_err(ConvertError::Read)? == 0 {
            return Ok(());
        }
        if line.len() as u64 == VALUE_BYTES_MAX && !line.ends_with(b"\n") {
            return Err(ConvertError::Damaged(unit, format!("it has more than {VALUE_BYTES_MAX} bytes")));
        }
        let text = line.trim_ascii();
        if !text.is_empty() {
            take(unit, value_of(text))?;
        }
    }
}

fn each_element(from: Box<dyn BufRead + '_>, take: TakeValue<'_>) -> Result<(), ConvertError> {
    let (from, left) = Counted::new(from);
    let mut elements = ArrayVisitor { take, left: &left, unit: 0, stopped: None };
    let mut json = serde_json::Deserializer::from_reader(from);
    let read = json.deserialize_seq(&mut elements).and_then(|()| json.end());
    let ArrayVisitor { unit, stopped, .. } = elements;
    match (stopped, read) {
        (Some(why), _) => Err(why),
        (None, Err(fault)) => Err(damaged(unit + 1, fault)),
        (None, Ok(())) => Ok(()),
    }
}

fn damaged(unit: u64, fault: serde_json::Error) -> ConvertError {
    match fault.io_error_kind() {
        Some(_) => ConvertError::Read(fault.into()),
        None => ConvertError::Damaged(unit, fault.to_string()),
    }
}

/// Hands each element of an array on before the next is read.
struct ArrayVisitor<'a, 't> {
    take: TakeValue<'t>,
    left: &'a Cell<u64>,
    unit: u64,
    stopped: Option<ConvertError>,
}

impl<'de> Visitor<'de> for &mut ArrayVisitor<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(text) = seq.next_element::<Box<RawValue>>()? {
            self.left.set(VALUE_BYTES_MAX);
            self.unit += 1;
            let value = value_of(text.get().as_bytes());
            drop(text);
            if let Err(why) = (self.take)(self.unit, value) {
                self.stopped = Some(why);
                return Err(A::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

/// Reads on only as long as the value in hand is not too long.
struct Counted<R> {
    from: R,
    left: Rc<Cell<u64>>,
}

impl<R> Counted<R> {
    fn new(from: R) -> (Self, Rc<Cell<u64>>) {
        let left = Rc::new(Cell::new(VALUE_BYTES_MAX));
        (Self { from, left: Rc::clone(&left) }, left)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        match self.left.get().checked_sub(read as u64) {
            Some(left) => self.left.set(left),
            None => return Err(io::Error::other(format!("a value in it has more than {VALUE_BYTES_MAX} bytes"))),
        }
        Ok(read)
    }
}
