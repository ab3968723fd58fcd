//! What the parts of an open journal share.
//!
//! [`Journal`](super::Journal), the leader and the readers use it. Lock order: see commit.rs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::config::{Fsync, JournalConfig};
use crate::disk::Disk;
use crate::liveness::Pulse;

use super::erasures::{Erasure, ErasureIndex};
use super::error::AppendError;
use super::meters::JournalMeters;
use super::publish_notifier::PublishNotifier;
use super::queue::AppendQueue;
use super::record::{Entry, EntryView, Record};
use super::segment::SegmentInfo;
use super::writer::Writer;

/// Takes the records of a durable batch; called by one thread at a time, in sequence.
pub type Publish = Box<dyn Fn(&[Record]) + Send + Sync>;

/// The state that leader, readers and upkeep share.
pub struct JournalState<D: Disk> {
    pub(super) disk: D,
    pub(super) config: JournalConfig,
    pub(super) epoch: u64,
    pub(super) queue: Mutex<AppendQueue>,
    pub(super) writer: Mutex<Writer<D>>,
    pub(super) segments: Arc<Mutex<Vec<SegmentInfo>>>,
    /// Held while a segment is removed or replaced by another file, so that a removed one cannot come back.
    pub(super) swap: Mutex<()>,
    /// Ranges of sequences voided by abort records, first and last.
    pub(super) voids: Vec<(u64, u64)>,
    /// Published erasures.
    pub(super) erasures: RwLock<ErasureIndex>,
    pub(super) outlet: Outlet,
    pub(super) meters: Arc<JournalMeters>,
    pub(super) condition: Condition,
}

/// Where durable batches go.
pub struct Outlet {
    publish: Publish,
    /// Called after a leader has panicked.
    pub(super) on_panic: Box<dyn Fn() + Send + Sync>,
    /// Everything up to this sequence is durable and was handed to the publisher.
    published: AtomicU64,
    /// The sequence of the last imported message that is durable; 0 without one.
    pub(super) last_import: AtomicU64,
    /// Wakes those that wait for `published` to advance.
    pub(super) publish_notifier: PublishNotifier,
}

/// The journal's condition, readable without a lock.
pub struct Condition {
    /// No file has failed, or a new one was made since.
    pub(super) writable: AtomicBool,
    /// The last message was refused although no file has failed: the next segment cannot be made.
    pub(super) refusing: AtomicBool,
    /// The folder is no longer where it was: everything is refused.
    pub(super) moved: AtomicBool,
    /// Why the last append was refused.
    pub(super) refusal: Mutex<Option<AppendError>>,
    /// A write found no space: drained segments should be dropped, whatever their age.
    pub(super) short: AtomicBool,
    /// Wakes the janitor when [`Journal::maintain`](super::Journal::maintain) has something to do; it holds one
    /// wake-up.
    pub(super) waker: (Sender<()>, Receiver<()>),
    /// Of whoever leads: whether batches are written.
    pub(super) pulse: Arc<Pulse>,
}

/// A condition that an operator should know of, before messages are refused or dated wrong for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The file system of the journal is nearly full.
    DiskLow,
    /// More than half of `journal.max_bytes` is not drained yet.
    BacklogHigh,
    /// Ids, and with them the times of new messages, are more than a minute ahead of the clock: it was set back.
    IdsAhead,
    /// The clock shows a time before 2020.
    ClockBefore2020,
}

impl Warning {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::DiskLow, Self::BacklogHigh, Self::IdsAhead, Self::ClockBefore2020];

    /// Its name in the status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DiskLow => "disk_low",
            Self::BacklogHigh => "backlog_high",
            Self::IdsAhead => "ids_ahead",
            Self::ClockBefore2020 => "clock_before_2020",
        }
    }
}

impl Outlet {
    /// An outlet that has published everything up to `published`, the last import before that one included.
    pub fn new(publish: Publish, on_panic: Box<dyn Fn() + Send + Sync>, published: u64, last_import: u64) -> Self {
        let (published, last_import) = (AtomicU64::new(published), AtomicU64::new(last_import));
        Self { publish, on_panic, published, last_import, publish_notifier: PublishNotifier::default() }
    }

    /// Everything up to this sequence is durable and was handed to the publisher.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Hands records to the publisher; `last` is the last sequence of the batch.
    pub fn publish(&self, records: &[Record], last: u64) {
        (self.publish)(records);
        self.published.store(last, Ordering::Release);
        self.publish_notifier.wake();
    }
}

impl Condition {
    /// A good condition.
    pub fn new() -> Self {
        let no = || AtomicBool::new(false);
        let refusal = Mutex::default();
        let (writable, pulse) = (AtomicBool::new(true), Pulse::new("journal"));
        Self { writable, refusing: no(), moved: no(), refusal, short: no(), waker: bounded(1), pulse }
    }

    /// Updates the condition from the writer after it was used.
    pub fn look<D: Disk>(&self, writer: &Writer<D>) {
        self.writable.store(!writer.is_broken(), Ordering::Relaxed);
    }

    /// Updates the condition after a batch. A refusal wakes the janitor, which goes on checking. A success shows that
    /// refusals have ended only if it made a segment: a short message, or an erasure, may still fit where a long one did not.
    pub fn batch_ended<D: Disk>(&self, writer: &Writer<D>, written: &Result<(), AppendError>, records: &[Record]) {
        self.look(writer);
        if let Err(refusal) = written {
            self.refused(refusal);
            self.refusing.store(!writer.is_broken(), Ordering::Relaxed);
            self.wake();
        } else if records.first().is_some_and(|first| writer.has_begun_segment_since(first.sequence)) {
            self.refusing.store(false, Ordering::Relaxed);
        }
    }

    /// Stores why an append was refused, or would be.
    pub fn refused(&self, refusal: &AppendError) {
        self.short.fetch_or(matches!(refusal, AppendError::Full(_)), Ordering::Relaxed);
        *self.refusal.lock().expect("no holder panics") = Some(refusal.clone());
    }

    /// Wakes the janitor.
    pub fn wake(&self) {
        let _ = self.waker.0.try_send(());
    }
}

impl<D: Disk> JournalState<D> {
    /// Whether every batch is synced before it is acknowledged.
    pub(super) fn syncs(&self) -> bool {
        self.config.fsync == Fsync::Always
    }

    /// Whether the entry is an erased message.
    pub(super) fn is_erased(&self, entry: &EntryView<'_>) -> bool {
        let Some(message) = entry.message() else { return false };
        self.erasures.read().expect("no holder panics").covers(message.session(), message.id())
    }

    /// Notes the erasures and imports among durable records, before the records are published.
    pub(super) fn note(&self, records: &[Record]) {
        for record in records {
            if let Entry::Erasure { id, session } = &record.entry {
                let erasure = Erasure { sequence: record.sequence, id: *id, session: session.clone() };
                self.erasures.write().expect("no holder panics").note(erasure);
                // The janitor scrubs.
                self.condition.wake();
            }
            if record.entry.is_import() {
                self.outlet.last_import.store(record.sequence, Ordering::Release);
            }
        }
    }
}
