//! When the worker flushes: by the interval, by what was taken, for room on a full disk, and again after a failure.
//!
//! Knows nothing of what a flush is.

use std::time::{Duration, Instant};

use crate::config::JournalConfig;

/// Between two looks whether segments are to go, by their age or because the disk is full, when nothing else is due.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Between two flushes for the sake of the room that drained segments leave, while the disk is full.
const FULL_DISK_FLUSH_INTERVAL: Duration = Duration::from_millis(50);
/// Between two flushes that are brought forward by what was taken: each looks at every transcript touched since the last.
const FLUSH_INTERVAL_MIN: Duration = Duration::from_millis(500);
/// The pause after a failed flush.
pub(super) const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Schedule {
    interval: Duration,
    segment_bytes: u64,
    journal_bytes_max: u64,
    /// A checkpoint is due then.
    pub(super) due: Option<Instant>,
    /// Segments are looked at then at the latest.
    look: Instant,
    last_flush: Instant,
    /// Taken since the last flush.
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
            bytes: 0,
        }
    }

    /// A flush begins, and is due no more.
    pub(super) fn begin(&mut self) {
        (self.due, self.bytes, self.last_flush) = (None, 0, Instant::now());
        self.look = self.last_flush + CHECK_INTERVAL;
    }

    /// One is due at once.
    pub(super) fn now(&mut self) {
        self.due = Some(Instant::now());
    }

    /// One is due within the interval.
    pub(super) fn soon(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + self.interval);
    }

    /// It did not come to its end.
    pub(super) fn again(&mut self) {
        self.due = Some(Instant::now() + PAUSE_AFTER_FAILURE);
    }

    /// So much was taken: a segment's worth brings the flush forward, though not more often than [`FLUSH_INTERVAL_MIN`] unless
    /// the journal would fill meanwhile.
    pub(super) fn took(&mut self, bytes: u64) {
        self.bytes += bytes;
        let may_be_brought_forward =
            || self.last_flush.elapsed() >= FLUSH_INTERVAL_MIN || self.bytes > self.journal_bytes_max / 8;
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
