//! The bytes of a digest: one way to write them, one way to read them, none that trusts them.
//!
//! Numbers are little-endian. Format version 3; one of another version is made anew:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `CKDIGEST` |
//! | 8 | 4 | format version |
//! | 12 | 64 | the segment's header (frame.rs), should it be damaged there |
//! | 76 | 8 | last sequence, or 0 |
//! | 84 | 16 | largest id, or zeros |
//! | 100 | 8 | intact records |
//! | 108 | 8, 8 | first and last record of the request that is not ended when the segment ends, or zeros |
//! | 124 | 8, 8, 1 | first and last record of the request that was begun before the segment, and 1 if it ends; or zeros |
//! | 141 | 1 | 1 if something stands behind the last frame that is none |
//! | 142 | 4 | how many stretches of damage follow, of 16 bytes: from, to, as offsets in the segment |
//! | … | 4 | how many aborted ranges follow, of 16 bytes: first, last |
//! | … | 4 | how many remains of requests that are not whole follow, of 16 bytes: first, last |
//! | … | 4 | how many keys follow, of 48 bytes: hash (16), content (8), sequence (8), id (16) |
//! | … | 4 | how many replies to messages with a key follow, of 40 bytes: key's hash (16), sequence (8), id (16) |
//! | … | 4 | how many sessions have messages in it that are not scrubbed; of each 8 bytes, FNV-1a of its id, rising |
//! | … | 4 | how many erasures follow, of 25 bytes and more: sequence (8), id (16), length of the session id (1), session id |
//! | … | 4 | CRC-32 of everything before |
//!
//! What is not a digest of this version, with a checksum that is right and of that very segment, reads as none.

use std::collections::BTreeSet;

use crate::journal::erasures::Erasure;
use crate::journal::frame::SegmentHeader;
use crate::journal::keys::Known;
use crate::message::{Id, SessionId};

use super::Digest;

const MAGIC: &[u8; 8] = b"CKDIGEST";
const VERSION: u32 = 3;

impl Digest {
    /// The header of the segment that a digest speaks of.
    pub(super) fn header_in(bytes: &[u8]) -> Option<SegmentHeader> {
        SegmentHeader::decode(vouched_for(bytes)?).ok()
    }

    pub(in crate::journal) fn encode(&self, header: &SegmentHeader) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128 + self.keys.len() * 48 + self.replies.len() * 40);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&self.last_sequence.to_le_bytes());
        bytes.extend_from_slice(&self.largest_id.map_or([0; 16], Id::to_bytes));
        bytes.extend_from_slice(&self.records.to_le_bytes());
        push_range(&mut bytes, self.unfinished.unwrap_or_default());
        let (first, last, ends) = self.head.unwrap_or_default();
        push_range(&mut bytes, (first, last));
        bytes.push(u8::from(ends));
        bytes.push(u8::from(self.torn));
        for ranges in [&self.gaps, &self.aborted, &self.remains] {
            push_count(&mut bytes, ranges.len());
            ranges.iter().for_each(|range| push_range(&mut bytes, *range));
        }
        push_count(&mut bytes, self.keys.len());
        for (hash, known) in &self.keys {
            bytes.extend_from_slice(hash);
            bytes.extend_from_slice(&known.content);
            bytes.extend_from_slice(&known.sequence.to_le_bytes());
            bytes.extend_from_slice(&known.id.to_bytes());
        }
        push_count(&mut bytes, self.replies.len());
        for (hash, sequence, id) in &self.replies {
            bytes.extend_from_slice(hash);
            bytes.extend_from_slice(&sequence.to_le_bytes());
            bytes.extend_from_slice(&id.to_bytes());
        }
        self.push_sessions(&mut bytes);
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn push_sessions(&self, bytes: &mut Vec<u8>) {
        push_count(bytes, self.sessions.len());
        self.sessions.iter().for_each(|hash| bytes.extend_from_slice(&hash.to_le_bytes()));
        push_count(bytes, self.erasures.len());
        for Erasure { sequence, id, session } in &self.erasures {
            bytes.extend_from_slice(&sequence.to_le_bytes());
            bytes.extend_from_slice(&id.to_bytes());
            bytes.push(u8::try_from(session.as_str().len()).expect("a session id has at most 128 characters"));
            bytes.extend_from_slice(session.as_str().as_bytes());
        }
    }

    pub(in crate::journal) fn decode(bytes: &[u8], header: &SegmentHeader) -> Option<Self> {
        let mut rest = Bytes(vouched_for(bytes)?);
        if rest.take()? != header.encode() {
            return None;
        }
        let mut digest = Self { last_sequence: rest.u64()?, largest_id: rest.id()?, ..Self::default() };
        digest.records = rest.u64()?;
        digest.unfinished = Some((rest.u64()?, rest.u64()?)).filter(|range| *range != (0, 0));
        let head = (rest.u64()?, rest.u64()?, rest.take::<1>()? == [1]);
        digest.head = Some(head).filter(|(first, ..)| *first != 0);
        digest.torn = rest.take::<1>()? == [1];
        for ranges in [&mut digest.gaps, &mut digest.aborted, &mut digest.remains] {
            for _ in 0..rest.u32()? {
                ranges.push((rest.u64()?, rest.u64()?));
            }
        }
        for _ in 0..rest.u32()? {
            let (hash, content, sequence) = (rest.take()?, rest.take()?, rest.u64()?);
            let known = Known { content, sequence, id: rest.id()??, reply: None };
            digest.keys.push((hash, known));
        }
        for _ in 0..rest.u32()? {
            digest.replies.push((rest.take()?, rest.u64()?, rest.id()??));
        }
        // They stand in order, and built at once they cost far less than one by one: a start reads all digests.
        let count = rest.u32()?;
        digest.sessions = (0..count).map(|_| rest.u64()).collect::<Option<BTreeSet<u64>>>()?;
        for _ in 0..rest.u32()? {
            let (sequence, id, length) = (rest.u64()?, rest.id()??, rest.take::<1>()?[0]);
            let (session, after) = rest.0.split_at_checked(usize::from(length))?;
            let session = SessionId::new(str::from_utf8(session).ok()?).ok()?;
            digest.erasures.push(Erasure { sequence, id, session });
            rest.0 = after;
        }
        rest.0.is_empty().then_some(digest)
    }
}

/// What stands behind the version of a digest whose checksum is right.
fn vouched_for(bytes: &[u8]) -> Option<&[u8]> {
    let (content, checksum) = bytes.split_last_chunk::<4>()?;
    let mut rest = Bytes(content);
    let known =
        crc32fast::hash(content) == u32::from_le_bytes(*checksum) && rest.take()? == *MAGIC && rest.u32()? == VERSION;
    known.then_some(rest.0)
}

fn push_count(bytes: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("a segment has fewer records than 4 billion");
    bytes.extend_from_slice(&count.to_le_bytes());
}

fn push_range(bytes: &mut Vec<u8>, (first, last): (u64, u64)) {
    bytes.extend_from_slice(&first.to_le_bytes());
    bytes.extend_from_slice(&last.to_le_bytes());
}

/// Bytes read from the front; `None` when there are too few.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// An id, or the zeros that stand for none.
    fn id(&mut self) -> Option<Option<Id>> {
        self.take().map(|bytes| Id::from_bytes(bytes).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Timestamp;

    fn header(salt: u32) -> SegmentHeader {
        SegmentHeader { salt, epoch: 2, number: 3, first_sequence: 1, made_micros: 5 }
    }

    fn sample() -> Digest {
        let id = |n| Id::from_parts(Timestamp::from_micros(1_764_292_425_000_000 + n), n);
        let known = |n| Known { id: id(n), content: [n as u8; 8], sequence: n, reply: None };
        Digest {
            last_sequence: 9,
            largest_id: Some(id(9)),
            records: 8,
            gaps: vec![(640, 700)],
            unfinished: Some((8, 9)),
            head: Some((1, 2, true)),
            torn: true,
            aborted: vec![(2, 3)],
            remains: vec![(5, 5)],
            keys: vec![([1; 16], known(4)), ([2; 16], known(5))],
            replies: vec![([2; 16], 6, id(6)), ([3; 16], 7, id(7))],
            sessions: BTreeSet::from([3, 9, 1 << 63]),
            erasures: vec![Erasure { sequence: 8, id: id(8), session: SessionId::new("a:b").unwrap() }],
        }
    }

    #[test]
    fn a_digest_reads_back() {
        for digest in [Digest::default(), sample()] {
            assert_eq!(Digest::decode(&digest.encode(&header(7)), &header(7)), Some(digest));
        }
    }

    #[test]
    fn a_damaged_cut_or_foreign_digest_is_none() {
        let bytes = sample().encode(&header(7));
        assert_eq!(Digest::decode(&bytes, &header(8)), None);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Digest::decode(&damaged, &header(7)), None, "byte {at}");
            assert_eq!(Digest::decode(&bytes[..at], &header(7)), None, "cut at {at}");
        }
    }
}
