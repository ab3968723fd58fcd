//! The write-ahead journal: what was answered "kept" is here, whatever happens next.
//!
//! Goals: an acknowledged record survives a kill, and under `fsync: always` a power cut; damage costs the records it
//! touches and no other; one sync serves all who wait; memory is bounded whatever the backlog. Non-goals: queries,
//! secondary order, many writers.
//!
//! From the outside in:
//!
//! | file | what |
//! |---|---|
//! | `queue.rs` | what gives records their place: the open batch, ids, keys |
//! | `commit.rs` | group commit: ticket, leader, publication |
//! | `writer.rs` | frames into segments: sync, roll, what follows a failure |
//! | `reader.rs` | records back out, in sequence, up to what is published |
//! | `recovery.rs` | what happens before the first record is taken |
//! | `checkpoint.rs` | up to where everything has arrived |
//! | `digest.rs` | what a start must know of a segment, without walking it |
//! | `keys.rs` | idempotency keys |
//! | `age.rs` | how old a segment is, whatever the clock does |
//! | `segment.rs` | the files, zeroed ahead |
//! | `scan.rs` | a walk over frames and damage |
//! | `record.rs` | payloads: messages, erasures, aborts, context-clears |
//! | `frame.rs` | the bytes |
//!
//! Knows nothing of sessions, caches, transcripts, MongoDB or HTTP: its records go to the publisher it was opened with.

mod age;
mod checkpoint;
#[cfg(test)]
mod clock_tests;
mod commit;
#[cfg(test)]
mod crash_tests;
mod digest;
#[cfg(test)]
mod fault_tests;
mod frame;
#[cfg(test)]
mod fuzz_tests;
mod keys;
mod queue;
mod reader;
mod record;
mod recovery;
mod scan;
mod segment;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::config::JournalConfig;
use crate::disk::{Disk, DiskFile, RealDisk};
use crate::message::{Clock, IdGenerator, LINE_BYTES_MAX, Timestamp};

pub use checkpoint::Checkpoint;
pub use commit::Ticket;
pub use queue::Kept;
pub use reader::{Progress, Reader};
pub use record::{Draft, Entry, Key, Links, Record, ReplyTo};
pub use recovery::{Findings, OpenError};

use age::Ages;
use digest::Digest;
use queue::Queue;
use recovery::{Lock, recover};
use segment::SegmentInfo;
use writer::{Settings, Writer};

/// Why a record was not taken. To its sender this means "unknown": it may be there after a crash, so retry with a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The disk, or the journal's share of it, is full: room must be made.
    #[error("no room: {0}")]
    Full(String),
    /// The disk failed; the journal tries to go on by itself.
    #[error("{0}")]
    Unavailable(String),
    /// The draft of that index has a line beyond [`LINE_BYTES_MAX`]. Nothing of the append was taken.
    #[error("the message is too long to be kept")]
    TooLong(usize),
    /// The draft of that index brings a key that came before with other content. Nothing of the append was taken.
    #[error("the key came before with other content")]
    KeyConflict(usize),
}

impl Refusal {
    fn from_io(e: &io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(e.to_string()),
            _ => Self::Unavailable(format!("the journal cannot be written: {e}")),
        }
    }
}

/// What takes the records of a batch once they are durable: called by one thread at a time, in sequence.
pub type Publish = Box<dyn Fn(&[Record]) + Send + Sync>;

/// What the parts share.
struct Shared<D: Disk> {
    disk: D,
    folder: PathBuf,
    epoch: u64,
    queue: Mutex<Queue>,
    writer: Mutex<Writer<D>>,
    segments: Arc<Mutex<Vec<SegmentInfo>>>,
    /// Ranges of sequences that an abort record voids.
    voids: Vec<(u64, u64)>,
    /// Everything up to this sequence is durable and was handed to the publisher.
    published: AtomicU64,
    /// No file has failed, or a new one was made since.
    writable: AtomicBool,
    /// The last batch was refused although no file has failed: there is no room for it.
    refusing: AtomicBool,
    /// Something could not be written for want of room: drained segments are to go, whatever their age.
    short: AtomicBool,
    publish: Publish,
    on_panic: Box<dyn Fn() + Send + Sync>,
    /// Rung when [`Journal::tend`] has something to do.
    bell: (Sender<()>, Receiver<()>),
}

impl<D: Disk> Shared<D> {
    fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    fn is_void(&self, sequence: u64) -> bool {
        self.voids.iter().any(|&(first, last)| (first..=last).contains(&sequence))
    }
}

/// The open journal.
pub struct Journal<D: Disk = RealDisk> {
    shared: Arc<Shared<D>>,
    config: JournalConfig,
    findings: Findings,
    start: Checkpoint,
    /// The last segment whose digest is known to be written.
    digested: Mutex<u64>,
    ages: Mutex<Ages>,
    /// Held, not used: the folder is locked while it is open.
    _lock: Lock,
}

/// Figures for the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Told apart journals in feed cursors.
    pub epoch: u64,
    /// How many segments there are.
    pub segments: usize,
    /// Their length together, in bytes, the zeros of the last one with them.
    pub bytes: u64,
    /// The first sequence that may still be there.
    pub first_sequence: u64,
    /// Everything up to here is durable and published.
    pub published: u64,
}

impl Journal<RealDisk> {
    /// Opens the journal of `config` on the real disk.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        config: &JournalConfig,
        clock: Clock,
        publish: Publish,
        on_panic: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Self, OpenError> {
        Self::open_on(RealDisk, config, clock, publish, on_panic)
    }
}

impl<D: Disk> Journal<D> {
    /// Opens the journal on `disk`. `publish` gets every batch, `on_panic` is called once a leader has panicked.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_on(
        disk: D,
        config: &JournalConfig,
        clock: Clock,
        publish: Publish,
        on_panic: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Self, OpenError> {
        let found = recover(&disk, config, &clock)?;
        // One ring is as good as many.
        let bell = bounded(1);
        let segments = Arc::new(Mutex::new(found.segments));
        let settings = Settings {
            folder: config.path.clone(),
            epoch: found.epoch,
            clock: clock.clone(),
            fsync: config.fsync,
            segment_bytes: config.segment_bytes,
            max_bytes: config.max_bytes,
            bell: bell.0.clone(),
        };
        let shared = Shared {
            folder: config.path.clone(),
            epoch: found.epoch,
            queue: Mutex::new(Queue::new(found.next_sequence, IdGenerator::new(clock, found.largest_id), found.keys)),
            writer: Mutex::new(Writer::new(disk.clone(), settings, found.last, found.next_number, segments.clone())),
            segments,
            voids: found.voids,
            published: AtomicU64::new(found.next_sequence - 1),
            writable: AtomicBool::new(true),
            refusing: AtomicBool::new(false),
            short: AtomicBool::new(false),
            publish,
            on_panic,
            bell,
            disk,
        };
        let (findings, start) = (found.findings, found.checkpoint);
        Ok(Self {
            shared: Arc::new(shared),
            config: config.clone(),
            findings,
            start,
            digested: Mutex::new(0),
            ages: Mutex::default(),
            _lock: found.lock,
        })
    }

    /// What the start found.
    pub fn findings(&self) -> Findings {
        self.findings
    }

    /// The checkpoint the start found.
    pub fn start(&self) -> Checkpoint {
        self.start
    }

    /// Gives the drafts their sequence, id and time, side by side; a draft whose key came before gets what that key stands
    /// for. It all counts once the ticket is committed.
    ///
    /// # Errors
    /// [`Refusal`], at once, while a failed disk is not mended, or when a draft is too long or its key came before with other
    /// content.
    pub fn append(&self, drafts: Vec<Draft>) -> Result<(Ticket, Vec<Kept>), Refusal> {
        if let Some(index) = drafts.iter().position(|draft| draft.line_bytes() > LINE_BYTES_MAX) {
            return Err(Refusal::TooLong(index));
        }
        self.shared.append(drafts)
    }

    /// Waits until what the ticket stands for is durable, as the policy means it, and published.
    ///
    /// # Errors
    /// [`Refusal`]: it will never be published, and after a crash may be found or not.
    pub fn commit(&self, ticket: Ticket) -> Result<(), Refusal> {
        self.shared.commit(ticket)
    }

    /// Everything up to this sequence is durable and published.
    pub fn published(&self) -> u64 {
        self.shared.published()
    }

    /// A reader of everything behind sequence `after`.
    pub fn reader(&self, after: u64) -> Reader<D> {
        Reader::new(self.shared.clone(), after)
    }

    /// Whether no file has failed. Waits for nothing, not even for a disk that hangs.
    pub fn is_writable(&self) -> bool {
        self.shared.writable.load(Ordering::Relaxed)
    }

    /// Whether an append would be taken now: no file has failed, and there is room. Waits for nothing either.
    pub fn is_ready(&self) -> bool {
        self.is_writable() && !self.shared.refusing.load(Ordering::Relaxed)
    }

    /// Something beside the journal, on the same disk most likely, had no room: the next [`Journal::prune`] makes some.
    pub fn want_room(&self) {
        self.shared.short.store(true, Ordering::Relaxed);
    }

    /// Replaces the checkpoint, on disk.
    ///
    /// # Errors
    /// The disk's; the old one stands.
    pub fn store_checkpoint(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        checkpoint.store(&self.shared.disk, &self.shared.folder, self.shared.epoch)
    }

    /// Drops segments that `drained` has passed and that are older than `journal.retain_hours` (age.rs), or, while the journal
    /// takes more than three quarters of `journal.max_bytes`, of any age. While the disk is full one of any age goes with
    /// each call. The checkpoint must be stored first. Returns how many.
    ///
    /// # Errors
    /// The disk's; what could not be removed is tried again the next time.
    pub fn prune(&self, drained: u64, now: Timestamp) -> io::Result<usize> {
        let short = self.shared.short.swap(false, Ordering::Relaxed);
        let ages = {
            let mut ages = self.ages.lock().expect("no holder panics");
            ages.look(now);
            *ages
        };
        let mut dropped = 0;
        while let Some(oldest) = self.oldest_to_drop(drained, ages, short && dropped == 0) {
            match self.shared.disk.remove(&segment::path(&self.shared.folder, oldest)) {
                // Removed by hand: that must not keep those behind it for ever.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
            // A digest without its segment harms nobody: a new segment of that number has another salt.
            let _ = self.shared.disk.remove(&digest::path(&self.shared.folder, oldest));
            let mut segments = self.shared.segments.lock().expect("no holder panics");
            segments.retain(|s| s.header.number != oldest);
            let first = segments.first().map_or(0, |s| s.header.first_sequence);
            drop(segments);
            self.shared.queue.lock().expect("no holder panics").forget_keys_before(first);
            dropped += 1;
        }
        if short && dropped > 0 {
            log::warn!("the disk is full: {dropped} drained segments of the journal were dropped before their time");
            let _ = self.shared.bell.0.try_send(());
        }
        Ok(dropped)
    }

    fn oldest_to_drop(&self, drained: u64, ages: Ages, short: bool) -> Option<u64> {
        let segments = self.shared.segments.lock().expect("no holder panics");
        let [oldest, next, ..] = &segments[..] else { return None };
        let bytes: u64 = segments.iter().map(|s| s.file_bytes).sum();
        let past = ages.is_past(next.header.made_micros, self.config.retain);
        let pressed = bytes + self.config.segment_bytes > self.config.max_bytes / 4 * 3;
        let may = next.header.first_sequence <= drained + 1 && (past || pressed || short);
        may.then_some(oldest.header.number)
    }

    /// Zeroes the next segment ahead, writes the digests of sealed ones, and tries to make a failed journal writable
    /// again. For the janitor, when the bell rings.
    ///
    /// # Errors
    /// The disk's; all of it is tried again the next time.
    pub fn tend(&self) -> io::Result<()> {
        if !self.shared.writable.load(Ordering::Relaxed) {
            self.shared.mend();
        }
        let ready = segment::prepare_spare(&self.shared.disk, &self.shared.folder, self.config.segment_bytes);
        match &ready {
            Ok(()) if self.stats().bytes + self.config.segment_bytes <= self.config.max_bytes => {
                self.shared.refusing.store(false, Ordering::Relaxed);
            }
            Err(e) if matches!(Refusal::from_io(e), Refusal::Full(_)) => self.want_room(),
            _ => {}
        }
        ready?;
        self.write_digests()
    }

    /// Writes the digest of every sealed segment that has none since this process looks after it.
    fn write_digests(&self) -> io::Result<()> {
        let mut sealed = self.shared.segments.lock().expect("no holder panics").clone();
        sealed.pop();
        let mut digested = self.digested.lock().expect("no holder panics");
        for info in sealed.iter().filter(|info| info.header.number > *digested) {
            match Digest::ensure(&self.shared.disk, &self.shared.folder, info) {
                // Dropped in the meantime.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                written => written?,
            }
        }
        *digested = sealed.last().map_or(0, |info| info.header.number);
        Ok(())
    }

    /// Receives when [`Journal::tend`] has something to do: the spare was taken, or a file failed.
    pub fn bell(&self) -> &Receiver<()> {
        &self.shared.bell.1
    }

    /// Syncs every `journal.fsync_interval_ms` until `stop` says so or has no sender any more: the thread `journal-sync`.
    pub fn sync_by_interval(&self, stop: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(self.config.fsync_interval) {
            self.sync_outside();
        }
    }

    /// One sync that does not hold the writer, so that appends go on under it.
    fn sync_outside(&self) {
        let file = self.shared.writer.lock().expect("no holder panics").begin_sync();
        let Some(file) = file else { return };
        let result = file.sync();
        let mut writer = self.shared.writer.lock().expect("no holder panics");
        // A failure is logged where it is noted; the next batch mends.
        let _ = writer.end_sync(result);
        self.shared.writable.store(!writer.is_broken(), Ordering::Relaxed);
    }

    /// Syncs everything written so far: the end of an ordered stop.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn sync(&self) -> Result<(), Refusal> {
        // A file that failed is never synced again: what it owes is written anew.
        self.shared.mend();
        let mut writer = self.shared.writer.lock().expect("no holder panics");
        if writer.is_broken() {
            return Err(Refusal::Unavailable("the journal's file failed, and no new one can be made".into()));
        }
        let outcome = writer.sync();
        self.shared.writable.store(!writer.is_broken(), Ordering::Relaxed);
        outcome
    }

    /// Figures for the status.
    pub fn stats(&self) -> Stats {
        let segments = self.shared.segments.lock().expect("no holder panics");
        Stats {
            epoch: self.shared.epoch,
            segments: segments.len(),
            bytes: segments.iter().map(|s| s.file_bytes).sum(),
            first_sequence: segments.first().map_or(0, |s| s.header.first_sequence),
            published: self.published(),
        }
    }
}

fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    u64::from_le_bytes(bytes)
}
