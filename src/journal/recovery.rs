//! What a start does before the journal takes its first record: lock it, read what is there, and repair its end.
//!
//! 1. The folder is locked: a second process is turned away, by the name of the lock.
//! 2. Every segment's header is read. A newer format ends the start by name; a damaged header is rebuilt (inventory.rs).
//! 3. The last segment is walked, the others' digests are read: for the last sequence, the largest id, the voided ranges
//!    and the keys. Damage in the middle is stepped over and counted, and a copy of it is set aside (quarantine.rs).
//! 4. Behind the last intact frame of the last segment everything is zeroed, after a copy was set aside.
//! 5. What is left of requests that are not whole, because a power cut tore the batch they were in, is voided by an abort
//!    record: they were never acknowledged. Records that the checkpoint has passed were acknowledged, and stay,
//!    whatever is missing next to them.
//! 6. What is there is synced: a record that survived only in the system's memory must not be built upon.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{self, Disk, DiskFile};
use crate::layout;
use crate::message::Id;

use super::checkpoint::{Checkpoint, StoredCheckpoint};
use super::digest::{Digest, SegmentEnd};
use super::erasures::{Erasure, ErasureIndex};
use super::error::{OpenError, at};
use super::frame::{RequestPart, SEGMENT_HEADER_BYTES, SegmentHeader, stamp};
use super::inventory::{self, Inventory, Start};
use super::keys::Keys;
use super::lock::Lock;
use super::record::{Entry, EntryView, Record};
use super::requests::{Requests, is_in};
use super::scan::Scanned;
use super::segment::{self, Segment, SegmentInfo};
use super::survey::{JournalFault, RecoveryWatch};
use super::writer::Frames;
use super::{quarantine, scan};

/// The greatest size of a journal's very first segment, in bytes: a new server zeroes little and starts at once.
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;

/// Sequences skipped when the last segment, and with it the sequences given there, is set aside.
const SEQUENCE_LEAP: u64 = 1 << 24;

/// The journal's state after recovery.
pub struct Recovered<D: Disk> {
    /// Keeps the folder locked while the journal is open. `None` for a look, whose caller holds the lock.
    pub lock: Option<Lock>,
    /// The journal's epoch.
    pub epoch: u64,
    /// The checkpoint found, or "from the start".
    pub checkpoint: Checkpoint,
    /// All segments, oldest first.
    pub segments: Vec<SegmentInfo>,
    /// The last of them, open for writing.
    pub last: Segment<D::File>,
    /// The sequence of the next record.
    pub next_sequence: u64,
    /// The number of the next segment.
    pub next_number: u64,
    /// The sequence of the last imported message; 0 without one.
    pub last_import: u64,
    /// The largest id given so far.
    pub largest_id: Option<Id>,
    /// Voided ranges of sequences.
    pub voids: Vec<(u64, u64)>,
    /// The idempotency keys of the kept messages.
    pub keys: Keys,
    /// The erasures that are remembered.
    pub erasures: ErasureIndex,
}

/// Recovers the journal; see the head of this file. A watch gets every fault, also those that would end a start
/// (survey.rs).
pub fn recover<D: Disk>(start: &Start<'_, D>, watch: &mut RecoveryWatch<'_>) -> Result<Recovered<D>, OpenError> {
    let folder = &start.config.path;
    disk::make_folder(start.disk, folder).map_err(at(folder))?;
    let lock = if watch.is_there() { None } else { Some(Lock::take(folder)?) };
    let inventory = inventory::take(start, watch)?;
    let segments = &inventory.segments;
    let epoch = segments.first().map_or_else(segment::random_u64, |s| s.header.epoch);
    watch.survey.files.segments = segments.len();
    watch.survey.first_sequence = segments.first().map_or(0, |info| info.header.first_sequence);
    watch.survey.checkpoint = StoredCheckpoint::of(start.disk, folder, epoch);
    let checkpoint = watch.survey.checkpoint.checkpoint();
    let mut recovery = Recovery::new(start, &checkpoint);
    let end = recovery.walk(segments, watch)?;
    let passed = recovery.passed;
    if passed > watch.survey.last_sequence {
        watch.tell(&layout::checkpoint(folder), JournalFault::EndsBefore(passed));
    }
    let last = recovery.last_segment(&inventory, end, epoch, watch)?;
    let mut recovered = Recovered {
        next_number: last.header.number + 1,
        last,
        lock,
        epoch,
        checkpoint,
        segments: inventory.segments,
        next_sequence: recovery.last_sequence + 1,
        last_import: recovery.last_import,
        largest_id: recovery.largest_id,
        voids: recovery.voids,
        keys: recovery.keys,
        erasures: ErasureIndex::default(),
    };
    recovered.list_last();
    watch.survey.torn = recovered.void_torn(start, recovery.requests.end(), passed).map_err(at(folder))?;
    recovered.leave_out_voided(recovery.erasures);
    recovered.last.file.sync().map_err(at(folder))?;
    start.disk.sync_dir(folder).map_err(at(folder))?;
    Ok(recovered)
}

impl<D: Disk> Recovered<D> {
    fn list_last(&mut self) {
        let header = self.last.header;
        if self.segments.last().is_none_or(|s| s.header.number != header.number) {
            self.segments.push(SegmentInfo { header, file_bytes: self.last.file_bytes });
        }
    }

    /// Voids requests that are not whole, unless the checkpoint has passed them; returns how many records.
    fn void_torn(&mut self, start: &Start<'_, D>, torn: Vec<(u64, u64)>, passed: u64) -> io::Result<u64> {
        let mut records = 0;
        for (first, last) in torn.into_iter().filter(|(first, _)| *first > passed) {
            if !is_in(&self.voids, first) {
                self.void(start, first, last)?;
                records += last - first + 1;
            }
        }
        Ok(records)
    }

    /// Appends an abort record for the range, in a new segment if it must.
    fn void(&mut self, start: &Start<'_, D>, first: u64, last: u64) -> io::Result<()> {
        let mut frames = Frames::default();
        let abort =
            Record { sequence: self.next_sequence, entry: Entry::Abort { first, last }, origin: None, request: None };
        frames.push(&abort, RequestPart::default());
        if self.last.room() < frames.bytes.len() as u64 {
            let header = segment::new_header(start.clock, self.epoch, self.next_number, self.next_sequence);
            self.last.file.sync()?;
            self.last = start.make(header, start.config.segment_bytes)?;
            self.next_number += 1;
            self.list_last();
        }
        stamp(&mut frames.bytes, self.last.header.salt);
        self.last.file.write_all_at(&frames.bytes, self.last.offset)?;
        self.last.offset += frames.bytes.len() as u64;
        self.next_sequence += 1;
        self.voids.push((first, last));
        Ok(())
    }

    /// Takes the erasures that count, and forgets the keys of voided messages.
    fn leave_out_voided(&mut self, erasures: Vec<Erasure>) {
        let voids = &self.voids;
        erasures
            .into_iter()
            .filter(|erasure| !is_in(voids, erasure.sequence))
            .for_each(|erasure| self.erasures.note(erasure));
        self.keys.forget_voided(|sequence| is_in(voids, sequence));
    }
}

impl<D: Disk> Start<'_, D> {
    /// Makes a segment, durably.
    fn make(&self, header: SegmentHeader, file_bytes: u64) -> io::Result<Segment<D::File>> {
        let folder = &self.config.path;
        segment::prepare(self.disk, folder, header, file_bytes)?.name(self.disk, folder, true)
    }
}

/// What the segments walked so far have told.
struct Recovery<'a, D: Disk> {
    start: &'a Start<'a, D>,
    folder: &'a Path,
    /// The sequence that the checkpoint has passed.
    passed: u64,
    last_sequence: u64,
    last_import: u64,
    largest_id: Option<Id>,
    voids: Vec<(u64, u64)>,
    requests: Requests,
    erasures: Vec<Erasure>,
    keys: Keys,
}

impl<'a, D: Disk> Recovery<'a, D> {
    fn new(start: &'a Start<'a, D>, checkpoint: &Checkpoint) -> Self {
        let passed = checkpoint.drained.max(checkpoint.transcribed);
        Self {
            start,
            folder: &start.config.path,
            passed,
            last_sequence: passed,
            last_import: 0,
            largest_id: checkpoint.largest_id,
            voids: Vec::new(),
            requests: Requests::default(),
            erasures: Vec::new(),
            keys: Keys::new(start.config.max_keys),
        }
    }

    /// Reads every segment, oldest first; returns where the last one's frames end.
    fn walk(&mut self, segments: &[SegmentInfo], watch: &mut RecoveryWatch<'_>) -> Result<SegmentEnd, OpenError> {
        let mut end = SegmentEnd { offset: SEGMENT_HEADER_BYTES as u64, dirty: false };
        for (index, info) in segments.iter().enumerate() {
            let first_sequence = info.header.first_sequence;
            self.last_sequence = self.last_sequence.max(first_sequence.saturating_sub(1));
            let bound = segment::bound(segments, info.header.number);
            let is_sealed = index + 1 < segments.len();
            let read = self.read(info, bound, is_sealed, watch);
            let Some((digest, found)) = watch.pass(read)? else { continue };
            if !is_sealed {
                end = found;
            }
            self.keep_gaps(info, &digest);
            if digest.records > 0 {
                self.requests.follow(first_sequence, &digest.requests, bound, self.passed, index == 0);
            }
            watch.survey.findings.records += digest.records;
            watch.survey.findings.gaps += digest.gaps.len() as u64;
            self.take_in(digest, bound);
        }
        Ok(end)
    }

    /// Reads a segment's digest, or walks the segment if it has no digest, is open or is being surveyed. Returns where
    /// the walk ended.
    fn read(
        &self,
        info: &SegmentInfo,
        bound: u64,
        is_sealed: bool,
        watch: &mut RecoveryWatch<'_>,
    ) -> Result<(Digest, SegmentEnd), OpenError> {
        let (disk, path) = (self.start.disk, segment::path(self.folder, info.header.number));
        if is_sealed
            && !watch.is_there()
            && let Some(digest) = Digest::stored(disk, self.folder, &info.header)
        {
            return Ok((digest, SegmentEnd { offset: info.file_bytes, dirty: false }));
        }
        watch.begin(&path, info, bound);
        let scanner = scan::open(disk, self.folder, info).map_err(at(&path))?;
        let mut see = |found: &Scanned, payload: &[u8], entry: Option<&EntryView<'_>>| watch.see(found, payload, entry);
        let (digest, end) = Digest::of_segment(scanner, &path, &mut see).map_err(at(&path))?;
        watch.walked(disk, self.folder, info, (&digest, end, is_sealed))?;
        Ok((digest, end))
    }

    /// Copies damage between intact frames to the quarantine: the segment will be dropped one day, and some of the
    /// bytes may be readable.
    fn keep_gaps(&self, info: &SegmentInfo, digest: &Digest) {
        let (disk, path) = (self.start.disk, segment::path(self.folder, info.header.number));
        for &(from, to) in &digest.gaps {
            let name = format!("gap-{:016}-{from}", info.header.number);
            let kept = disk.open_read(&path);
            match kept.and_then(|file| quarantine::keep_range(disk, self.folder, &name, &file, from..to)) {
                Ok((aside, _)) => {
                    log::warn!("{}: damage from byte {from} to {to}, kept as {}", path.display(), aside.display());
                }
                // Nothing is lost yet: the bytes are still in the segment.
                Err(e) => log::warn!("{}: damage from byte {from} to {to} cannot be kept: {e}", path.display()),
            }
        }
    }

    fn take_in(&mut self, digest: Digest, bound: u64) {
        digest.tell_keys(&mut self.keys, bound);
        self.last_sequence = self.last_sequence.max(digest.last_sequence);
        self.last_import = self.last_import.max(digest.last_import);
        self.largest_id = self.largest_id.max(digest.largest_id);
        self.voids.extend(digest.aborted);
        self.erasures.extend(digest.erasures.into_iter().filter(|erasure| erasure.sequence < bound));
    }

    /// The segment to go on in: the last one after its tail was repaired, or a new one.
    fn last_segment(
        &mut self,
        inventory: &Inventory,
        end: SegmentEnd,
        epoch: u64,
        watch: &mut RecoveryWatch<'_>,
    ) -> Result<Segment<D::File>, OpenError> {
        let Inventory { segments, last_number, lost_last } = inventory;
        let last = segments.last().filter(|info| info.header.number == *last_number);
        let mended = last.map(|info| self.mended(info, end, watch)).transpose();
        if let Some(Some(segment)) = watch.pass(mended)? {
            return Ok(segment);
        }
        if *lost_last {
            self.last_sequence += SEQUENCE_LEAP;
        }
        let header = segment::new_header(self.start.clock, epoch, last_number + 1, self.last_sequence + 1);
        let file_bytes = if segments.is_empty() { FIRST_SEGMENT_BYTES } else { u64::MAX };
        self.start.make(header, file_bytes.min(self.start.config.segment_bytes)).map_err(at(self.folder))
    }

    /// Opens a segment whose tail was repaired.
    fn mended(
        &self,
        info: &SegmentInfo,
        end: SegmentEnd,
        watch: &mut RecoveryWatch<'_>,
    ) -> Result<Segment<D::File>, OpenError> {
        let path = segment::path(self.folder, info.header.number);
        let file = Arc::new(self.start.disk.open(&path).map_err(at(&path))?);
        if end.dirty {
            watch.survey.findings.tail_bytes = self.cut_tail(&*file, info, end.offset)?;
        }
        Ok(Segment { header: info.header, file, file_bytes: info.file_bytes, offset: end.offset })
    }

    /// Copies the bytes after `end` to the quarantine and zeroes them; returns how many.
    fn cut_tail(&self, file: &D::File, info: &SegmentInfo, end: u64) -> Result<u64, OpenError> {
        let path = segment::path(self.folder, info.header.number);
        let name = format!("tail-{:016}-{end}", info.header.number);
        let keep = || quarantine::keep_range(self.start.disk, self.folder, &name, file, end..info.file_bytes);
        // On a full disk the spare is given up for the copy.
        let kept = keep().or_else(|_| segment::drop_spare(self.start.disk, self.folder).and_then(|()| keep()));
        let (aside, bytes) = kept.map_err(at(&path))?;
        segment::zero(file, end, end + bytes).map_err(at(&path))?;
        log::warn!("{bytes} bytes behind the journal's last record were set aside: {}", aside.display());
        Ok(bytes)
    }
}
