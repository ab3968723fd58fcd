//! What happens before the journal takes its first record: the lock, the look at what is there, and the mending of the end.
//!
//! 1. The folder is locked: a second process is turned away, by the name of the lock.
//! 2. Every segment's header is read. A newer format ends the start by name; a damaged header is rebuilt (inventory.rs).
//! 3. The last segment is walked, the others' digests are read: for the last sequence, the largest id, the voided ranges
//!    and the keys. Damage in the middle is stepped over and counted, and a copy of it is set aside (quarantine.rs).
//! 4. Behind the last intact frame of the last segment everything is zeroed, after a copy was set aside.
//! 5. What is left of requests that are not whole, because a power cut tore the batch they were in, is voided by an abort
//!    record: they were never acknowledged. Records the checkpoint has passed were, and stay, whatever is missing beside them.
//! 6. What is there is synced: a record that survived only in the system's memory must not be built upon.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::config::JournalConfig;
use crate::disk::{self, Disk, DiskFile};
use crate::message::{Clock, Id};

use super::checkpoint::{Checkpoint, Standing};
use super::digest::{Digest, End};
use super::erasures::{Erasure, Erasures};
use super::error::{OpenError, at};
use super::frame::{Group, SEGMENT_HEADER_BYTES};
use super::inventory::{self, Inventory};
use super::keys::Keys;
use super::lock::Lock;
use super::record::{Entry, Record};
use super::requests::Requests;
use super::segment::{self, Segment, SegmentInfo};
use super::survey::Watch;
use super::writer::Frames;
use super::{quarantine, scan};

/// The size of a journal's very first segment, at most: a new server zeroes little and starts at once.
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;

/// Sequences passed over when the last segment is set aside and with it the sequences given there.
const SEQUENCE_LEAP: u64 = 1 << 24;

/// What a start found: counts for the log and the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Intact records that were looked at.
    pub records: u64,
    /// Stretches of damage between intact records.
    pub gaps: u64,
    /// Bytes behind the last intact record that were set aside.
    pub tail_bytes: u64,
    /// Segments set aside because nothing in them could be read.
    pub lost_segments: u64,
    /// Damaged headers that were rebuilt.
    pub rebuilt_headers: u64,
}

/// The journal's state, ready to go on.
pub struct Recovered<D: Disk> {
    /// Keeps the folder locked as long as it is open. None where a look recovers: its lock is another.
    pub lock: Option<Lock>,
    /// The journal's epoch.
    pub epoch: u64,
    /// The checkpoint found, or "from the start".
    pub checkpoint: Checkpoint,
    /// All segments, oldest first.
    pub segments: Vec<SegmentInfo>,
    /// The last of them, open for writing.
    pub last: Segment<D::File>,
    /// The first sequence to give.
    pub next_sequence: u64,
    /// The first number no segment has.
    pub next_number: u64,
    /// The largest id given so far.
    pub largest_id: Option<Id>,
    /// Voided ranges of sequences.
    pub voids: Vec<(u64, u64)>,
    /// The idempotency keys of what is kept.
    pub keys: Keys,
    /// What is erased.
    pub erasures: Erasures,
    /// For the log.
    pub findings: Findings,
}

/// See the module. Who watches is told all of it, and passes over what would end a start (survey.rs).
pub fn recover<D: Disk>(
    disk: &D,
    config: &JournalConfig,
    clock: &Clock,
    watch: &mut Watch<'_>,
) -> Result<Recovered<D>, OpenError> {
    let folder = &config.path;
    disk::make_folder(disk, folder).map_err(at(folder))?;
    let lock = if watch.is_there() { None } else { Some(Lock::take(folder)?) };
    let Inventory { segments, last_number, lost_last, lost, rebuilt } = inventory::take(disk, folder, clock, watch)?;
    let mut recovery = Recovery::new(disk, folder, last_number, lost_last);
    recovery.findings = Findings { lost_segments: lost, rebuilt_headers: rebuilt, ..Findings::default() };
    let epoch = segments.first().map_or_else(segment::random_u64, |s| s.header.epoch);
    let standing = Standing::of(disk, folder, epoch);
    let checkpoint = standing.checkpoint();
    watch.segments(&segments, standing);
    let passed = checkpoint.drained.max(checkpoint.transcribed);
    recovery.raise(passed, checkpoint.largest_id);
    let mut keys = Keys::new(config.max_keys);
    let end = recovery.walk(&segments, &mut keys, watch)?;
    watch.all_walked(folder, passed);
    let (last, next_sequence) = recovery.last_segment(&segments, end, epoch, (config, clock), watch)?;
    let mut recovered: Recovered<D> = Recovered {
        next_number: last.header.number + 1,
        last,
        lock,
        epoch,
        checkpoint,
        segments,
        next_sequence,
        largest_id: recovery.largest_id,
        voids: std::mem::take(&mut recovery.voids),
        keys,
        erasures: Erasures::default(),
        findings: recovery.findings,
    };
    recovered.list_last();
    for (first, last) in recovery.requests.end().into_iter().filter(|(first, _)| *first > passed) {
        if !recovered.is_void(first) {
            recovered.void(disk, config, clock, first, last).map_err(at(folder))?;
            watch.change(|survey| survey.torn += last - first + 1);
        }
    }
    let voids = recovered.voids.clone();
    let erased = recovery.erasures.into_iter().filter(|erasure| !recovered.is_void(erasure.sequence));
    let mut erasures = Erasures::default();
    erased.for_each(|erasure| erasures.note(erasure));
    recovered.erasures = erasures;
    recovered.keys.forget_voided(|sequence| voids.iter().any(|&(first, last)| (first..=last).contains(&sequence)));
    recovered.last.file.sync().map_err(at(folder))?;
    disk.sync_dir(folder).map_err(at(folder))?;
    Ok(recovered)
}

impl<D: Disk> Recovered<D> {
    fn is_void(&self, sequence: u64) -> bool {
        self.voids.iter().any(|&(first, last)| (first..=last).contains(&sequence))
    }

    fn list_last(&mut self) {
        let header = self.last.header;
        if self.segments.last().is_none_or(|s| s.header.number != header.number) {
            self.segments.push(SegmentInfo { header, file_bytes: self.last.file_bytes });
        }
    }

    /// Writes an abort record of the range behind everything else, in a new segment if it must.
    fn void(&mut self, disk: &D, config: &JournalConfig, clock: &Clock, first: u64, last: u64) -> io::Result<()> {
        let mut frames = Frames::default();
        let abort = Record { sequence: self.next_sequence, entry: Entry::Abort { first, last }, origin: None };
        frames.push(&abort, Group::default());
        if self.last.room() < frames.bytes.len() as u64 {
            let header = segment::new_header(clock, self.epoch, self.next_number, self.next_sequence);
            self.last.file.sync()?;
            self.last =
                segment::prepare(disk, &config.path, header, config.segment_bytes)?.name(disk, &config.path, true)?;
            self.next_number += 1;
            self.list_last();
        }
        super::frame::stamp(&mut frames.bytes, self.last.header.salt);
        self.last.file.write_all_at(&frames.bytes, self.last.offset)?;
        self.last.offset += frames.bytes.len() as u64;
        self.next_sequence += 1;
        self.voids.push((first, last));
        Ok(())
    }
}

struct Recovery<'a, D: Disk> {
    disk: &'a D,
    folder: &'a Path,
    last_sequence: u64,
    largest_id: Option<Id>,
    voids: Vec<(u64, u64)>,
    requests: Requests,
    erasures: Vec<Erasure>,
    findings: Findings,
    last_number: u64,
    /// Nothing in the last segment could be read.
    lost_last: bool,
}

impl<'a, D: Disk> Recovery<'a, D> {
    fn new(disk: &'a D, folder: &'a Path, last_number: u64, lost_last: bool) -> Self {
        Self {
            disk,
            folder,
            last_sequence: 0,
            largest_id: None,
            voids: Vec::new(),
            requests: Requests::default(),
            erasures: Vec::new(),
            findings: Findings::default(),
            last_number,
            lost_last,
        }
    }

    fn raise(&mut self, sequence: u64, id: Option<Id>) {
        self.last_sequence = self.last_sequence.max(sequence);
        self.largest_id = self.largest_id.max(id);
    }

    /// Takes in every segment, oldest first; returns where the last one's frames end.
    fn walk(&mut self, segments: &[SegmentInfo], keys: &mut Keys, watch: &mut Watch<'_>) -> Result<End, OpenError> {
        let mut end = End { offset: SEGMENT_HEADER_BYTES as u64, dirty: false };
        // So far nothing but the checkpoint has raised it.
        let passed = self.last_sequence;
        for (index, info) in segments.iter().enumerate() {
            self.raise(info.header.first_sequence.saturating_sub(1), None);
            let bound = segment::bound(segments, info.header.number);
            let is_sealed = index + 1 < segments.len();
            let read = self.read(info, bound, is_sealed, watch);
            let Some((digest, found)) = watch.pass(read)? else { continue };
            if !is_sealed {
                end = found;
            }
            self.keep_gaps(info, &digest);
            if digest.records > 0 {
                self.requests.follow(info.header.first_sequence, &digest.requests, bound, passed, index == 0);
            }
            self.take_in(&digest, bound);
            digest.tell_keys(keys, bound);
        }
        Ok(end)
    }

    /// What a segment's digest says, or, where there is none, or it is open, or somebody watches, what a walk finds; and where
    /// the walk ended.
    fn read(
        &self,
        info: &SegmentInfo,
        bound: u64,
        is_sealed: bool,
        watch: &mut Watch<'_>,
    ) -> Result<(Digest, End), OpenError> {
        let path = segment::path(self.folder, info.header.number);
        if is_sealed
            && !watch.is_there()
            && let Some(digest) = Digest::stored(self.disk, self.folder, &info.header)
        {
            return Ok((digest, End { offset: info.file_bytes, dirty: false }));
        }
        watch.begin(&path, info, bound);
        let scanner = scan::open(self.disk, self.folder, info).map_err(at(&path))?;
        let (digest, end) = Digest::of_segment(scanner, &path, &mut |seen| watch.see(seen)).map_err(at(&path))?;
        watch.walked(self.disk, self.folder, info, (&digest, end, is_sealed))?;
        Ok((digest, end))
    }

    /// Keeps a copy of what is damaged between intact frames: the segment goes one day, and with it what may be read yet.
    fn keep_gaps(&self, info: &SegmentInfo, digest: &Digest) {
        let path = segment::path(self.folder, info.header.number);
        for &(from, to) in &digest.gaps {
            let file = self.disk.open_read(&path);
            match file.and_then(|file| {
                quarantine::keep_range(self.disk, self.folder, ("gap", info.header.number), &file, from..to)
            }) {
                Ok((aside, _)) => {
                    log::warn!("{}: damage from byte {from} to {to}, kept as {}", path.display(), aside.display());
                }
                // Nothing is lost by it yet: it stands where it stood.
                Err(e) => log::warn!("{}: damage from byte {from} to {to} cannot be kept: {e}", path.display()),
            }
        }
    }

    fn take_in(&mut self, digest: &Digest, bound: u64) {
        self.findings.records += digest.records;
        self.findings.gaps += digest.gaps.len() as u64;
        self.raise(digest.last_sequence, digest.largest_id);
        self.voids.extend_from_slice(&digest.aborted);
        self.erasures.extend(digest.erasures.iter().filter(|erasure| erasure.sequence < bound).cloned());
    }

    /// The segment to go on in, the last one with its tail mended or a new one, and the first sequence to give.
    fn last_segment(
        &mut self,
        segments: &[SegmentInfo],
        end: End,
        epoch: u64,
        (config, clock): (&JournalConfig, &Clock),
        watch: &mut Watch<'_>,
    ) -> Result<(Segment<D::File>, u64), OpenError> {
        let mut next_sequence = self.last_sequence + 1;
        let last = segments.last().filter(|info| info.header.number == self.last_number);
        let mended = last.map(|info| self.mended(info, end)).transpose();
        let Some(Some(segment)) = watch.pass(mended)? else {
            if self.lost_last {
                next_sequence += SEQUENCE_LEAP;
            }
            let header = segment::new_header(clock, epoch, self.last_number + 1, next_sequence);
            let file_bytes = if segments.is_empty() { FIRST_SEGMENT_BYTES } else { config.segment_bytes };
            let made = segment::prepare(self.disk, self.folder, header, file_bytes.min(config.segment_bytes));
            let named = made.and_then(|made| made.name(self.disk, self.folder, true));
            return Ok((named.map_err(at(self.folder))?, next_sequence));
        };
        watch.change(|survey| survey.tail_bytes = self.findings.tail_bytes);
        Ok((segment, next_sequence))
    }

    /// A segment without what stands behind its last frame.
    fn mended(&mut self, info: &SegmentInfo, end: End) -> Result<Segment<D::File>, OpenError> {
        let path = segment::path(self.folder, info.header.number);
        let file = Arc::new(self.disk.open(&path).map_err(at(&path))?);
        if end.dirty {
            self.cut_tail(&*file, info, end.offset)?;
        }
        Ok(Segment { header: info.header, file, file_bytes: info.file_bytes, offset: end.offset })
    }

    /// Sets a copy of the bytes behind `end` aside and zeroes them.
    fn cut_tail(&mut self, file: &D::File, info: &SegmentInfo, end: u64) -> Result<(), OpenError> {
        let path = segment::path(self.folder, info.header.number);
        let what = ("tail", info.header.number);
        let keep = || quarantine::keep_range(self.disk, self.folder, what, file, end..info.file_bytes);
        // On a full disk the next segment's zeros give way to it.
        let kept = keep().or_else(|_| segment::drop_spare(self.disk, self.folder).and_then(|()| keep()));
        let (aside, bytes) = kept.map_err(at(&path))?;
        segment::zero(file, end, end + bytes).map_err(at(&path))?;
        self.findings.tail_bytes = bytes;
        log::warn!("{bytes} bytes behind the journal's last record were set aside: {}", aside.display());
        Ok(())
    }
}
