//! What a start must know of a segment without walking it, in a file next to the segment. The file is derived and
//! checksummed, and the journal works without it.
//!
//! The janitor writes the digest of a sealed segment in the background. A start reads the digests and walks only the
//! open segment; a digest that is missing, damaged or of another segment is made again by a walk.
//!
//! `digest/bytes.rs` describes its bytes.

mod bytes;

use std::collections::HashSet;
use std::io;
use std::path::Path;

use crate::disk::{self, Disk, DiskFile};
use crate::message::Id;

use super::erasures::Erasure;
use super::frame::{FrameHeader, RecordKind, SegmentHeader};
use super::keys::{Keys, KnownKey};
use super::record::{Entry, EntryView};
use super::requests::Fragments;
use super::scan::{Scanned, Scanner};
use super::segment::SegmentInfo;
use super::{scan, segment};

pub use crate::layout::digest as path;

/// What a digest tells of its segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// The last sequence in it.
    pub last_sequence: u64,
    /// The sequence of the last imported message in it; 0 without one.
    pub last_import: u64,
    /// The largest id given in it.
    pub largest_id: Option<Id>,
    /// Intact records.
    pub records: u64,
    /// Damage between intact records: offsets in the segment, from and to.
    pub gaps: Vec<(u64, u64)>,
    /// Parts of requests that are not whole within the segment.
    pub requests: Fragments,
    /// Bytes that are no frame follow the last record.
    pub torn: bool,
    /// Aborted ranges of sequences, first and last.
    pub aborted: Vec<(u64, u64)>,
    /// Keys of messages in the segment, in sequence.
    pub keys: Vec<([u8; 16], KnownKey)>,
    /// Replies in the segment to messages with a key, wherever those are: the key's hash, the reply's sequence and its
    /// id.
    pub replies: Vec<([u8; 16], u64, Id)>,
    /// Hashes of the sessions with messages in the segment, rising, also messages that do not count: where an erased text
    /// may be. A list, because a start reads those of all segments and asks none of them.
    pub sessions: Vec<u64>,
    /// Erasures in it, in sequence.
    pub erasures: Vec<Erasure>,
}

/// The end of a walked segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEnd {
    /// The offset after the last intact frame.
    pub offset: u64,
    /// Something other than zeros follows it.
    pub dirty: bool,
}

/// Gets everything that a walk finds; for a frame its payload and the decoded entry.
pub type See<'a> = &'a mut dyn FnMut(&Scanned, &[u8], Option<&EntryView<'_>>);

impl Digest {
    /// Walks a segment and shows `see` what it finds.
    ///
    /// # Errors
    /// The segment could not be read. `see` may have had a part of it; nothing was changed.
    pub fn of_segment<F: DiskFile>(
        mut scanner: Scanner<F>,
        name: &Path,
        see: See<'_>,
    ) -> io::Result<(Self, SegmentEnd)> {
        let (mut digest, mut beside_damage) = (Self::default(), false);
        loop {
            let found = scanner.next()?;
            match &found {
                Scanned::Frame(header) => {
                    let entry = digest.take(header, scanner.payload(), std::mem::take(&mut beside_damage));
                    see(&found, scanner.payload(), entry.as_ref());
                }
                Scanned::Gap(range) => {
                    digest.gaps.push((range.start, range.end));
                    log::error!("{}: bytes {} to {} are damaged", name.display(), range.start, range.end);
                    see(&found, &[], None);
                    // Either a power cut tore it, or it was whole and the medium damaged it.
                    beside_damage = !scanner.could_be_torn(range.clone())?;
                }
                Scanned::End { dirty } => {
                    let (offset, dirty) = (scanner.offset(), *dirty);
                    digest.sessions.sort_unstable();
                    digest.sessions.dedup();
                    digest.torn = dirty;
                    let damaged = if dirty { digest.damaged_end(&mut scanner)? } else { None };
                    if let Some(end) = damaged {
                        see(&Scanned::Gap(offset..end), &[], None);
                        return Ok((digest, SegmentEnd { offset: end, dirty: false }));
                    }
                    return Ok((digest, SegmentEnd { offset, dirty }));
                }
            }
        }
    }

    /// Adds an intact frame, and returns its entry.
    fn take<'p>(&mut self, header: &FrameHeader, payload: &'p [u8], beside_damage: bool) -> Option<EntryView<'p>> {
        self.records += 1;
        self.last_sequence = self.last_sequence.max(header.sequence);
        if header.kind != RecordKind::Abort {
            let is_first = self.records == 1;
            self.requests.note(header.sequence, header.group, is_first, beside_damage);
        }
        let entry = EntryView::decode(header.kind, payload);
        if let Some(entry) = &entry {
            self.note(header.sequence, entry);
        }
        entry
    }

    /// The digest of that segment; `None` if it is missing, unreadable or of another segment.
    pub(super) fn stored<D: Disk>(disk: &D, folder: &Path, header: &SegmentHeader) -> Option<Self> {
        disk::read(disk, &path(folder, header.number)).ok().and_then(|bytes| Self::decode(&bytes, header))
    }

    /// If exactly one damaged frame follows the segment's last one, it counts as a gap, and the request that it ended
    /// is whole: returns the offset after it. It stays where it is, so that the next start finds it too.
    fn damaged_end<F: DiskFile>(&mut self, scanner: &mut Scanner<F>) -> io::Result<Option<u64>> {
        let end = scanner.damaged_end()?;
        if let Some(end) = end {
            self.gaps.push((scanner.offset(), end));
            self.requests.unfinished = None;
        }
        Ok(end)
    }

    fn note(&mut self, sequence: u64, entry: &EntryView<'_>) {
        self.largest_id = self.largest_id.max(entry.given_id());
        if entry.is_import() {
            self.last_import = sequence;
        }
        if let EntryView::Other(Entry::Abort { first, last }) = entry {
            self.aborted.push((*first, *last));
        }
        if let EntryView::Other(Entry::Erasure { id, session }) = entry {
            self.erasures.push(Erasure { sequence, id: *id, session: session.clone() });
        }
        if let Some(message) = entry.message() {
            let session = hash_of(message.session());
            if self.sessions.last() != Some(&session) {
                self.sessions.push(session);
            }
        }
        let links = entry.links();
        let (Some(id), Some(key)) = (entry.id(), links.key) else { return };
        if links.reply_to.is_some() {
            self.replies.push((key.hash, sequence, id));
        } else {
            self.keys.push((key.hash, KnownKey { id, content: key.content, sequence, reply: None }));
        }
    }

    /// Whether a text of one of those sessions may be in the segment: in a frame, or among bytes that are none.
    pub fn may_hold(&self, sessions: &HashSet<u64>) -> bool {
        self.torn || !self.gaps.is_empty() || self.sessions.iter().any(|session| sessions.contains(session))
    }

    /// Notes the keys of records before `bound`.
    pub fn tell_keys(&self, keys: &mut Keys, bound: u64) {
        for (hash, known) in self.keys.iter().filter(|(_, known)| known.sequence < bound) {
            keys.insert(*hash, *known);
        }
        for (hash, sequence, id) in self.replies.iter().filter(|(_, sequence, _)| *sequence < bound) {
            keys.note_reply(hash, *sequence, *id);
        }
    }

    /// The segment's header as its digest has it.
    pub fn header_of<D: Disk>(disk: &D, folder: &Path, number: u64) -> Option<SegmentHeader> {
        let stored = disk::read(disk, &path(folder, number)).ok()?;
        Self::header_in(&stored).map(|(header, _)| header).filter(|header| header.number == number)
    }

    /// Writes the digest of a sealed segment, unless a good one exists.
    ///
    /// # Errors
    /// The segment could not be synced or read, or its digest not written. Until a retry succeeds, a start walks the
    /// segment.
    pub fn ensure<D: Disk>(disk: &D, folder: &Path, info: &SegmentInfo) -> io::Result<()> {
        if Self::stored(disk, folder, &info.header).is_some() {
            return Ok(());
        }
        // Under `never` the segment was not synced yet, and a digest must not outlive its segment.
        disk.open(&segment::path(folder, info.header.number))?.sync()?;
        Self::renew(disk, folder, info)
    }

    /// Walks a sealed segment and replaces its digest.
    ///
    /// # Errors
    /// The segment could not be read, or its digest not written. The old digest may still exist; a retry is safe.
    pub fn renew<D: Disk>(disk: &D, folder: &Path, info: &SegmentInfo) -> io::Result<()> {
        let name = segment::path(folder, info.header.number);
        let (digest, _) = Self::of_segment(scan::open(disk, folder, info)?, &name, &mut |_, _, _| ())?;
        disk::replace(disk, &path(folder, info.header.number), &digest.encode(&info.header))
    }
}

/// The hash of a session id, FNV-1a: stable and fast. Two sessions that share one cost an extra look, no more.
pub fn hash_of(session: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    session.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}
