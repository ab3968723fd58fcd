//! Where the worker's records come from: the channel while each is the next one, else the journal, in bounded pieces.
//!
//! Invariant: records are handed out in sequence; only refused records leave gaps. Knows nothing of what is done with
//! them.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, never};

use crate::backoff::Backoff;
use crate::disk::Disk;
use crate::journal::{Checkpoint, Journal, Reader, Record};
use crate::message::Id;

/// Bytes of one read of the journal; its records take three times as much memory.
pub(super) const READ_BYTES: usize = 256 << 10;
/// How often an idle worker looks at what is published: the only reason why an idle process wakes.
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The same while a record was offered and the records before it are not published yet.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(5);
/// The longest pause after a failed read.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The worker's records, in sequence.
pub(super) struct RecordSource<D: Disk> {
    journal: Arc<Journal<D>>,
    pub(super) channel: Receiver<Record>,
    reader: Reader<D>,
    /// Everything up to this sequence was taken.
    pub(super) position: u64,
    /// The largest id given to what was taken.
    pub(super) largest_id: Option<Id>,
    /// The largest sequence that the channel offered.
    offered: u64,
    reading: Backoff,
}

impl<D: Disk> RecordSource<D> {
    /// The records after `checkpoint`.
    pub(super) fn new(journal: Arc<Journal<D>>, channel: Receiver<Record>, checkpoint: &Checkpoint) -> Self {
        let (reader, position) = (journal.reader(checkpoint.transcribed), checkpoint.transcribed);
        let reading = Backoff::new(PAUSE_AFTER_FAILURE, PAUSE_AFTER_FAILURE);
        Self { journal, channel, reader, position, largest_id: checkpoint.largest_id, offered: 0, reading }
    }

    /// A record of the channel, if there is one.
    pub(super) fn receive(&mut self) -> Option<Record> {
        let received = self.channel.try_recv();
        if received == Err(TryRecvError::Disconnected) {
            // The recorder is gone; the stop follows.
            self.channel = never();
        }
        received.ok()
    }

    /// Whether a record of the channel is the next one; if not, some were skipped, and the journal has them.
    pub(super) fn is_next(&mut self, record: &Record) -> bool {
        self.offered = self.offered.max(record.sequence);
        let is_next = record.sequence == self.position + 1;
        if is_next {
            self.reader.skip_to(record.sequence);
        }
        is_next
    }

    /// Notes that a record was taken.
    pub(super) fn took(&mut self, record: &Record) {
        self.position = record.sequence;
        self.largest_id = self.largest_id.max(record.entry.given_id());
    }

    /// Whether to read from the journal: records before the one last offered, or, when the channel is empty, the last
    /// ones, which were skipped.
    pub(super) fn is_lagging(&self) -> bool {
        // In this order: what is published was offered before.
        let published = self.journal.published();
        let skipped = self.position < self.offered || (self.position < published && self.channel.is_empty());
        skipped && !self.reading.pauses()
    }

    /// Whether more is published.
    pub(super) fn has_more(&self) -> bool {
        self.position < self.journal.published()
    }

    /// The next records of the journal, including those read before a failure.
    pub(super) fn read(&mut self) -> (Vec<Record>, io::Result<()>) {
        let mut records = Vec::new();
        let read = self.reader.read(READ_BYTES, |record| records.push(record));
        (records, read.map(drop))
    }

    /// Notes that the records read were taken; returns whether to read on.
    pub(super) fn has_read(&mut self, read: io::Result<()>) -> bool {
        // Refused sequences leave gaps.
        self.position = self.position.max(self.reader.position());
        let is_read = read.is_ok();
        self.reading.take(
            read,
            "[CHAT WORKER] The journal cannot be read",
            "[CHAT WORKER] The journal can be read again",
        );
        is_read
    }

    /// Ends the pause after a failed read.
    pub(super) fn end_pause(&mut self) {
        self.reading.end_pause();
    }

    /// How long to wait if no record comes.
    pub(super) fn wait(&self) -> Duration {
        let idle = if self.position < self.offered { RETRY_INTERVAL } else { IDLE_POLL_INTERVAL };
        self.reading.until().map_or(idle, |again| again.saturating_duration_since(Instant::now()).max(RETRY_INTERVAL))
    }
}
