//! What a start must know of a segment without walking it: its side file, derived, checksummed, and never missed.
//!
//! A sealed segment's digest is written beside it in the background. A start reads the digests and walks the open segment
//! only; a digest that is missing, damaged or of another segment is made anew by walking.
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

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::disk::{self, Disk, DiskFile};
use crate::message::{Id, SessionId};

use super::erasures::Erasure;
use super::frame::{FrameHeader, Group, Kind, SegmentHeader};
use super::keys::{Keys, Known};
use super::record::Entry;
use super::scan::{Found, Scanner};
use super::segment::SegmentInfo;
use super::{reader, segment};

const MAGIC: &[u8; 8] = b"CKDIGEST";
const VERSION: u32 = 3;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// The last sequence in it.
    pub last_sequence: u64,
    /// The largest id in it.
    pub largest_id: Option<Id>,
    /// Intact records.
    pub records: u64,
    /// Stretches of damage between intact records, as offsets in the segment.
    pub gaps: Vec<(u64, u64)>,
    /// The first and last record of the request that is not ended when the segment ends.
    pub unfinished: Option<(u64, u64)>,
    /// The first and last record of the request that was begun before the segment, and whether it ends here.
    pub head: Option<(u64, u64, bool)>,
    /// Something that is no frame stands behind the last one.
    pub torn: bool,
    /// Aborted ranges.
    pub aborted: Vec<(u64, u64)>,
    /// What is left of requests that are not whole, each a run of records.
    pub remains: Vec<(u64, u64)>,
    /// Keys of messages in it, in sequence.
    pub keys: Vec<([u8; 16], Known)>,
    /// Replies in it to messages with a key, wherever those stand: the key's hash, the reply's sequence and its id.
    pub replies: Vec<([u8; 16], u64, Id)>,
    /// Hashes of the sessions that have messages in it, those that do not count too: where an erased text may stand.
    pub sessions: BTreeSet<u64>,
    /// Erasures in it, in sequence.
    pub erasures: Vec<Erasure>,
}

/// Where the frames of a walked segment end, and whether anything but zeros stands behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The offset behind the last intact frame.
    pub offset: u64,
    /// Something stands behind it.
    pub dirty: bool,
}

/// What stands before a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Before {
    /// The frame before it, or what a power cut has torn there.
    #[default]
    Nothing,
    /// What was whole once, and the medium has damaged.
    Damage,
}

impl Before {
    /// What a gap is.
    pub fn of_gap<F: DiskFile>(scanner: &mut Scanner<F>, gap: Range<u64>) -> io::Result<Self> {
        Ok(if scanner.could_be_torn(gap)? { Self::Nothing } else { Self::Damage })
    }
}

/// The path of a segment's digest.
pub fn path(folder: &Path, number: u64) -> PathBuf {
    segment::path(folder, number).with_extension("digest")
}

impl Digest {
    /// Walks a segment.
    ///
    /// # Errors
    /// The disk's.
    pub fn of_segment<F: DiskFile>(mut scanner: Scanner<F>, name: &Path) -> io::Result<(Self, End)> {
        let (mut digest, mut before) = (Self::default(), Before::Nothing);
        loop {
            match scanner.next()? {
                Found::Frame(header) => {
                    digest.take(&header, scanner.payload(), std::mem::take(&mut before));
                }
                Found::Gap(range) => {
                    digest.gaps.push((range.start, range.end));
                    log::error!("{}: bytes {} to {} are damaged", name.display(), range.start, range.end);
                    before = Before::of_gap(&mut scanner, range)?;
                }
                Found::End { dirty } => {
                    digest.torn = dirty;
                    let end = End { offset: scanner.offset(), dirty };
                    let damaged = if dirty { digest.damaged_end(&mut scanner)? } else { None };
                    return Ok((digest, damaged.map_or(end, |offset| End { offset, dirty: false })));
                }
            }
        }
    }

    /// Takes an intact frame in, and returns what it holds.
    pub(super) fn take(&mut self, header: &FrameHeader, payload: &[u8], before: Before) -> Option<Entry> {
        self.records += 1;
        self.last_sequence = self.last_sequence.max(header.sequence);
        if header.kind != Kind::Abort {
            self.note_group(header.sequence, header.group, before == Before::Damage);
        }
        let entry = Entry::decode(header.kind, payload);
        if let Some(entry) = &entry {
            self.note(header.sequence, entry);
        }
        entry
    }

    /// The digest that stands beside a segment; `None` when there is none that can be read and belongs to it.
    pub(super) fn stored<D: Disk>(disk: &D, folder: &Path, header: &SegmentHeader) -> Option<Self> {
        disk::read(disk, &path(folder, header.number)).ok().and_then(|bytes| Self::decode(&bytes, header))
    }

    /// Follows the requests over their records: a request is whole when its records follow each other from one that
    /// continues nothing to one that nothing continues.
    ///
    /// Where the medium has damaged a record its neighbours are no remains of a torn write: they were acknowledged.
    fn note_group(&mut self, sequence: u64, group: Group, beside_damage: bool) {
        if let Some((first, last)) = self.unfinished.take() {
            if group.continues && sequence == last + 1 {
                self.unfinished = group.more.then_some((first, sequence));
                return;
            }
            if !beside_damage {
                self.remains.push((first, last));
            }
        }
        if beside_damage && group.continues {
            self.unfinished = group.more.then_some((sequence, sequence));
            return;
        }
        match (group.continues, &mut self.head) {
            (false, _) => self.unfinished = group.more.then_some((sequence, sequence)),
            // The segment's first records may continue a request of the segment before.
            (true, Some((_, last, false))) if sequence == *last + 1 => {
                *last = sequence;
                self.head = self.head.map(|(first, last, _)| (first, last, !group.more));
            }
            (true, None) if self.records == 1 => self.head = Some((sequence, sequence, !group.more)),
            (true, _) => self.remains.push((sequence, sequence)),
        }
    }

    /// When a damaged frame stands behind the segment's last one and nothing else, it is a gap like any other, and the
    /// request it ended is whole: the offset behind it. It stays where it is, so that the next start knows it too.
    pub(super) fn damaged_end<F: DiskFile>(&mut self, scanner: &mut Scanner<F>) -> io::Result<Option<u64>> {
        let end = scanner.damaged_end()?;
        if let Some(end) = end {
            self.gaps.push((scanner.offset(), end));
            self.unfinished = None;
        }
        Ok(end)
    }

    fn note(&mut self, sequence: u64, entry: &Entry) {
        self.largest_id = self.largest_id.max(entry.id());
        if let Entry::Abort { first, last } = entry {
            self.aborted.push((*first, *last));
        }
        if let Entry::Erasure { id, session } = entry {
            self.erasures.push(Erasure { sequence, id: *id, session: session.clone() });
        }
        if let Some(message) = entry.message() {
            self.sessions.insert(hash_of(message.session()));
        }
        let links = entry.links();
        let (Some(id), Some(key)) = (entry.id(), links.key) else { return };
        if links.reply_to.is_some() {
            self.replies.push((key.hash, sequence, id));
        } else {
            self.keys.push((key.hash, Known { id, content: key.content, sequence, reply: None }));
        }
    }

    /// Whether a text of one of those sessions may stand in the segment: in a frame, or in bytes that are none.
    pub fn may_hold(&self, sessions: &HashSet<u64>) -> bool {
        self.torn || !self.gaps.is_empty() || self.sessions.iter().any(|session| sessions.contains(session))
    }

    /// Adds what it knows of keys, as far as the segment counts.
    pub fn tell_keys(&self, keys: &mut Keys, bound: u64) {
        for (hash, known) in self.keys.iter().filter(|(_, known)| known.sequence < bound) {
            keys.insert(*hash, *known);
        }
        for (hash, sequence, id) in self.replies.iter().filter(|(_, sequence, _)| *sequence < bound) {
            keys.note_reply(hash, *sequence, *id);
        }
    }

    pub(super) fn encode(&self, header: &SegmentHeader) -> Vec<u8> {
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

    pub(super) fn decode(bytes: &[u8], header: &SegmentHeader) -> Option<Self> {
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

    /// Reads a sealed segment's digest, or makes it anew by walking the segment.
    ///
    /// # Errors
    /// The disk's, while walking.
    pub fn load<D: Disk>(disk: &D, folder: &Path, info: &SegmentInfo) -> io::Result<Self> {
        if let Some(digest) = Self::stored(disk, folder, &info.header) {
            return Ok(digest);
        }
        let name = segment::path(folder, info.header.number);
        Self::of_segment(reader::open(disk, folder, info)?, &name).map(|(digest, _)| digest)
    }

    /// The header of a segment as its digest has it.
    pub fn header_of<D: Disk>(disk: &D, folder: &Path, number: u64) -> Option<SegmentHeader> {
        let stored = disk::read(disk, &path(folder, number)).ok()?;
        SegmentHeader::decode(vouched_for(&stored)?).ok().filter(|header| header.number == number)
    }

    /// Writes the digest of a sealed segment, unless a good one is there.
    ///
    /// # Errors
    /// The disk's; the next start then walks the segment.
    pub fn ensure<D: Disk>(disk: &D, folder: &Path, info: &SegmentInfo) -> io::Result<()> {
        if Self::stored(disk, folder, &info.header).is_some() {
            return Ok(());
        }
        // Under `never` nothing has synced the segment yet, and a digest must not outlive what it speaks of.
        disk.open(&segment::path(folder, info.header.number))?.sync()?;
        Self::renew(disk, folder, info)
    }

    /// Walks a sealed segment and writes its digest anew, whatever stands there.
    ///
    /// # Errors
    /// The disk's.
    pub fn renew<D: Disk>(disk: &D, folder: &Path, info: &SegmentInfo) -> io::Result<()> {
        let name = segment::path(folder, info.header.number);
        let (digest, _) = Self::of_segment(reader::open(disk, folder, info)?, &name)?;
        disk::replace(disk, &path(folder, info.header.number), &digest.encode(&info.header))
    }
}

/// The hash of a session id, FNV-1a: the same for ever, and quick. Sessions that share one cost a look, no more.
pub fn hash_of(session: &SessionId) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    session.as_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step)
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
