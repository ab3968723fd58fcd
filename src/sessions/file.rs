//! The file of the index: `sessions.index`, derived, replaced whole. Numbers are little-endian. Format version 2:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `CKSESSNS` |
//! | 8 | 4 | format version |
//! | 12 | 4 | zero |
//! | 16 | 8 | the sequence up to which records are counted |
//! | 24 | 16 | the id of the record of that sequence, or zeros |
//! | 40 | … | sessions, one after the other |
//! | end - 4 | 4 | CRC-32 of everything before |
//!
//! | of a session | bytes |
//! |---|---|
//! | length of its name, its name | 1, … |
//! | times of the newest and of the oldest message and of the session record | 3 × 8 |
//! | length of the transcript | 8 |
//! | messages | 4 |
//! | flags: 1 archived, 2 pinned | 1 |
//!
//! The id tells whether the journal still has the records that were counted: after a power cut without `fsync: always`
//! the same sequences are given again. A file that is missing, damaged or of another version counts for nothing.

use crate::message::{Id, SessionId};

use super::table::{SessionEntry, SessionTable};

const LETTERS: &[u8; 8] = b"CKSESSNS";
const VERSION: u32 = 2;
const HEAD_BYTES: usize = 40;
const CHECKSUM_BYTES: usize = 4;
const ARCHIVED: u8 = 1;
const PINNED: u8 = 2;
/// Of a session, without its name.
const ENTRY_BYTES: usize = 37;

/// The last record that is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Covered {
    /// Its sequence.
    pub sequence: u64,
    /// Its id; an abort has none.
    pub id: Option<Id>,
}

pub(super) fn encode(table: &SessionTable, covered: Covered) -> Vec<u8> {
    let mut to = Vec::with_capacity(HEAD_BYTES + table.len() * (ENTRY_BYTES + 40));
    to.extend_from_slice(LETTERS);
    to.extend_from_slice(&VERSION.to_le_bytes());
    to.extend_from_slice(&[0; 4]);
    to.extend_from_slice(&covered.sequence.to_le_bytes());
    to.extend_from_slice(&covered.id.map_or([0; 16], Id::to_bytes));
    for (name, entry) in table.iter() {
        to.push(u8::try_from(name.len()).expect("a name is short"));
        to.extend_from_slice(name.as_bytes());
        for number in [entry.updated, entry.created, entry.record, entry.bytes] {
            to.extend_from_slice(&number.to_le_bytes());
        }
        to.extend_from_slice(&entry.messages.to_le_bytes());
        to.push(u8::from(entry.is_archived) * ARCHIVED + u8::from(entry.is_pinned) * PINNED);
    }
    to.extend_from_slice(&crc32fast::hash(&to).to_le_bytes());
    to
}

/// `None` if the bytes are no index of this version.
pub(super) fn decode(bytes: &[u8]) -> Option<(SessionTable, Covered)> {
    let (content, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
    if checksum != crc32fast::hash(content).to_le_bytes() {
        return None;
    }
    let mut from = content.strip_prefix(LETTERS)?;
    if u32::from_le_bytes(take(&mut from)?) != VERSION {
        return None;
    }
    let _zero: [u8; 4] = take(&mut from)?;
    let covered = Covered { sequence: number(&mut from)?, id: Id::from_bytes(take(&mut from)?).ok() };
    let mut table = room_for(from)?;
    while let Some(length) = from.split_off_first() {
        let name =
            str::from_utf8(from.split_off(..usize::from(*length))?).ok().filter(|name| SessionId::is_valid(name))?;
        let (updated, created, record) = (number(&mut from)?, number(&mut from)?, number(&mut from)?);
        let (bytes, messages) = (number(&mut from)?, u32::from_le_bytes(take(&mut from)?));
        let [flags] = take(&mut from)?;
        let (is_archived, is_pinned) = (flags & ARCHIVED > 0, flags & PINNED > 0);
        *table.entry(name) = SessionEntry { updated, created, record, bytes, messages, is_archived, is_pinned };
    }
    Some((table, covered))
}

/// An empty table with room for these sessions: one that grows moves all of them many times.
fn room_for(mut sessions: &[u8]) -> Option<SessionTable> {
    let (mut count, mut name_bytes) = (0, 0);
    while let Some(length) = sessions.split_off_first() {
        sessions.split_off(..usize::from(*length) + ENTRY_BYTES)?;
        (count, name_bytes) = (count + 1, name_bytes + usize::from(*length));
    }
    Some(SessionTable::with_room(count, name_bytes))
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    from.split_off(..N)?.try_into().ok()
}

fn number(from: &mut &[u8]) -> Option<u64> {
    take(from).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_reads_back_and_damage_anywhere_is_noticed() {
        let mut table = SessionTable::default();
        for (n, name) in ["a", "user:42@host", &"x".repeat(128)].into_iter().enumerate() {
            let n = n as u64;
            let (updated, created, record, bytes) = (n + 10, n + 1, n, n * 100);
            let (messages, is_archived, is_pinned) = (u32::MAX, n == 1, n == 2);
            *table.entry(name) = SessionEntry { updated, created, record, bytes, messages, is_archived, is_pinned };
        }
        let covered = Covered { sequence: 7, id: Some(Id::BEGINNING) };
        let bytes = encode(&table, covered);
        let (read, read_covered) = decode(&bytes).unwrap();
        assert_eq!(read_covered, covered);
        assert_eq!(read.iter().collect::<Vec<_>>(), table.iter().collect::<Vec<_>>());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(decode(&damaged).is_none() && decode(&bytes[..at]).is_none(), "byte {at}");
        }
    }
}
