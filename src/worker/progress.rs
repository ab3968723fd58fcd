//! How far the worker is, told to whoever asks for the status. One thread writes it and any may read; each figure stands for
//! itself, so they are relaxed atomics and no lock. Knows nothing of how they come about.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::message::Timestamp;

/// See the module.
#[derive(Debug)]
pub struct Progress {
    drained: AtomicU64,
    transcribed: AtomicU64,
    /// What MongoDB has, while it is switched off and is owed more; [`NOTHING_OWED`] otherwise.
    owed_after: AtomicU64,
    /// Microseconds since 1970; 0 when there is none.
    oldest_pending: AtomicU64,
    last_flush: AtomicU64,
    used_mongo: AtomicBool,
    erasures_owed: AtomicUsize,
    erasures_noted: AtomicU64,
}

/// No sequence: the journal's end would have to come there.
const NOTHING_OWED: u64 = u64::MAX;

impl Default for Progress {
    fn default() -> Self {
        Self {
            drained: AtomicU64::default(),
            transcribed: AtomicU64::default(),
            owed_after: AtomicU64::new(NOTHING_OWED),
            oldest_pending: AtomicU64::default(),
            last_flush: AtomicU64::default(),
            used_mongo: AtomicBool::default(),
            erasures_owed: AtomicUsize::default(),
            erasures_noted: AtomicU64::default(),
        }
    }
}

impl Progress {
    /// Everything up to this sequence is where it is to go: in MongoDB, or without it in the transcripts.
    pub fn drained(&self) -> u64 {
        self.drained.load(Ordering::Relaxed)
    }

    /// Everything up to this sequence is in the transcripts, synced.
    pub fn transcribed(&self) -> u64 {
        self.transcribed.load(Ordering::Relaxed)
    }

    /// MongoDB is switched off, and everything behind this sequence is owed to it once it is switched on again; `None`
    /// when it is in use, or owed nothing.
    pub fn owed_after(&self) -> Option<u64> {
        Some(self.owed_after.load(Ordering::Relaxed)).filter(|&sequence| sequence != NOTHING_OWED)
    }

    /// MongoDB is or was in use: it may hold what is erased now.
    pub fn used_mongo(&self) -> bool {
        self.used_mongo.load(Ordering::Relaxed)
    }

    /// Sessions that are erased and noted for MongoDB, which has still to delete them.
    pub fn erasures_owed(&self) -> usize {
        self.erasures_owed.load(Ordering::Relaxed)
    }

    /// While MongoDB is switched off and was in use before: what is erased behind this sequence is not noted yet.
    pub fn erasures_noted(&self) -> u64 {
        self.erasures_noted.load(Ordering::Relaxed)
    }

    /// The time of the oldest message that was taken and is not yet safe in the sink.
    pub fn oldest_pending(&self) -> Option<Timestamp> {
        time(&self.oldest_pending)
    }

    /// When the sink was last made safe.
    pub fn last_flush(&self) -> Option<Timestamp> {
        time(&self.last_flush)
    }

    pub(super) fn set_drained(&self, sequence: u64) {
        self.drained.store(sequence, Ordering::Relaxed);
    }

    pub(super) fn set_transcribed(&self, sequence: u64) {
        self.transcribed.store(sequence, Ordering::Relaxed);
    }

    pub(super) fn set_owed_after(&self, sequence: Option<u64>) {
        self.owed_after.store(sequence.unwrap_or(NOTHING_OWED), Ordering::Relaxed);
    }

    pub(super) fn set_used_mongo(&self, used: bool) {
        self.used_mongo.store(used, Ordering::Relaxed);
    }

    pub(super) fn set_erasures_owed(&self, count: usize) {
        self.erasures_owed.store(count, Ordering::Relaxed);
    }

    pub(super) fn set_erasures_noted(&self, sequence: u64) {
        self.erasures_noted.store(sequence, Ordering::Relaxed);
    }

    /// The oldest is the first of those that were taken since the last flush.
    pub(super) fn took(&self, time: Timestamp) {
        if self.oldest_pending().is_none() {
            self.oldest_pending.store(time.micros(), Ordering::Relaxed);
        }
    }

    pub(super) fn nothing_pending(&self) {
        self.oldest_pending.store(0, Ordering::Relaxed);
    }

    pub(super) fn flushed(&self, now: Timestamp) {
        self.last_flush.store(now.micros(), Ordering::Relaxed);
    }
}

fn time(micros: &AtomicU64) -> Option<Timestamp> {
    Some(micros.load(Ordering::Relaxed)).filter(|&micros| micros > 0).map(Timestamp::from_micros)
}
