//! Upkeep of an open journal, outside of requests: dropping drained segments, the spare, digests, syncs by interval,
//! repair after a failure, and checks of free space.
//!
//! The worker calls `prune`, the janitor `maintain`, the thread `journal-sync` syncs; nothing here runs under the
//! queue's lock.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::disk::{Disk, DiskSpace};
use crate::liveness::{self, Pulse};
use crate::message::Timestamp;

use super::age::Ages;
use super::digest::{self, Digest};
use super::error::AppendError;
use super::shared::Warning;
use super::{Journal, segment};

/// A file system counts as low when less than a tenth of it is free and less than this.
const LOW_BYTES: u64 = 2 << 30;
/// Ids further ahead of the clock than this are a warning.
const IDS_AHEAD_MAX: Duration = Duration::from_secs(60);
/// 2020-01-01T00:00:00Z, in microseconds: a clock before it was never set.
const YEAR_2020_MICROS: u64 = 1_577_836_800_000_000;

impl<D: Disk> Journal<D> {
    /// Drops segments before `drained` that are older than `journal.retain_hours` (age.rs). While the journal takes
    /// more than three quarters of `journal.max_bytes`, or the disk has no space for two more segments, drops them at
    /// any age. The checkpoint must be stored first. Returns how many were dropped.
    ///
    /// # Errors
    /// A segment could not be removed durably. Those removed before it stay removed; the next call tries the rest.
    pub fn prune(&self, drained: u64, now: Timestamp) -> io::Result<usize> {
        self.drained.store(drained, Ordering::Relaxed);
        let short = self.shared.condition.short.swap(false, Ordering::Relaxed);
        let ages = {
            let mut ages = self.ages.lock().expect("no holder panics");
            ages.look(now);
            *ages
        };
        let mut needed = self.room_needed().max(u64::from(short));
        let (was_needed, mut dropped) = (needed > 0, 0);
        let to_drop = |needed: u64| {
            let free = drained.min(self.pinned.load(Ordering::SeqCst));
            self.oldest_to_drop(free, ages, needed > 0)
        };
        while let Some((oldest, bytes)) = to_drop(needed) {
            needed = needed.saturating_sub(bytes);
            let _alone = self.shared.swap.lock().expect("no holder panics");
            match self.shared.disk.remove(&segment::path(&self.shared.config.path, oldest)) {
                // Removed by hand, which must not keep the segments after it for ever.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
            // One after the other, also after a power cut: only the beginning of a later segment may tell that records
            // of an earlier one are void.
            self.shared.disk.sync_dir(&self.shared.config.path)?;
            // A digest without its segment is harmless: a new segment of that number has another salt.
            let _ = self.shared.disk.remove(&digest::path(&self.shared.config.path, oldest));
            let mut segments = self.shared.segments.lock().expect("no holder panics");
            segments.retain(|s| s.header.number != oldest);
            let first = segments.first().map_or(0, |s| s.header.first_sequence);
            drop(segments);
            self.shared.queue.lock().expect("no holder panics").keys.forget_before(first);
            self.shared.erasures.write().expect("no holder panics").forget_before(first);
            dropped += 1;
        }
        if was_needed && dropped > 0 {
            log::warn!("the disk is full: {dropped} drained segments of the journal were dropped for room");
            self.shared.condition.wake();
        }
        Ok(dropped)
    }

    /// Bytes that the disk lacks for the next segment and the spare after it.
    fn room_needed(&self) -> u64 {
        let free = self.disk_space().map_or(u64::MAX, |disk_space| disk_space.free_bytes);
        self.shared.config.segment_bytes.saturating_mul(2).saturating_sub(free)
    }

    /// The number and length of the oldest segment, if it may be dropped.
    fn oldest_to_drop(&self, drained: u64, ages: Ages, short: bool) -> Option<(u64, u64)> {
        let segments = self.shared.segments.lock().expect("no holder panics");
        let [oldest, next, ..] = &segments[..] else { return None };
        let bytes: u64 = segments.iter().map(|s| s.file_bytes).sum();
        // The record that tells that copies elsewhere must still be scrubbed stays, unless space is needed.
        let erasing = self.shared.erasures.read().expect("no holder panics").first_unscrubbed();
        let past = ages.is_past(next.header.made_micros, self.shared.config.retain)
            && erasing.is_none_or(|sequence| sequence >= next.header.first_sequence);
        let pressed = bytes + self.shared.config.segment_bytes > self.shared.config.max_bytes / 4 * 3;
        let may = next.header.first_sequence <= drained + 1 && (past || pressed || short);
        may.then_some((oldest.header.number, oldest.file_bytes))
    }

    /// Zeroes the spare segment, writes the digests of sealed segments, and tries to make a failed journal writable
    /// again. The janitor calls it when the waker fires.
    ///
    /// # Errors
    /// The spare or a digest could not be written. What was written stays; the next call tries the rest.
    pub fn maintain(&self) -> io::Result<()> {
        let (folder, condition) = (&self.shared.config.path, &self.shared.condition);
        let moved = self.lock.as_ref().is_some_and(|lock| !lock.is_in_place(folder));
        condition.moved.store(moved, Ordering::Relaxed);
        if moved {
            // What is there now belongs to another program.
            return Err(io::Error::other(AppendError::moved(folder)));
        }
        if !self.is_writable() {
            self.shared.mend();
        }
        self.log_warnings();
        let (disk, bytes) = (&self.shared.disk, self.shared.config.segment_bytes);
        let refuses = condition.refusing.load(Ordering::Relaxed);
        // A spare that is there can be all that the folder allows: a message needs another name for it.
        let ready = segment::prepare_spare(disk, folder, bytes)
            .and_then(|()| if refuses { segment::rename_spare(disk, folder) } else { Ok(()) });
        match &ready {
            Ok(()) if refuses && self.stats().bytes + bytes <= self.shared.config.max_bytes => {
                self.shared.end_refusal();
            }
            Ok(()) => {}
            Err(e) if refuses => condition.refused(&AppendError::from_io(e)),
            Err(e) if matches!(AppendError::from_io(e), AppendError::Full(_)) => self.want_room(),
            Err(_) => {}
        }
        ready?;
        self.write_digests()
    }

    /// Writes the digests of sealed segments that this process has not written or checked yet.
    fn write_digests(&self) -> io::Result<()> {
        let mut sealed = self.shared.segments.lock().expect("no holder panics").clone();
        sealed.pop();
        let mut digested = self.digested.lock().expect("no holder panics");
        for info in sealed.iter().filter(|info| info.header.number > *digested) {
            match Digest::ensure(&self.shared.disk, &self.shared.config.path, info) {
                // Dropped in the meantime.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                written => written?,
            }
        }
        *digested = sealed.last().map_or(0, |info| info.header.number);
        Ok(())
    }

    /// The free and total space of the file system that holds the journal.
    ///
    /// # Errors
    /// The file system could not be queried. Nothing was changed; a retry is safe.
    pub fn disk_space(&self) -> io::Result<DiskSpace> {
        self.shared.disk.space(&self.shared.config.path)
    }

    /// The current [`Warning`]s.
    pub fn warnings(&self) -> Vec<Warning> {
        let disk = self.disk_space().is_ok_and(is_low).then_some(Warning::DiskLow);
        let backlog = self.stats().undrained_bytes > self.shared.config.max_bytes / 2;
        let ids = (self.ids_ahead() > IDS_AHEAD_MAX).then_some(Warning::IdsAhead);
        let clock = (self.clock.now().micros() < YEAR_2020_MICROS).then_some(Warning::ClockBefore2020);
        disk.into_iter().chain(backlog.then_some(Warning::BacklogHigh)).chain(ids).chain(clock).collect()
    }

    /// How far the last id is ahead of the clock: 0 unless the clock was set back, or another server's is ahead.
    pub fn ids_ahead(&self) -> Duration {
        let last = self.shared.queue.lock().expect("no holder panics").last_time();
        Duration::from_micros(last.micros().saturating_sub(self.clock.now().micros()))
    }

    /// The warnings as they were at the last look, a few seconds ago at most. Asks no disk.
    pub fn known_warnings(&self) -> Vec<Warning> {
        self.warned.lock().expect("no holder panics").clone()
    }

    /// Logs each warning when it begins and when it ends.
    fn log_warnings(&self) {
        let now = self.warnings();
        let before = std::mem::replace(&mut *self.warned.lock().expect("no holder panics"), now.clone());
        for warning in now.iter().filter(|warning| !before.contains(warning)) {
            match warning {
                Warning::DiskLow => {
                    let free = self.disk_space().map_or(0, |disk_space| disk_space.free_bytes >> 20);
                    log::warn!("the disk of {} is nearly full: {free} MiB are free", self.shared.config.path.display());
                }
                Warning::BacklogHigh => log::warn!(
                    "{} MiB of the journal are not drained yet; at journal.max_bytes ({} MiB) messages are refused",
                    self.stats().undrained_bytes >> 20,
                    self.shared.config.max_bytes >> 20
                ),
                Warning::IdsAhead => log::warn!(
                    "the clock was set back: ids never go back, so messages are dated {} s ahead of it until it has caught up",
                    self.ids_ahead().as_secs()
                ),
                Warning::ClockBefore2020 => {
                    log::warn!(
                        "the clock shows {}, before 2020: messages are dated so until it is set",
                        self.clock.now()
                    );
                }
            }
        }
        for warning in before.iter().filter(|warning| !now.contains(warning)) {
            log::info!("no longer: {}", warning.as_str());
        }
    }

    /// Receives when [`Journal::maintain`] has something to do: the spare was used, a file failed, or something was
    /// erased.
    pub fn waker(&self) -> &Receiver<()> {
        &self.shared.condition.waker.1
    }

    /// Syncs every `journal.fsync_interval_ms` until `stop` receives or its sender is dropped: the thread
    /// `journal-sync`.
    pub fn sync_by_interval(&self, stop: &Receiver<()>) {
        let pulse = Pulse::new("journal-sync");
        let _running = pulse.enter();
        let interval = self.shared.config.fsync_interval;
        while let Err(RecvTimeoutError::Timeout) = liveness::waits(|| stop.recv_timeout(interval)) {
            self.sync_outside();
        }
    }

    /// Syncs once without holding the writer, so that appends go on meanwhile.
    pub(super) fn sync_outside(&self) {
        let file = self.shared.writer.lock().expect("no holder panics").begin_sync();
        let Some(file) = file else { return };
        let result = self.shared.meters.sync(&*file);
        let mut writer = self.shared.writer.lock().expect("no holder panics");
        // The writer logs a failure; the next batch makes a new segment.
        let _ = writer.end_sync(result);
        self.shared.condition.look(&writer);
    }

    /// Syncs everything written so far: the end of an ordered stop.
    ///
    /// # Errors
    /// [`AppendError`]: the disk failed. A power cut may take what was written since the last sync; another call tries
    /// to write it to a new segment.
    pub fn sync(&self) -> Result<(), AppendError> {
        // A file that failed is never synced again: what was not synced is written again.
        self.shared.mend();
        let mut writer = self.shared.writer.lock().expect("no holder panics");
        if writer.is_broken() {
            return Err(AppendError::Unavailable("the journal's file failed, and no new one can be made".into()));
        }
        let outcome = writer.sync();
        self.shared.condition.look(&writer);
        outcome
    }
}

fn is_low(disk_space: DiskSpace) -> bool {
    disk_space.free_bytes < (disk_space.total_bytes / 10).min(LOW_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_low_below_a_tenth_of_it_and_two_gibibytes() {
        let disk_space = |free_bytes, total_bytes| DiskSpace { free_bytes, total_bytes };
        for (mib_free, mib_total, low) in
            [(99, 1000, true), (100, 1000, false), (2047, 4_000_000, true), (2048, 4_000_000, false), (0, 0, false)]
        {
            assert_eq!(is_low(disk_space(mib_free << 20, mib_total << 20)), low, "{mib_free} of {mib_total} MiB");
        }
    }
}
