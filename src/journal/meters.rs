//! What the journal counts for the metrics. Knows nothing of who reads it.

use std::io;
use std::time::Instant;

use crate::disk::DiskFile;
use crate::metrics::{Counter, Histogram, family};

use super::error::AppendError;

/// Counters since the start.
pub struct JournalMeters {
    /// Every sync of a segment.
    pub sync_seconds: Histogram,
    /// Every batch that was written.
    pub batch_records: Histogram,
    /// Refusals of callers, by [`AppendError::reason`].
    pub refused: [Counter; AppendError::REASONS.len()],
}

impl JournalMeters {
    /// Nothing was counted.
    pub(super) fn new() -> Self {
        Self {
            sync_seconds: Histogram::of_seconds(&family::JOURNAL_SYNC_SECONDS),
            batch_records: Histogram::of_numbers(&family::JOURNAL_BATCH_RECORDS),
            refused: Default::default(),
        }
    }

    /// Syncs a file and counts how long it took, whatever comes of it.
    pub(super) fn sync<F: DiskFile>(&self, file: &F) -> io::Result<()> {
        let began = Instant::now();
        let synced = file.sync();
        self.sync_seconds.observe(began.elapsed());
        synced
    }
}
