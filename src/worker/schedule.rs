//! When the worker flushes: by the interval, by the bytes taken, for space on a full disk, and again after a failure.
//!
//! Knows nothing of what a flush does.

use std::time::{Duration, Instant};

use crate::config::JournalConfig;

/// How often the worker checks, when nothing else is due, whether segments should go because of their age or a full
/// disk.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The least time between two flushes on a full disk, each of which may free drained segments.
const FULL_DISK_FLUSH_INTERVAL: Duration = Duration::from_millis(50);
/// The least time between two flushes that the bytes taken bring forward: each visits every transcript touched since
/// the last.
const FLUSH_INTERVAL_MIN: Duration = Duration::from_millis(500);
/// The same as a multiple of how long the last one took: over many sessions a flush takes up to a second.
const FLUSH_INTERVAL_FACTOR: u32 = 8;
/// The pause after a failed flush.
pub(super) const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// When the next flush is due.
pub(super) struct Schedule {
    interval: Duration,
    segment_bytes: u64,
    journal_bytes_max: u64,
    /// A checkpoint is due then.
    pub(super) due: Option<Instant>,
    /// The latest time of the next check for old segments.
    look: Instant,
    last_flush: Instant,
    /// How long the last flush took.
    flush_time: Duration,
    /// Bytes taken since the last flush.
    bytes: u64,
}

impl Schedule {
    /// Nothing is due yet.
    pub(super) fn new(config: &JournalConfig) -> Self {
        Self {
            interval: config.checkpoint_interval,
            segment_bytes: config.segment_bytes,
            journal_bytes_max: config.max_bytes,
            due: None,
            look: Instant::now(),
            last_flush: Instant::now(),
            flush_time: Duration::ZERO,
            bytes: 0,
        }
    }

    /// A flush begins, so none is due.
    pub(super) fn begin(&mut self) {
        (self.due, self.bytes, self.last_flush) = (None, 0, Instant::now());
        self.look = self.last_flush + CHECK_INTERVAL;
    }

    /// Notes that a flush has ended, whether it succeeded or not.
    pub(super) fn end(&mut self) {
        self.flush_time = self.last_flush.elapsed();
    }

    /// Makes a flush due at once.
    pub(super) fn now(&mut self) {
        self.due = Some(Instant::now());
    }

    /// Makes a flush due within the interval.
    pub(super) fn soon(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + self.interval);
    }

    /// The flush failed: the next one comes after a pause.
    pub(super) fn again(&mut self) {
        self.due = Some(Instant::now() + PAUSE_AFTER_FAILURE);
    }

    /// Notes bytes taken: a segment's worth brings the flush forward, though not more often than [`FLUSH_INTERVAL_MIN`] and
    /// [`FLUSH_INTERVAL_FACTOR`] allow, unless the journal would fill up meanwhile.
    pub(super) fn took(&mut self, bytes: u64) {
        self.bytes += bytes;
        let pause = FLUSH_INTERVAL_MIN.max(self.flush_time * FLUSH_INTERVAL_FACTOR);
        let may_be_brought_forward = || self.last_flush.elapsed() >= pause || self.bytes > self.journal_bytes_max / 8;
        if self.bytes > self.segment_bytes && may_be_brought_forward() {
            self.now();
        } else {
            self.soon();
        }
    }

    /// Whether a flush is due.
    pub(super) fn is_due(&self, wants_room: bool) -> bool {
        let now = Instant::now();
        let for_room = wants_room && self.last_flush.elapsed() >= FULL_DISK_FLUSH_INTERVAL;
        self.due.is_some_and(|due| now >= due) || now >= self.look || for_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// When a flush is due once a segment's worth and a byte were taken, a second after the last one, which took so long.
    fn due_after(flush_time: Duration, bytes_max: u64) -> Duration {
        let mut config = Config::defaults(None).unwrap().journal;
        config.max_bytes = bytes_max;
        let mut schedule = Schedule::new(&config);
        schedule.last_flush = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        schedule.flush_time = flush_time;
        schedule.took(config.segment_bytes + 1);
        schedule.due.unwrap().saturating_duration_since(Instant::now())
    }

    #[test]
    fn what_was_taken_brings_a_flush_forward_unless_flushes_take_long() {
        let roomy = 1 << 40;
        assert_eq!(due_after(Duration::from_millis(100), roomy), Duration::ZERO);
        assert!(due_after(Duration::from_secs(2), roomy) > Duration::ZERO, "it waits for its interval");
        // A journal that would fill meanwhile does not wait.
        assert_eq!(due_after(Duration::from_secs(9), 1 << 20), Duration::ZERO);
    }

    #[test]
    fn a_flush_is_timed_from_its_beginning_to_its_end() {
        let mut schedule = Schedule::new(&Config::defaults(None).unwrap().journal);
        schedule.begin();
        schedule.last_flush -= Duration::from_secs(3);
        schedule.end();
        assert!(schedule.flush_time >= Duration::from_secs(3));
    }
}
