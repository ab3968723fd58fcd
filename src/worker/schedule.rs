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
            bytes: 0,
        }
    }

    /// A flush begins, so none is due.
    pub(super) fn begin(&mut self) {
        (self.due, self.bytes, self.last_flush) = (None, 0, Instant::now());
        self.look = self.last_flush + CHECK_INTERVAL;
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

    /// Notes bytes taken: a segment's worth brings the flush forward, though not more often than [`FLUSH_INTERVAL_MIN`]
    /// unless the journal would fill up meanwhile.
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
