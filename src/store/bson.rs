//! JSON text into BSON bytes, without a tree of values between them.
//!
//! The drain makes every message into a document, so this is worth a file: with `serde_json::Value` in between, a message of
//! sixty characters cost some twenty allocations and more time than its trip through the driver. Here a value is appended
//! as it is parsed; its type stands before its key and is patched once it is known.
//!
//! JSON numbers become the narrowest of int32, int64 and double that holds them, as every driver writes them; a whole number
//! beyond int64, which BSON has no integer for, becomes a decimal128. Keys stay as they are, dots and dollars included.
//!
//! Invariant: what is appended is one whole element, unless [`Elements::unfit`] says otherwise, and then no more is built
//! than can be sent. Knows nothing of messages.

use std::fmt;
use std::io::Write;

use mongodb::bson::{DateTime, Decimal128};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The largest document a server takes, in bytes (`maxBsonObjectSize` of every version so far).
pub const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// Why a message cannot become a document. Its text is the reason in [`super::Refused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The line is no JSON after its layout.
    #[error("the line is not the JSON of a message")]
    Line,
    /// The key holds a NUL, which ends keys in BSON.
    #[error("a key of the metadata holds a NUL")]
    Key,
    /// The document exceeds [`DOCUMENT_BYTES_MAX`].
    #[error("as a BSON document it has more than 16 MiB")]
    Size,
}

/// The types that JSON needs, and dates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BsonType {
    Double = 0x01,
    String = 0x02,
    Document = 0x03,
    Array = 0x04,
    Boolean = 0x08,
    Date = 0x09,
    Null = 0x0a,
    Int32 = 0x10,
    Int64 = 0x12,
    Decimal128 = 0x13,
}

/// A document while it is written.
pub struct Elements {
    bytes: Vec<u8>,
    unfit: Option<Unfit>,
}

impl Elements {
    /// An empty document with space for `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.extend_from_slice(&[0; 4]);
        Self { bytes, unfit: None }
    }

    /// Appends a string. The key holds no NUL.
    pub fn string(&mut self, key: &str, value: &str) {
        self.key(BsonType::String, key);
        self.text(value);
    }

    /// Appends a date. The key holds no NUL.
    pub fn date(&mut self, key: &str, value: DateTime) {
        self.key(BsonType::Date, key);
        self.bytes.extend_from_slice(&value.timestamp_millis().to_le_bytes());
    }

    /// Appends an empty array. The key holds no NUL.
    pub fn empty_array(&mut self, key: &str) {
        self.key(BsonType::Array, key);
        self.nested(|_| Ok::<_, ()>(())).expect("nothing is done in it");
    }

    /// Appends the JSON value that follows, which must be of type `kind`. The key holds no NUL.
    pub fn json(&mut self, key: &str, kind: BsonType) -> impl for<'de> DeserializeSeed<'de, Value = ()> {
        let type_at = self.key(BsonType::Null, key);
        BsonField { to: self, type_at, kind }
    }

    /// The finished document.
    ///
    /// # Errors
    /// Why there is none; the same message fails again.
    pub fn finish(mut self) -> Result<Vec<u8>, Unfit> {
        self.end(0);
        match self.unfit {
            Some(unfit) => Err(unfit),
            None if self.bytes.len() > DOCUMENT_BYTES_MAX => Err(Unfit::Size),
            None => Ok(self.bytes),
        }
    }

    /// Appends the key; returns the offset of its type.
    fn key(&mut self, kind: BsonType, key: &str) -> usize {
        let type_at = self.bytes.len();
        self.bytes.push(kind as u8);
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.push(0);
        type_at
    }

    fn text(&mut self, value: &str) {
        // A line is far below 2 GiB.
        self.bytes.extend_from_slice(&(value.len() as u32 + 1).to_le_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
    }

    fn nested<E>(&mut self, fill: impl FnOnce(&mut Self) -> Result<(), E>) -> Result<(), E> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        fill(self)?;
        self.end(start);
        Ok(())
    }

    fn end(&mut self, start: usize) {
        self.bytes.push(0);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Whether to append more. An element may take six times its two characters of JSON, so this is asked before each.
    fn goes_on(&mut self) -> bool {
        if self.unfit.is_none() && self.bytes.len() > DOCUMENT_BYTES_MAX {
            self.unfit = Some(Unfit::Size);
        }
        self.unfit.is_none()
    }
}

/// A value of the wanted type.
struct BsonField<'a> {
    to: &'a mut Elements,
    type_at: usize,
    kind: BsonType,
}

impl<'de> DeserializeSeed<'de> for BsonField<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let Self { to, type_at, kind } = self;
        Json { to: &mut *to, type_at }.deserialize(from)?;
        if to.bytes[type_at] == kind as u8 { Ok(()) } else { Err(D::Error::custom("of another type")) }
    }
}

/// A value after its key; its type is patched in.
struct Json<'a> {
    to: &'a mut Elements,
    type_at: usize,
}

impl Json<'_> {
    fn put<E>(self, kind: BsonType, bytes: &[u8]) -> Result<(), E> {
        self.to.bytes[self.type_at] = kind as u8;
        self.to.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn integer<E>(self, number: i64) -> Result<(), E> {
        match i32::try_from(number) {
            Ok(number) => self.put(BsonType::Int32, &number.to_le_bytes()),
            Err(_) => self.put(BsonType::Int64, &number.to_le_bytes()),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Json<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Json<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.put(BsonType::Null, &[])
    }

    fn visit_bool<E>(self, flag: bool) -> Result<(), E> {
        self.put(BsonType::Boolean, &[u8::from(flag)])
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.integer(number)
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        match i64::try_from(number) {
            Ok(number) => self.integer(number),
            Err(_) => {
                let decimal = number.to_string().parse::<Decimal128>().expect("twenty digits fit a decimal128");
                self.put(BsonType::Decimal128, &decimal.bytes())
            }
        }
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.put(BsonType::Double, &number.to_le_bytes())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.to.bytes[self.type_at] = BsonType::String as u8;
        self.to.text(text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.to.bytes[self.type_at] = BsonType::Array as u8;
        self.to.nested(|to| {
            for index in 0_u32.. {
                if !to.goes_on() {
                    while items.next_element::<IgnoredAny>()?.is_some() {}
                    break;
                }
                let type_at = to.bytes.len();
                to.bytes.push(BsonType::Null as u8);
                write!(to.bytes, "{index}\0").expect("memory takes everything");
                if items.next_element_seed(Json { to, type_at })?.is_none() {
                    to.bytes.truncate(type_at);
                    break;
                }
            }
            Ok(())
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        self.to.bytes[self.type_at] = BsonType::Document as u8;
        self.to.nested(|to| {
            loop {
                if !to.goes_on() {
                    while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                    return Ok(());
                }
                let type_at = to.bytes.len();
                to.bytes.push(BsonType::Null as u8);
                if fields.next_key_seed(BsonKey(to))?.is_none() {
                    to.bytes.truncate(type_at);
                    return Ok(());
                }
                fields.next_value_seed(Json { to, type_at })?;
            }
        })
    }
}

/// A key, after the byte of its value's type.
struct BsonKey<'a>(&'a mut Elements);

impl<'de> DeserializeSeed<'de> for BsonKey<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for BsonKey<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<(), E> {
        if key.contains('\0') {
            self.0.unfit = Some(Unfit::Key);
        }
        self.0.bytes.extend_from_slice(key.as_bytes());
        self.0.bytes.push(0);
        Ok(())
    }
}
