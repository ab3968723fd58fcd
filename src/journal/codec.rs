//! Values as bytes, for everything the journal writes except frames: little-endian, one after another, none trusted when
//! they are read.
//!
//! A side file or a header begins with eight letters and a version, and ends with the CRC-32 of everything before.
//!
//! | value | bytes |
//! |---|---|
//! | number | its own |
//! | bool | 1 |
//! | id | 16 |
//! | session id | its length (1), its characters |
//! | an id that may be missing | zeros when it is |
//! | list | how many (4), then one after the other |

use crate::message::{Id, SessionId};

/// A value that is written to bytes and read from them; see the table above.
pub trait Encoded: Sized {
    /// Appends it.
    fn put(&self, to: &mut Vec<u8>);
    /// Takes it from the front; `None` if the bytes are too few or not valid.
    fn take(from: &mut &[u8]) -> Option<Self>;
}

/// Writes and reads a type as another field.
macro_rules! written_as {
    ($($other:ty, $type:ty: $to:expr, $from:expr;)+) => {
        $(impl Encoded for $type {
            fn put(&self, to: &mut Vec<u8>) {
                let there: fn(&$type) -> $other = $to;
                there(self).put(to);
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                let back: fn($other) -> Option<$type> = $from;
                Encoded::take(from).and_then(back)
            }
        })+
    };
}
written_as! {
    [u8; 1], u8: |n| [*n], |[n]| Some(n);
    [u8; 4], u32: |n| n.to_le_bytes(), |bytes| Some(Self::from_le_bytes(bytes));
    [u8; 8], u64: |n| n.to_le_bytes(), |bytes| Some(Self::from_le_bytes(bytes));
    u8, bool: |is| u8::from(*is), |byte| Some(byte == 1);
    [u8; 16], Id: |id| id.to_bytes(), |bytes| Self::from_bytes(bytes).ok();
    [u8; 16], Option<Id>: |id| id.map_or([0; 16], Id::to_bytes), |bytes| Some(Id::from_bytes(bytes).ok());
}

impl<const N: usize> Encoded for [u8; N] {
    fn put(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        from.split_off(..N)?.try_into().ok()
    }
}

impl Encoded for SessionId {
    fn put(&self, to: &mut Vec<u8>) {
        to.push(u8::try_from(self.as_str().len()).expect("a session id has at most 128 characters"));
        to.extend_from_slice(self.as_str().as_bytes());
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        let length = u8::take(from)?;
        Self::new(str::from_utf8(from.split_off(..usize::from(length))?).ok()?).ok()
    }
}

/// The count is not trusted: nothing is allocated for more items than there are bytes.
impl<T: Encoded> Encoded for Vec<T> {
    fn put(&self, to: &mut Vec<u8>) {
        u32::try_from(self.len()).expect("a segment has fewer records than 4 billion").put(to);
        self.iter().for_each(|item| item.put(to));
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        (0..u32::take(from)?).map(|_| T::take(from)).collect()
    }
}

macro_rules! tuples {
    ($(($($item:ident),+))+) => {
        $(#[expect(non_snake_case, reason = "an item's type and its value have one name")]
        impl<$($item: Encoded),+> Encoded for ($($item),+) {
            fn put(&self, to: &mut Vec<u8>) {
                let ($($item),+) = self;
                $($item.put(to);)+
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                Some(($($item::take(from)?),+))
            }
        })+
    };
}
tuples! { (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) }

/// The bytes of a header or side file: its letters, its version, what `put` appends, zeros up to `bytes_min` in all,
/// and the checksum.
pub fn sealed(letters: &[u8; 8], version: u32, bytes_min: usize, put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = letters.to_vec();
    version.put(&mut bytes);
    put(&mut bytes);
    bytes.resize(bytes.len().max(bytes_min.saturating_sub(4)), 0);
    crc32fast::hash(&bytes).put(&mut bytes);
    bytes
}

/// The version, and the bytes after it, if letters and checksum are right.
pub fn vouched_for<'a>(letters: &[u8; 8], bytes: &'a [u8]) -> Option<(u32, &'a [u8])> {
    let (mut content, checksum) = bytes.split_last_chunk()?;
    let is_whole =
        crc32fast::hash(content) == u32::from_le_bytes(*checksum) && <[u8; 8]>::take(&mut content)? == *letters;
    let version = u32::take(&mut content)?;
    is_whole.then_some((version, content))
}
