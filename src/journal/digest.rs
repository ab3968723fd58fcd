//! What a start must know of a segment without walking it: its side file, derived, checksummed, and never missed.
//!
//! A sealed segment's digest is written beside it in the background. A start reads the digests and walks the open segment
//! only; a digest that is missing, damaged or of another segment is made anew by walking.
//!
//! Its bytes are told in `digest/bytes.rs`.

mod bytes;

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::Path;

use crate::disk::{self, Disk, DiskFile};
use crate::message::{Id, SessionId};

use super::erasures::Erasure;
use super::frame::{FrameHeader, Kind, SegmentHeader};
use super::keys::{Keys, Known};
use super::record::Entry;
use super::requests::Fragments;
use super::scan::{Scanned, Scanner};
use super::segment::SegmentInfo;
use super::{scan, segment};

pub use crate::layout::digest as path;

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
    /// What it has of requests that are not whole within it.
    pub requests: Fragments,
    /// Something that is no frame stands behind the last one.
    pub torn: bool,
    /// Aborted ranges.
    pub aborted: Vec<(u64, u64)>,
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

/// Shown what a walk meets; of a frame its payload, and what that holds.
pub type See<'a> = &'a mut dyn FnMut(&Scanned, &[u8], Option<&Entry>);

impl Digest {
    /// Walks a segment; what it meets is shown to `see`.
    ///
    /// # Errors
    /// The segment could not be read. `see` may have had a part of it; nothing was changed.
    pub fn of_segment<F: DiskFile>(mut scanner: Scanner<F>, name: &Path, see: See<'_>) -> io::Result<(Self, End)> {
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
                    // A power cut has torn it, or it was whole once, and the medium has damaged it.
                    beside_damage = !scanner.could_be_torn(range.clone())?;
                }
                Scanned::End { dirty } => {
                    let (offset, dirty) = (scanner.offset(), *dirty);
                    digest.torn = dirty;
                    let damaged = if dirty { digest.damaged_end(&mut scanner)? } else { None };
                    if let Some(end) = damaged {
                        see(&Scanned::Gap(offset..end), &[], None);
                        return Ok((digest, End { offset: end, dirty: false }));
                    }
                    return Ok((digest, End { offset, dirty }));
                }
            }
        }
    }

    /// Takes an intact frame in, and returns what it holds.
    fn take(&mut self, header: &FrameHeader, payload: &[u8], beside_damage: bool) -> Option<Entry> {
        self.records += 1;
        self.last_sequence = self.last_sequence.max(header.sequence);
        if header.kind != Kind::Abort {
            let is_first = self.records == 1;
            self.requests.note(header.sequence, header.group, is_first, beside_damage);
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

    /// When a damaged frame stands behind the segment's last one and nothing else, it is a gap like any other, and the
    /// request it ended is whole: the offset behind it. It stays where it is, so that the next start knows it too.
    fn damaged_end<F: DiskFile>(&mut self, scanner: &mut Scanner<F>) -> io::Result<Option<u64>> {
        let end = scanner.damaged_end()?;
        if let Some(end) = end {
            self.gaps.push((scanner.offset(), end));
            self.requests.unfinished = None;
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

    /// The header of a segment as its digest has it.
    pub fn header_of<D: Disk>(disk: &D, folder: &Path, number: u64) -> Option<SegmentHeader> {
        let stored = disk::read(disk, &path(folder, number)).ok()?;
        Self::header_in(&stored).map(|(header, _)| header).filter(|header| header.number == number)
    }

    /// Writes the digest of a sealed segment, unless a good one is there.
    ///
    /// # Errors
    /// The segment could not be synced or read, or its digest not written. Until a retry succeeds, a start walks the
    /// segment.
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
    /// The segment could not be read, or its digest not written. The old digest may still stand; a retry is safe.
    pub fn renew<D: Disk>(disk: &D, folder: &Path, info: &SegmentInfo) -> io::Result<()> {
        let name = segment::path(folder, info.header.number);
        let (digest, _) = Self::of_segment(scan::open(disk, folder, info)?, &name, &mut |_, _, _| ())?;
        disk::replace(disk, &path(folder, info.header.number), &digest.encode(&info.header))
    }
}

/// The hash of a session id, FNV-1a: the same for ever, and quick. Sessions that share one cost a look, no more.
pub fn hash_of(session: &SessionId) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    session.as_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step)
}
