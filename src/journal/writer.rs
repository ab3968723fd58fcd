//! Puts batches of frames into segments: where each frame goes, the sync, the roll, and what follows a failure.
//!
//! One thread at a time holds the writer (commit.rs says which). Its rules are those of databases that learnt them:
//!
//! * After a failed write or sync nothing is known of that file, and it is never written or synced again (PostgreSQL's
//!   "fsyncgate"). The batch is refused; what had been acknowledged but not yet synced is kept in memory and written
//!   anew into the next segment, behind an abort record that voids what was refused.
//! * A batch that does not fit gets its next segments made before its first byte is written, so that a full disk refuses
//!   a batch whole.
//!
//! Knows nothing of waiters and of what records mean.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crossbeam_channel::Sender;

use crate::config::Fsync;
use crate::disk::{Disk, DiskFile};
use crate::message::Clock;

use super::frame::{SEGMENT_HEADER_BYTES, SegmentHeader, stamp};
use super::record::{Entry, Record};
use super::segment::{self, Segment, SegmentInfo};
use super::{Refusal, random_u64};

/// Acknowledged bytes that may wait for their sync (`interval`) before a sync is forced: it bounds the copy kept of them.
const UNSYNCED_BYTES_MAX: usize = 4 << 20;

/// What a writer is told once.
pub struct Settings {
    /// The journal's folder.
    pub folder: PathBuf,
    /// The journal's epoch.
    pub epoch: u64,
    /// Dates the segments.
    pub clock: Clock,
    /// When it syncs.
    pub fsync: Fsync,
    /// The size of a new segment, in bytes.
    pub segment_bytes: u64,
    /// The most all segments may take together, in bytes.
    pub max_bytes: u64,
    /// Rung when a spare was taken and when a file failed; when it rings already that is enough.
    pub bell: Sender<()>,
}

/// A run of frames, one behind the other, not yet stamped.
#[derive(Default)]
pub struct Frames {
    /// The frames' bytes.
    pub bytes: Vec<u8>,
    /// The length of each, in bytes.
    pub lengths: Vec<usize>,
}

impl Frames {
    /// Adds a record's frame.
    pub fn push(&mut self, record: &Record, more: bool) {
        let length = record.push_frame(more, &mut self.bytes);
        self.lengths.push(length);
    }

    /// The sequence of the first frame.
    fn first_sequence(&self) -> Option<u64> {
        self.bytes.get(8..16).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    }

    /// Adds frames that stand elsewhere.
    fn extend(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
        self.lengths.extend_from_slice(&other.lengths);
    }

    /// Empties it and keeps the room, up to a limit: one huge batch must not cost its memory for ever.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(256 * 1024);
        self.lengths.clear();
    }
}

/// A further segment a batch needs, and the index of the first frame that goes there.
struct Next<D: Disk> {
    index: usize,
    segment: Segment<D::File>,
}

/// See the module.
pub struct Writer<D: Disk> {
    disk: D,
    settings: Settings,
    segment: Segment<D::File>,
    /// All segments, oldest first; shared with the readers and with whoever drops drained ones.
    segments: Arc<Mutex<Vec<SegmentInfo>>>,
    /// Frames that were acknowledged and not yet synced (`interval` only), and those a sync is just under way for.
    unsynced: Frames,
    syncing: Frames,
    /// Ranges of sequences that were refused after they may have reached the file.
    voids: Vec<(u64, u64)>,
    /// The file failed: the next batch needs a new one.
    broken: bool,
}

impl<D: Disk> Writer<D> {
    /// Goes on in `segment`, the last of `segments`.
    pub fn new(disk: D, settings: Settings, segment: Segment<D::File>, segments: Arc<Mutex<Vec<SegmentInfo>>>) -> Self {
        let (unsynced, syncing) = (Frames::default(), Frames::default());
        Self { disk, settings, segment, segments, unsynced, syncing, voids: Vec::new(), broken: false }
    }

    /// Writes a batch whose first record has sequence `first` and whose last has `last`, and syncs it if the policy says so.
    ///
    /// # Errors
    /// [`Refusal`]; nothing of the batch counts then, whatever reached the file.
    pub fn write(&mut self, frames: &mut Frames, first: u64, last: u64) -> Result<(), Refusal> {
        if self.broken {
            self.mend(first)?;
        }
        if self.unsynced.bytes.len() > UNSYNCED_BYTES_MAX {
            self.sync()?;
        }
        let extra = self.make_room(frames, first)?;
        let written = self.put(frames, extra).and_then(|()| match self.settings.fsync {
            Fsync::Always => self.segment.file.sync(),
            Fsync::Interval | Fsync::Never => Ok(()),
        });
        if let Err(e) = written {
            self.voids.push((first, last));
            return Err(self.fail("write", &e));
        }
        if self.settings.fsync == Fsync::Interval {
            self.unsynced.extend(frames);
        }
        Ok(())
    }

    /// Syncs what was written, in place: for the end of an ordered stop, and when much is unsynced.
    ///
    /// # Errors
    /// [`Refusal`]; what was unsynced is kept for the next segment.
    pub fn sync(&mut self) -> Result<(), Refusal> {
        match self.segment.file.sync() {
            Ok(()) => {
                self.unsynced.clear();
                Ok(())
            }
            Err(e) => Err(self.fail("sync", &e)),
        }
    }

    /// Starts a sync outside the writer: the file to sync, if anything waits for one.
    pub fn begin_sync(&mut self) -> Option<Arc<D::File>> {
        if self.broken || self.unsynced.lengths.is_empty() {
            return None;
        }
        std::mem::swap(&mut self.unsynced, &mut self.syncing);
        Some(self.segment.file.clone())
    }

    /// Tells how the sync of `file` ended. Files are synced before they are left, so another file's end changes nothing.
    ///
    /// # Errors
    /// [`Refusal`] when it failed; what was unsynced is kept for the next segment.
    pub fn end_sync(&mut self, result: io::Result<()>) -> Result<(), Refusal> {
        let mut synced = std::mem::take(&mut self.syncing);
        let outcome = match result {
            Ok(()) => Ok(()),
            Err(e) => {
                synced.extend(&self.unsynced);
                std::mem::swap(&mut synced, &mut self.unsynced);
                Err(self.fail("sync", &e))
            }
        };
        synced.clear();
        self.syncing = synced;
        outcome
    }

    /// Whether acknowledged bytes wait for their sync.
    #[cfg(test)]
    pub fn has_unsynced(&self) -> bool {
        !self.unsynced.lengths.is_empty() || !self.syncing.lengths.is_empty()
    }

    /// Whether a file has failed and no new one could be made since.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    fn fail(&mut self, what: &str, e: &io::Error) -> Refusal {
        self.broken = true;
        let _ = self.settings.bell.try_send(());
        log::error!("the journal's segment {} cannot be used any more: {what}: {e}", self.segment.header.number);
        Refusal::from_io(e)
    }

    /// After a failure: a new segment that starts with the abort records and what was acknowledged but not synced.
    /// An abort carries the sequence of the last record it voids, which was given out and is free for it. `next` is the
    /// first sequence that was not written yet.
    ///
    /// # Errors
    /// [`Refusal`]; the journal stays read-only, and the next batch tries again.
    pub fn mend(&mut self, next: u64) -> Result<(), Refusal> {
        let mut frames = Frames::default();
        frames.extend(&self.syncing);
        frames.extend(&self.unsynced);
        for &(first, last) in &self.voids {
            frames.push(&Record { sequence: last, entry: Entry::Abort { first, last } }, false);
        }
        let needed = frames.bytes.len() as u64;
        let first = frames.first_sequence().unwrap_or(next);
        let segment = self.create(self.segment.header.number + 1, first, needed)?;
        let old = std::mem::replace(&mut self.segment, segment);
        let written = self.put(&mut frames, Vec::new()).and_then(|()| self.segment.file.sync());
        if let Err(e) = written {
            log::error!("the journal's new segment {} fails too: {e}", self.segment.header.number);
            // The next try must not take the number of a file that is there.
            self.list(&self.segment);
            return Err(Refusal::from_io(&e));
        }
        self.list(&self.segment);
        log::warn!("the journal goes on in segment {} after {} failed", self.segment.header.number, old.header.number);
        self.voids.clear();
        self.unsynced.clear();
        self.syncing.clear();
        self.broken = false;
        Ok(())
    }

    /// Makes the further segments a batch needs, before anything of it is written.
    fn make_room(&mut self, frames: &Frames, first: u64) -> Result<Vec<Next<D>>, Refusal> {
        let mut extra: Vec<Next<D>> = Vec::new();
        let mut room = self.segment.room();
        for (sequence, (index, &length)) in (first..).zip(frames.lengths.iter().enumerate()) {
            if length as u64 > room {
                let number = self.segment.header.number + 1 + extra.len() as u64;
                match self.create(number, sequence, length as u64) {
                    Ok(segment) => {
                        room = segment.room();
                        extra.push(Next { index, segment });
                    }
                    Err(refusal) => {
                        self.abandon(&extra);
                        return Err(refusal);
                    }
                }
            }
            room -= length as u64;
        }
        Ok(extra)
    }

    /// Takes back segments that were made for a batch that is refused after all.
    fn abandon(&self, extra: &[Next<D>]) {
        for Next { segment, .. } in extra {
            let path = segment::path(&self.settings.folder, segment.header.number);
            if let Err(e) = self.disk.remove(&path) {
                log::warn!("{} stays empty: {e}", path.display());
            }
        }
    }

    /// Stamps and writes the frames, going over into the segments of `extra` where it says.
    fn put(&mut self, frames: &mut Frames, extra: Vec<Next<D>>) -> io::Result<()> {
        let (mut at, mut index) = (0, 0);
        for Next { index: until, segment: next } in extra {
            (at, index) = self.put_run(frames, at, index, until)?;
            if self.settings.fsync != Fsync::Never {
                self.segment.file.sync()?;
                self.unsynced.clear();
            }
            self.list(&next);
            self.segment = next;
        }
        let end = frames.lengths.len();
        self.put_run(frames, at, index, end).map(|_| ())
    }

    /// One write: the frames from `index`, whose bytes start at `at`, up to but not `until`.
    fn put_run(&mut self, frames: &mut Frames, at: usize, index: usize, until: usize) -> io::Result<(usize, usize)> {
        let mut end = at;
        for &length in &frames.lengths[index..until] {
            stamp(&mut frames.bytes[end..end + length], self.segment.header.salt);
            end += length;
        }
        if end > at {
            self.segment.file.write_all_at(&frames.bytes[at..end], self.segment.offset)?;
            self.segment.offset += (end - at) as u64;
        }
        Ok((end, until))
    }

    /// Makes segment `number` with room for at least `needed` bytes of frames.
    fn create(&self, number: u64, first_sequence: u64, needed: u64) -> Result<Segment<D::File>, Refusal> {
        let file_bytes = self.settings.segment_bytes.max(needed + SEGMENT_HEADER_BYTES as u64);
        let used: u64 = self.segments.lock().expect("no holder panics").iter().map(|s| s.file_bytes).sum();
        if used + file_bytes > self.settings.max_bytes {
            return Err(Refusal::Full(format!(
                "the journal holds {used} bytes that are not drained yet, and journal.max_bytes is {}",
                self.settings.max_bytes
            )));
        }
        let header = new_header(&self.settings.clock, self.settings.epoch, number, first_sequence);
        let durable = self.settings.fsync != Fsync::Never;
        let created = segment::create(&self.disk, &self.settings.folder, header, file_bytes, durable);
        let _ = self.settings.bell.try_send(());
        created.map_err(|e| {
            log::error!("the journal's next segment cannot be made: {e}");
            Refusal::from_io(&e)
        })
    }

    fn list(&self, segment: &Segment<D::File>) {
        let info = SegmentInfo { header: segment.header, file_bytes: segment.file_bytes };
        self.segments.lock().expect("no holder panics").push(info);
    }
}

/// A header with a salt of its own.
pub fn new_header(clock: &Clock, epoch: u64, number: u64, first_sequence: u64) -> SegmentHeader {
    let salt = u32::try_from(random_u64() >> 32).expect("32 bits").max(1);
    SegmentHeader { salt, epoch, number, first_sequence, made_micros: clock.now().micros() }
}
