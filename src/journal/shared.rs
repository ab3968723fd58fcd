//! What the parts of an open journal share.
//!
//! The journal's face, the leader and the readers stand above it. Lock order: see commit.rs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::config::JournalConfig;
use crate::disk::Disk;

use super::erasures::{Erasure, Erasures};
use super::error::AppendError;
use super::publish_notifier::PublishNotifier;
use super::queue::Queue;
use super::record::{Entry, Record};
use super::segment::SegmentInfo;
use super::writer::Writer;

/// What takes the records of a batch once they are durable: called by one thread at a time, in sequence.
pub type Publish = Box<dyn Fn(&[Record]) + Send + Sync>;

/// See the module.
pub struct JournalState<D: Disk> {
    pub(super) disk: D,
    pub(super) config: JournalConfig,
    pub(super) epoch: u64,
    pub(super) queue: Mutex<Queue>,
    pub(super) writer: Mutex<Writer<D>>,
    pub(super) segments: Arc<Mutex<Vec<SegmentInfo>>>,
    /// Held by whoever removes a segment or puts another file in its place, so that none comes back.
    pub(super) swap: Mutex<()>,
    /// Ranges of sequences that an abort record voids.
    pub(super) voids: Vec<(u64, u64)>,
    /// What is erased, from the moment it is published.
    pub(super) erasures: RwLock<Erasures>,
    /// Whether every batch is synced before it is answered.
    pub(super) syncs: bool,
    pub(super) outlet: Outlet,
    pub(super) condition: Condition,
}

/// Where batches go once they are durable.
pub struct Outlet {
    publish: Publish,
    /// Called once a leader has panicked.
    pub(super) on_panic: Box<dyn Fn() + Send + Sync>,
    /// Everything up to this sequence is durable and was handed to the publisher.
    published: AtomicU64,
    /// Who waits for more of it.
    pub(super) publish_notifier: PublishNotifier,
}

/// How the journal is, for those who look at it without a lock.
pub struct Condition {
    /// No file has failed, or a new one was made since.
    pub(super) writable: AtomicBool,
    /// The last message was refused although no file has failed: the next segment cannot be made.
    pub(super) refusing: AtomicBool,
    /// The folder is no longer where it was: everything is refused.
    pub(super) moved: AtomicBool,
    /// Why the last append was refused.
    pub(super) refusal: Mutex<Option<AppendError>>,
    /// Something could not be written for want of room: drained segments are to go, whatever their age.
    pub(super) short: AtomicBool,
    /// Woken when whoever tends the journal has something to do. One wake-up is as good as many.
    pub(super) waker: (Sender<()>, Receiver<()>),
}

/// What will end in refusals unless somebody sees to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The file system of the journal is nearly full.
    DiskLow,
    /// More than half of `journal.max_bytes` is not drained yet.
    BacklogHigh,
}

impl Warning {
    /// The word for the status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DiskLow => "disk_low",
            Self::BacklogHigh => "backlog_high",
        }
    }
}

impl Outlet {
    /// Where everything up to `published` went.
    pub fn new(publish: Publish, on_panic: Box<dyn Fn() + Send + Sync>, published: u64) -> Self {
        Self { publish, on_panic, published: AtomicU64::new(published), publish_notifier: PublishNotifier::default() }
    }

    /// Everything up to this sequence is durable and was handed to the publisher.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Hands on records, of which `last` is the last sequence.
    pub fn publish(&self, records: &[Record], last: u64) {
        (self.publish)(records);
        self.published.store(last, Ordering::Release);
        self.publish_notifier.wake();
    }
}

impl Condition {
    /// A good one, with a waker.
    pub fn new() -> Self {
        let no = || AtomicBool::new(false);
        let refusal = Mutex::default();
        Self { writable: AtomicBool::new(true), refusing: no(), moved: no(), refusal, short: no(), waker: bounded(1) }
    }

    /// Takes how the writer is after it was used.
    pub fn look<D: Disk>(&self, writer: &Writer<D>) {
        self.writable.store(!writer.is_broken(), Ordering::Relaxed);
    }

    /// Takes how a batch ended. Whoever tends the journal is to see a refusal, and to go on looking. That there was room for
    /// an erasure says nothing: some is kept for those.
    pub fn batch_ended<D: Disk>(&self, writer: &Writer<D>, written: &Result<(), AppendError>, records: &[Record]) {
        self.look(writer);
        if let Err(refusal) = written {
            self.refused(refusal);
            self.refusing.store(!writer.is_broken(), Ordering::Relaxed);
            self.wake();
        } else if self.refusing.load(Ordering::Relaxed) && records.iter().any(|record| !record.entry.is_erasure()) {
            self.refusing.store(false, Ordering::Relaxed);
        }
    }

    /// Keeps why an append was refused, or would be.
    pub fn refused(&self, refusal: &AppendError) {
        self.short.fetch_or(matches!(refusal, AppendError::Full(_)), Ordering::Relaxed);
        *self.refusal.lock().expect("no holder panics") = Some(refusal.clone());
    }

    /// Whoever tends the journal has something to do.
    pub fn wake(&self) {
        let _ = self.waker.0.try_send(());
    }
}

impl<D: Disk> JournalState<D> {
    /// Whether the entry is a message that was erased.
    pub(super) fn is_erased(&self, entry: &Entry) -> bool {
        let Some(message) = entry.message() else { return false };
        self.erasures.read().expect("no holder panics").covers(message.session(), message.id())
    }

    /// Takes the erasures among records that are durable, before anybody else hears of them.
    pub(super) fn note_erasures(&self, records: &[Record]) {
        for record in records {
            if let Entry::Erasure { id, session } = &record.entry {
                let erasure = Erasure { sequence: record.sequence, id: *id, session: session.clone() };
                self.erasures.write().expect("no holder panics").note(erasure);
                // Whoever tends the journal scrubs.
                self.condition.wake();
            }
        }
    }
}
