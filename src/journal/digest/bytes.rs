//! The bytes of a digest. Reading trusts none of them.
//!
//! Numbers are little-endian. Format version 3, or 4 where messages were imported: a program that knows no imports then
//! walks the segment, and names what it does not know. One of another version is made again:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `CKDIGEST` |
//! | 8 | 4 | format version |
//! | 12 | 64 | the segment's header (frame.rs), in case it is damaged there |
//! | 76 | 8 | last sequence, or 0 |
//! | 84 | 16 | largest id given, or zeros |
//! | 100 | 8 | intact records |
//! | 108 | 8, 8 | first and last record of the request that is not ended when the segment ends, or zeros |
//! | 124 | 8, 8, 1 | first and last record of the request that was begun before the segment, and 1 if it ends; or zeros |
//! | 141 | 1 | 1 if the last frame is followed by bytes that are no frame |
//! | 142 | 4 | how many stretches of damage follow, of 16 bytes: from, to, as offsets in the segment |
//! | … | 4 | how many aborted ranges follow, of 16 bytes: first, last |
//! | … | 4 | how many remains of requests that are not whole follow, of 16 bytes: first, last |
//! | … | 4 | how many keys follow, of 48 bytes: hash (16), content (8), sequence (8), id (16) |
//! | … | 4 | how many replies to messages with a key follow, of 40 bytes: key's hash (16), sequence (8), id (16) |
//! | … | 4 | how many sessions have messages in it that are not scrubbed; of each 8 bytes, FNV-1a of its id, rising |
//! | … | 4 | how many erasures follow, of 25 bytes and more: sequence (8), id (16), length of the session id (1), session id |
//! | … | 8 | in version 4: the last sequence of an imported message |
//! | … | 4 | CRC-32 of everything before |
//!
//! Bytes of another version, with a wrong checksum or of another segment read as no digest.

use crate::journal::codec::{Encoded, sealed, vouched_for};
use crate::journal::erasures::Erasure;
use crate::journal::frame::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::journal::keys::KnownKey;
use crate::journal::requests::Fragments;

use super::Digest;

const LETTERS: &[u8; 8] = b"CKDIGEST";
const VERSION: u32 = 3;
const VERSION_WITH_IMPORTS: u32 = 4;

impl Digest {
    /// The header of the digest's segment, and the bytes after it.
    pub(super) fn header_in(bytes: &[u8]) -> Option<(SegmentHeader, &[u8])> {
        let is_known = |version: u32| version == VERSION || version == VERSION_WITH_IMPORTS;
        let (_, content) = vouched_for(LETTERS, bytes).filter(|(version, _)| is_known(*version))?;
        let (header, rest) = content.split_at_checked(SEGMENT_HEADER_BYTES)?;
        Some((SegmentHeader::decode(header).ok()?, rest))
    }

    pub(in crate::journal) fn encode(&self, header: &SegmentHeader) -> Vec<u8> {
        let Fragments { unfinished, head, remains } = &self.requests;
        let known =
            |(hash, KnownKey { id, content, sequence, .. }): &([u8; 16], KnownKey)| (*hash, *content, *sequence, *id);
        let erasure = |Erasure { sequence, id, session }: &Erasure| (*sequence, *id, session.clone());
        let version = if self.last_import == 0 { VERSION } else { VERSION_WITH_IMPORTS };
        sealed(LETTERS, version, 0, |to| {
            to.extend(header.encode());
            (self.last_sequence, self.largest_id, self.records).put(to);
            (unfinished.unwrap_or_default(), head.unwrap_or_default(), self.torn).put(to);
            [&self.gaps, &self.aborted, remains].into_iter().for_each(|ranges| ranges.put(to));
            self.keys.iter().map(known).collect::<Vec<_>>().put(to);
            self.replies.put(to);
            self.sessions.put(to);
            self.erasures.iter().map(erasure).collect::<Vec<_>>().put(to);
            if self.last_import > 0 {
                self.last_import.put(to);
            }
        })
    }

    pub(in crate::journal) fn decode(bytes: &[u8], header: &SegmentHeader) -> Option<Self> {
        let (_, mut rest) = Self::header_in(bytes).filter(|(of, _)| of == header)?;
        let known = |(hash, content, sequence, id)| (hash, KnownKey { id, content, sequence, reply: None });
        let erasure = |(sequence, id, session)| Erasure { sequence, id, session };
        let from = &mut rest;
        let mut digest = Self::default();
        (digest.last_sequence, digest.largest_id, digest.records) = Encoded::take(from)?;
        digest.requests.unfinished = Some(Encoded::take(from)?).filter(|range| *range != (0, 0));
        digest.requests.head = Some(Encoded::take(from)?).filter(|head| *head != (0, 0, false));
        (digest.torn, digest.gaps, digest.aborted, digest.requests.remains) = Encoded::take(from)?;
        digest.keys = Vec::take(from)?.into_iter().map(known).collect();
        (digest.replies, digest.sessions) = Encoded::take(from)?;
        digest.erasures = Vec::take(from)?.into_iter().map(erasure).collect();
        if !from.is_empty() {
            digest.last_import = Encoded::take(from)?;
        }
        rest.is_empty().then_some(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Id, SessionId, Timestamp};

    fn header(salt: u32) -> SegmentHeader {
        SegmentHeader { salt, epoch: 2, number: 3, first_sequence: 1, made_micros: 5 }
    }

    fn sample() -> Digest {
        let id = |n| Id::from_parts(Timestamp::from_micros(1_764_292_425_000_000 + n), n);
        let known = |n| KnownKey { id: id(n), content: [n as u8; 8], sequence: n, reply: None };
        Digest {
            last_sequence: 9,
            last_import: 0,
            largest_id: Some(id(9)),
            records: 8,
            gaps: vec![(640, 700)],
            requests: Fragments { unfinished: Some((8, 9)), head: Some((1, 2, true)), remains: vec![(5, 5)] },
            torn: true,
            aborted: vec![(2, 3)],
            keys: vec![([1; 16], known(4)), ([2; 16], known(5))],
            replies: vec![([2; 16], 6, id(6)), ([3; 16], 7, id(7))],
            sessions: vec![3, 9, 1 << 63],
            erasures: vec![Erasure { sequence: 8, id: id(8), session: SessionId::new("a:b").unwrap() }],
        }
    }

    #[test]
    fn a_digest_reads_back() {
        for digest in [Digest::default(), sample(), Digest { last_import: 7, ..sample() }] {
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
