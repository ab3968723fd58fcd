//! Puts batches of frames into segments: where each frame goes, the sync, the roll, and what follows a failure.
//!
//! One thread at a time holds the writer (see commit.rs). Its rules are those that databases learnt the hard way:
//!
//! * After a failed write or sync the state of that file is unknown, so it is never written or synced again
//!   (PostgreSQL's "fsyncgate"). The batch is refused. The next segment begins with the first sequence that was
//!   refused, or that was acknowledged and not yet synced: the failed segment ends there, whatever it holds. What was
//!   acknowledged is in memory and is written again.
//! * A segment gets its name only when the one before it is complete, so a start never meets a named segment that hides
//!   records written later.
//! * If a batch does not fit, its further segments are made before its first byte is written, so that a full disk
//!   refuses a batch whole.
//!
//! Knows nothing of waiters and of what records mean.

use std::io;
use std::sync::{Arc, Mutex};

use crossbeam_channel::Sender;

use crate::config::{Fsync, JournalConfig};
use crate::disk::{Disk, DiskFile};
use crate::message::Clock;

use super::error::AppendError;
use super::frame::{RequestPart, is_erasure, stamp};
use super::meters::JournalMeters;
use super::record::Record;
use super::segment::{self, Segment, SegmentInfo, Unnamed};

/// Acknowledged bytes of which a copy is kept until they are synced; beyond, `interval` forces a sync.
const UNSYNCED_BYTES_MAX: usize = 4 << 20;
/// The same with `never`, which promises no sync; beyond, the older half of the copies is dropped.
const NEVER_SYNCED_BYTES_MAX: usize = 1 << 20;

/// What a writer is made with.
pub struct WriterSettings {
    /// Limits, folder and sync policy.
    pub config: JournalConfig,
    /// The journal's epoch.
    pub epoch: u64,
    /// Dates the segments.
    pub clock: Clock,
    /// Wakes the janitor when a spare was used and when a file failed; it holds one wake-up.
    pub waker: Sender<()>,
    /// Counts the syncs.
    pub meters: Arc<JournalMeters>,
}

/// Consecutive frames, not yet stamped.
#[derive(Default)]
pub struct Frames {
    /// The frames' bytes.
    pub bytes: Vec<u8>,
    /// The length of each, in bytes.
    pub lengths: Vec<usize>,
}

impl Frames {
    /// Adds a record's frame.
    pub fn push(&mut self, record: &Record, group: RequestPart) {
        let length = record.push_frame(group, &mut self.bytes);
        self.lengths.push(length);
    }

    /// The sequence of the first frame.
    fn first_sequence(&self) -> Option<u64> {
        self.bytes.get(8..16).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    }

    /// Appends other frames.
    fn extend(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
        self.lengths.extend_from_slice(&other.lengths);
    }

    /// Removes the first frames.
    fn drop_first(&mut self, count: usize) {
        let bytes: usize = self.lengths.drain(..count).sum();
        self.bytes.drain(..bytes);
    }

    /// If there are more than `bytes_max` bytes, keeps only the newest half of that, so that the bytes are moved
    /// rarely.
    fn keep_last(&mut self, bytes_max: usize) {
        let mut left = self.bytes.len();
        if left <= bytes_max {
            return;
        }
        let too_much = |length: &&usize| {
            left -= **length;
            left > bytes_max / 2
        };
        let count = self.lengths.iter().take_while(too_much).count();
        self.drop_first(count);
    }

    /// Empties it and keeps its buffers up to a limit: one huge batch must not cost its memory for ever.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(256 * 1024);
        self.lengths.clear();
    }
}

/// A further segment that a batch needs, and the index of its first frame there.
struct NextSegment<D: Disk> {
    index: usize,
    segment: Unnamed<D::File>,
}

/// Writes batches into the open segment.
pub struct Writer<D: Disk> {
    disk: D,
    settings: WriterSettings,
    segment: Segment<D::File>,
    /// The number of the next segment. Each number is used once, so that a failed try blocks none that follows.
    next_number: u64,
    /// All segments, oldest first; shared with the readers and with [`Journal::prune`](super::Journal::prune).
    segments: Arc<Mutex<Vec<SegmentInfo>>>,
    /// The sequence after the last one written.
    next_sequence: u64,
    /// Frames that were acknowledged and not yet synced: none with `always`, the newest with `never`.
    unsynced: Frames,
    /// How many of them a sync outside the writer covers at the moment.
    in_flight: usize,
    /// The first sequence refused since the file failed: it may have reached the file.
    refused_from: Option<u64>,
    /// The file failed: the next batch needs a new segment.
    broken: bool,
}

impl<D: Disk> Writer<D> {
    /// Goes on in `segment`, the last of `segments`, with `next_sequence`; no segment has the number `next_number` or a
    /// later one.
    pub fn new(
        disk: D,
        settings: WriterSettings,
        segment: Segment<D::File>,
        (next_number, next_sequence): (u64, u64),
        segments: Arc<Mutex<Vec<SegmentInfo>>>,
    ) -> Self {
        Self {
            disk,
            settings,
            segment,
            next_number,
            segments,
            next_sequence,
            unsynced: Frames::default(),
            in_flight: 0,
            refused_from: None,
            broken: false,
        }
    }

    /// Writes a batch whose first record has sequence `first`, and syncs it if the policy says so.
    ///
    /// # Errors
    /// [`AppendError`]: nothing of the batch counts, whatever reached the file; the same records can be appended again.
    pub fn write(&mut self, frames: &mut Frames, first: u64) -> Result<(), AppendError> {
        if self.broken {
            self.mend(first)?;
        }
        match self.settings.config.fsync {
            Fsync::Interval if self.unsynced.bytes.len() > UNSYNCED_BYTES_MAX => self.sync()?,
            Fsync::Never => self.unsynced.keep_last(NEVER_SYNCED_BYTES_MAX),
            Fsync::Always | Fsync::Interval => {}
        }
        let extra = self.make_room(frames, first)?;
        let written = self.put(frames, extra).and_then(|()| match self.settings.config.fsync {
            Fsync::Always => self.sync_file(),
            Fsync::Interval | Fsync::Never => Ok(()),
        });
        if let Err(e) = written {
            self.refused_from = Some(self.refused_from.map_or(first, |earlier| earlier.min(first)));
            return Err(self.fail("write", &e));
        }
        self.next_sequence = first + frames.lengths.len() as u64;
        if self.settings.config.fsync != Fsync::Always {
            self.unsynced.extend(frames);
        }
        Ok(())
    }

    /// Ends the segment here and goes on in a new one, so that the old one can be rewritten without what was erased. It
    /// is synced first, whatever the policy.
    ///
    /// # Errors
    /// [`AppendError`]: if there is no space for a new segment, the open one stays in use; otherwise the next batch
    /// needs a new one.
    pub fn seal(&mut self) -> Result<(), AppendError> {
        if self.broken {
            return Err(AppendError::Unavailable("the journal's file failed".into()));
        }
        self.sync()?;
        let made = self.prepare(self.next_sequence, 0, 0)?;
        // If this fails, it may or may not have its name: nothing may be written where the new segment would hide it.
        let named = made.name(&self.disk, &self.settings.config.path, true);
        self.segment = named.map_err(|e| self.fail("seal", &e))?;
        self.list();
        Ok(())
    }

    /// Whether frames up to that sequence are kept in memory, to be written again if a sync fails.
    pub fn holds_unsynced(&self, sequence: u64) -> bool {
        self.unsynced.first_sequence().is_some_and(|first| first <= sequence)
    }

    /// Syncs what was written: when much is unsynced, and at the end of an ordered stop.
    ///
    /// # Errors
    /// [`AppendError`]: the file failed. What was unsynced is kept for the next segment.
    pub fn sync(&mut self) -> Result<(), AppendError> {
        match self.sync_file() {
            Ok(()) => {
                self.all_synced();
                Ok(())
            }
            Err(e) => Err(self.fail("sync", &e)),
        }
    }

    fn sync_file(&self) -> io::Result<()> {
        self.settings.meters.sync(&*self.segment.file)
    }

    /// Notes that the whole file was synced. While another sync is under way it may get the error, if there is one: so
    /// what it covers, and what came since, waits for its end.
    fn all_synced(&mut self) {
        if self.in_flight == 0 {
            self.unsynced.clear();
        } else {
            self.in_flight = self.unsynced.lengths.len();
        }
    }

    /// Begins a sync outside the writer. Returns the file to sync, if anything is unsynced.
    pub fn begin_sync(&mut self) -> Option<Arc<D::File>> {
        if self.broken || self.unsynced.lengths.is_empty() {
            return None;
        }
        self.in_flight = self.unsynced.lengths.len();
        Some(self.segment.file.clone())
    }

    /// Takes the result of that sync.
    ///
    /// # Errors
    /// [`AppendError`]: it failed. What was unsynced is kept for the next segment.
    pub fn end_sync(&mut self, result: io::Result<()>) -> Result<(), AppendError> {
        let covered = std::mem::take(&mut self.in_flight);
        match result {
            // Everything it covered was written again meanwhile.
            _ if covered == 0 => Ok(()),
            // If the file failed meanwhile, another caller may have got its error.
            Ok(()) if self.broken => Ok(()),
            Ok(()) => {
                self.unsynced.drop_first(covered);
                Ok(())
            }
            Err(e) => Err(self.fail("sync", &e)),
        }
    }

    /// Whether acknowledged bytes are unsynced.
    #[cfg(test)]
    pub fn has_unsynced(&self) -> bool {
        !self.unsynced.lengths.is_empty()
    }

    /// Whether the open segment begins with that sequence or a later one.
    pub fn has_begun_segment_since(&self, sequence: u64) -> bool {
        self.segment.header.first_sequence >= sequence
    }

    /// Whether a file has failed and no new segment could be made since.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    fn fail(&mut self, what: &str, e: &io::Error) -> AppendError {
        self.broken = true;
        let _ = self.settings.waker.try_send(());
        log::error!("the journal's segment {} cannot be used any more: {what}: {e}", self.segment.header.number);
        AppendError::from_io(e)
    }

    /// After a failure: makes a new segment that begins where the failed one is not trusted any more, and writes into
    /// it what was acknowledged and not synced. `next` is the first sequence that was not written yet.
    ///
    /// # Errors
    /// [`AppendError`]: the journal stays read-only, and the next batch tries again.
    pub fn mend(&mut self, next: u64) -> Result<(), AppendError> {
        let first = [self.unsynced.first_sequence(), self.refused_from].into_iter().flatten().min().unwrap_or(next);
        let needed = self.unsynced.bytes.len() as u64;
        let mut made = self.prepare(first, needed, 0)?;
        let named = match put_run(&mut made.segment, &mut self.unsynced, 0, 0, None) {
            Ok(_) => made.name(&self.disk, &self.settings.config.path, true),
            Err(e) => {
                made.discard(&self.disk);
                Err(e)
            }
        };
        let segment = named.map_err(|e| {
            log::error!("the journal cannot go on in a new segment either: {e}");
            AppendError::from_io(&e)
        })?;
        let failed = std::mem::replace(&mut self.segment, segment).header.number;
        self.list();
        log::warn!("the journal goes on in segment {} after {failed} failed", self.segment.header.number);
        self.unsynced.clear();
        self.in_flight = 0;
        self.refused_from = None;
        self.broken = false;
        Ok(())
    }

    /// Makes the further segments that a batch needs, before anything of it is written.
    fn make_room(&mut self, frames: &Frames, first: u64) -> Result<Vec<NextSegment<D>>, AppendError> {
        let mut extra: Vec<NextSegment<D>> = Vec::new();
        let (mut room, mut kept) = (self.segment.room(), self.segment.kept_for_erasures());
        let mut at = 0;
        for (sequence, (index, &length)) in (first..).zip(frames.lengths.iter().enumerate()) {
            let usable = if is_erasure(&frames.bytes[at..]) { room } else { room.saturating_sub(kept) };
            if length as u64 > usable {
                let extra_bytes = extra.iter().map(|next| next.segment.segment.file_bytes).sum();
                match self.prepare(sequence, length as u64, extra_bytes) {
                    Ok(segment) => {
                        (room, kept) = (segment.segment.room(), segment.segment.kept_for_erasures());
                        extra.push(NextSegment { index, segment });
                    }
                    Err(refusal) => {
                        extra.into_iter().for_each(|next| next.segment.discard(&self.disk));
                        return Err(refusal);
                    }
                }
            }
            room -= length as u64;
            at += length;
        }
        Ok(extra)
    }

    /// Stamps and writes the frames, and changes to the segments of `extra` at their first frames.
    fn put(&mut self, frames: &mut Frames, extra: Vec<NextSegment<D>>) -> io::Result<()> {
        let durable = self.settings.config.fsync != Fsync::Never;
        let mut at = (0, 0);
        for NextSegment { index, segment } in extra {
            at = put_run(&mut self.segment, frames, at.0, at.1, Some(index))?;
            if durable {
                self.sync_file()?;
                self.all_synced();
            }
            self.segment = segment.name(&self.disk, &self.settings.config.path, durable)?;
            self.list();
        }
        put_run(&mut self.segment, frames, at.0, at.1, None).map(|_| ())
    }

    /// Makes a segment that begins with `first_sequence` and has space for at least `needed` bytes of frames.
    /// `extra_bytes` is the length of segments that were made and are not listed yet.
    fn prepare(&mut self, first_sequence: u64, needed: u64, extra_bytes: u64) -> Result<Unnamed<D::File>, AppendError> {
        let file_bytes = self.settings.config.segment_bytes.max(segment::least_bytes(needed));
        let listed: u64 = self.segments.lock().expect("no holder panics").iter().map(|s| s.file_bytes).sum();
        let used = listed + extra_bytes;
        if used + file_bytes > self.settings.config.max_bytes {
            return Err(AppendError::Full(format!(
                "the journal holds {used} bytes, and journal.max_bytes is {}",
                self.settings.config.max_bytes
            )));
        }
        let header = segment::new_header(&self.settings.clock, self.settings.epoch, self.next_number, first_sequence);
        let made = segment::prepare(&self.disk, &self.settings.config.path, header, file_bytes);
        self.next_number += 1;
        // The spare is used up. After a failure the janitor looks again in its own time: woken here it would spin, since it
        // is the janitor who tries.
        if made.is_ok() {
            let _ = self.settings.waker.try_send(());
        }
        made.map_err(|e| {
            log::error!("the journal's next segment cannot be made: {e}");
            AppendError::from_io(&e)
        })
    }

    /// Adds the open segment to the list.
    fn list(&self) {
        let info = SegmentInfo { header: self.segment.header, file_bytes: self.segment.file_bytes };
        self.segments.lock().expect("no holder panics").push(info);
    }
}

/// One write: the frames from index `index`, whose bytes start at `at`, up to but not including `until` (`None`: all
/// that is left). Returns the index and the byte where it ended.
fn put_run<F: DiskFile>(
    segment: &mut Segment<F>,
    frames: &mut Frames,
    at: usize,
    index: usize,
    until: Option<usize>,
) -> io::Result<(usize, usize)> {
    let until = until.unwrap_or(frames.lengths.len());
    let mut end = at;
    for &length in &frames.lengths[index..until] {
        stamp(&mut frames.bytes[end..end + length], segment.header.salt);
        end += length;
    }
    if end > at {
        segment.file.write_all_at(&frames.bytes[at..end], segment.offset)?;
        segment.offset += (end - at) as u64;
    }
    Ok((end, until))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_half_of_the_copies_is_kept_once_there_are_too_many() {
        let mut frames = Frames { bytes: (0..100).collect(), lengths: vec![10; 10] };
        frames.keep_last(100);
        assert_eq!(frames.lengths.len(), 10);
        frames.keep_last(99);
        assert!((5..=6).contains(&frames.lengths.len()));
        assert_eq!(frames.bytes.last(), Some(&99));
        assert_eq!(frames.bytes.len(), frames.lengths.iter().sum::<usize>());
        frames.keep_last(5);
        assert!(frames.lengths.len() <= 1);
    }
}
