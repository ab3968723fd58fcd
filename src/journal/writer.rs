//! Puts batches of frames into segments: where each frame goes, the sync, the roll, and what follows a failure.
//!
//! One thread at a time holds the writer (commit.rs says which). Its rules are those of databases that learnt them:
//!
//! * After a failed write or sync nothing is known of that file, and it is never written or synced again (PostgreSQL's
//!   "fsyncgate"). The batch is refused. The next segment begins with the first sequence that was refused, or that was
//!   acknowledged and not yet synced: the failed segment ends there, whatever it holds. What was acknowledged is in memory
//!   and is written anew.
//! * A segment gets its name only when the one before it is done with, so a start never meets a named segment that hides
//!   records written later.
//! * A batch that does not fit gets its next segments made before its first byte is written, so that a full disk refuses
//!   a batch whole.
//!
//! Knows nothing of waiters and of what records mean.

use std::io;
use std::sync::{Arc, Mutex};

use crossbeam_channel::Sender;

use crate::config::{Fsync, JournalConfig};
use crate::disk::{Disk, DiskFile};
use crate::message::Clock;

use super::error::AppendError;
use super::frame::{Group, is_erasure, stamp};
use super::record::Record;
use super::segment::{self, Segment, SegmentInfo, Unnamed};

/// Acknowledged bytes of which a copy is kept until they are synced. Beyond, `interval` forces a sync; `never`, which
/// promises nothing of the kind, lets the older half of the copies go.
const UNSYNCED_BYTES_MAX: usize = 4 << 20;

/// What a writer is told once.
pub struct Settings {
    /// How the journal is to be.
    pub config: JournalConfig,
    /// The journal's epoch.
    pub epoch: u64,
    /// Dates the segments.
    pub clock: Clock,
    /// Woken when a spare was taken and when a file failed; when it is set already that is enough.
    pub waker: Sender<()>,
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
    pub fn push(&mut self, record: &Record, group: Group) {
        let length = record.push_frame(group, &mut self.bytes);
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

    /// Removes the first frames.
    fn drop_first(&mut self, count: usize) {
        let bytes: usize = self.lengths.drain(..count).sum();
        self.bytes.drain(..bytes);
    }

    /// Once there are more bytes than that, keeps the last half of them; what costs a move of bytes is done seldom.
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
    segment: Unnamed<D::File>,
}

/// See the module.
pub struct Writer<D: Disk> {
    disk: D,
    settings: Settings,
    segment: Segment<D::File>,
    /// The number of the next segment. None is given twice, so that a failed try stands in nobody's way.
    next_number: u64,
    /// All segments, oldest first; shared with the readers and with whoever drops drained ones.
    segments: Arc<Mutex<Vec<SegmentInfo>>>,
    /// The sequence behind the last one that was written.
    next_sequence: u64,
    /// Frames that were acknowledged and not yet synced: none with `always`, the newest with `never`.
    unsynced: Frames,
    /// How many of them a sync outside the writer is under way for.
    in_flight: usize,
    /// The first sequence that was refused since the file failed: it may have reached the file.
    refused_from: Option<u64>,
    /// The file failed: the next batch needs a new one.
    broken: bool,
}

impl<D: Disk> Writer<D> {
    /// Goes on in `segment`, the last of `segments`, with `next_sequence`; no segment has `next_number` or a later one.
    pub fn new(
        disk: D,
        settings: Settings,
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
    /// [`AppendError`]; nothing of the batch counts then, whatever reached the file.
    pub fn write(&mut self, frames: &mut Frames, first: u64) -> Result<(), AppendError> {
        if self.broken {
            self.mend(first)?;
        }
        match self.settings.config.fsync {
            Fsync::Interval if self.unsynced.bytes.len() > UNSYNCED_BYTES_MAX => self.sync()?,
            Fsync::Never => self.unsynced.keep_last(UNSYNCED_BYTES_MAX),
            Fsync::Always | Fsync::Interval => {}
        }
        let extra = self.make_room(frames, first)?;
        let written = self.put(frames, extra).and_then(|()| match self.settings.config.fsync {
            Fsync::Always => self.segment.file.sync(),
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

    /// Ends the segment here and goes on in a new one, so that it can be written anew without what was erased. What it holds
    /// is synced first, whatever the policy.
    ///
    /// # Errors
    /// [`AppendError`]; when there is no room for the new segment the open one stays good, else the next batch mends.
    pub fn seal(&mut self) -> Result<(), AppendError> {
        if self.broken {
            return Err(AppendError::Unavailable("the journal's file failed".into()));
        }
        self.sync()?;
        let made = self.prepare(self.next_sequence, 0, 0)?;
        // Whether it has its name is not known then: nothing may be written where it would hide it.
        let named = made.name(&self.disk, &self.settings.config.path, true);
        self.segment = named.map_err(|e| self.fail("seal", &e))?;
        self.list();
        Ok(())
    }

    /// Whether frames up to that sequence are kept in memory, to be written anew should a sync fail.
    pub fn holds_unsynced(&self, sequence: u64) -> bool {
        self.unsynced.first_sequence().is_some_and(|first| first <= sequence)
    }

    /// Syncs what was written, in place: when much is unsynced, and at the end of an ordered stop.
    ///
    /// # Errors
    /// [`AppendError`]; what was unsynced is kept for the next segment.
    pub fn sync(&mut self) -> Result<(), AppendError> {
        match self.segment.file.sync() {
            Ok(()) => {
                self.all_synced();
                Ok(())
            }
            Err(e) => Err(self.fail("sync", &e)),
        }
    }

    /// The file was synced whole. While another sync is under way the error, if there is one, may go to that: what it
    /// covers, and what came since, waits for its end.
    fn all_synced(&mut self) {
        if self.in_flight == 0 {
            self.unsynced.clear();
        } else {
            self.in_flight = self.unsynced.lengths.len();
        }
    }

    /// Starts a sync outside the writer: the file to sync, if anything waits for one.
    pub fn begin_sync(&mut self) -> Option<Arc<D::File>> {
        if self.broken || self.unsynced.lengths.is_empty() {
            return None;
        }
        self.in_flight = self.unsynced.lengths.len();
        Some(self.segment.file.clone())
    }

    /// Tells how that sync ended.
    ///
    /// # Errors
    /// [`AppendError`] when it failed; what was unsynced is kept for the next segment.
    pub fn end_sync(&mut self, result: io::Result<()>) -> Result<(), AppendError> {
        let covered = std::mem::take(&mut self.in_flight);
        match result {
            // Nothing waits for it any more: it was written anew meanwhile.
            _ if covered == 0 => Ok(()),
            // A file that failed meanwhile may have told its error to somebody else.
            Ok(()) if self.broken => Ok(()),
            Ok(()) => {
                self.unsynced.drop_first(covered);
                Ok(())
            }
            Err(e) => Err(self.fail("sync", &e)),
        }
    }

    /// Whether acknowledged bytes wait for their sync.
    #[cfg(test)]
    pub fn has_unsynced(&self) -> bool {
        !self.unsynced.lengths.is_empty()
    }

    /// Whether a file has failed and no new one could be made since.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    fn fail(&mut self, what: &str, e: &io::Error) -> AppendError {
        self.broken = true;
        let _ = self.settings.waker.try_send(());
        log::error!("the journal's segment {} cannot be used any more: {what}: {e}", self.segment.header.number);
        AppendError::from_io(e)
    }

    /// After a failure: a new segment that begins where the failed one is no longer to be trusted, with what was
    /// acknowledged and not synced already in it. `next` is the first sequence that was not written yet.
    ///
    /// # Errors
    /// [`AppendError`]; the journal stays read-only, and the next batch tries again.
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

    /// Makes the further segments a batch needs, before anything of it is written.
    fn make_room(&mut self, frames: &Frames, first: u64) -> Result<Vec<Next<D>>, AppendError> {
        let mut extra: Vec<Next<D>> = Vec::new();
        let (mut room, mut kept) = (self.segment.room(), self.segment.kept_for_erasures());
        let mut at = 0;
        for (sequence, (index, &length)) in (first..).zip(frames.lengths.iter().enumerate()) {
            let usable = if is_erasure(&frames.bytes[at..]) { room } else { room.saturating_sub(kept) };
            if length as u64 > usable {
                let extra_bytes = extra.iter().map(|next| next.segment.segment.file_bytes).sum();
                match self.prepare(sequence, length as u64, extra_bytes) {
                    Ok(segment) => {
                        (room, kept) = (segment.segment.room(), segment.segment.kept_for_erasures());
                        extra.push(Next { index, segment });
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

    /// Stamps and writes the frames, going over into the segments of `extra` where it says.
    fn put(&mut self, frames: &mut Frames, extra: Vec<Next<D>>) -> io::Result<()> {
        let durable = self.settings.config.fsync != Fsync::Never;
        let mut at = (0, 0);
        for Next { index, segment } in extra {
            at = put_run(&mut self.segment, frames, at.0, at.1, Some(index))?;
            if durable {
                self.segment.file.sync()?;
                self.all_synced();
            }
            self.segment = segment.name(&self.disk, &self.settings.config.path, durable)?;
            self.list();
        }
        put_run(&mut self.segment, frames, at.0, at.1, None).map(|_| ())
    }

    /// Makes a segment that begins with `first_sequence` and has room for at least `needed` bytes of frames. `extra_bytes`
    /// is what was made and is not listed yet.
    fn prepare(&mut self, first_sequence: u64, needed: u64, extra_bytes: u64) -> Result<Unnamed<D::File>, AppendError> {
        let file_bytes = self.settings.config.segment_bytes.max(segment::least_bytes(needed));
        let listed: u64 = self.segments.lock().expect("no holder panics").iter().map(|s| s.file_bytes).sum();
        let used = listed + extra_bytes;
        if used + file_bytes > self.settings.config.max_bytes {
            return Err(AppendError::Full(format!(
                "the journal holds {used} bytes that are not drained yet, and journal.max_bytes is {}",
                self.settings.config.max_bytes
            )));
        }
        let header = segment::new_header(&self.settings.clock, self.settings.epoch, self.next_number, first_sequence);
        let made = segment::prepare(&self.disk, &self.settings.config.path, header, file_bytes);
        self.next_number += 1;
        let _ = self.settings.waker.try_send(());
        made.map_err(|e| {
            log::error!("the journal's next segment cannot be made: {e}");
            AppendError::from_io(&e)
        })
    }

    /// Lists the segment that is written now.
    fn list(&self) {
        let info = SegmentInfo { header: self.segment.header, file_bytes: self.segment.file_bytes };
        self.segments.lock().expect("no holder panics").push(info);
    }
}

/// One write: the frames from `index`, whose bytes start at `at`, up to but not `until` (`None`: all that is left). Returns
/// where it ended.
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
