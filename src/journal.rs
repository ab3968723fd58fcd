//! The write-ahead journal: every acknowledged message is here, whatever happens next.
//!
//! Goals: an acknowledged record survives a kill, and under `fsync: always` a power cut; damage costs the records it
//! touches and no other; one sync serves all who wait; memory is bounded whatever the backlog. Non-goals: queries,
//! secondary order, many writers.
//!
//! From the outside in:
//!
//! | file | what |
//! |---|---|
//! | `queue.rs` | gives records their place: the open batch, ids, keys |
//! | `batch.rs` | what the waiters of one batch sleep on |
//! | `commit.rs` | group commit: ticket, leader, publication |
//! | `shared.rs` | what the parts share, and the journal's condition |
//! | `writer.rs` | frames into segments: sync, roll, what follows a failure |
//! | `reader.rs` | records back out, in sequence, up to what is published |
//! | `publish_notifier.rs` | waiting for what is published next |
//! | `recovery.rs` | what a start does before the first record is taken |
//! | `error.rs` | why it cannot be opened, why a record was not taken |
//! | `requests.rs` | which requests are whole, within a segment and over several |
//! | `inventory.rs` | which segments there are; damaged headers |
//! | `quarantine.rs` | copies of what a start removes or steps over |
//! | `meters.rs` | what is counted for the metrics |
//! | `lock.rs` | one process at a time |
//! | `upkeep.rs` | dropping segments, the spare, digests, syncs by interval, warnings |
//! | `copy.rs` | a copy of an open journal, for a backup |
//! | `survey.rs` | a recovery under observation: its faults and counts, for the doctor |
//! | `salvage.rs` | intact frames of a file of which nothing else is known |
//! | `checkpoint.rs` | up to which sequence everything has arrived |
//! | `digest.rs` | what a start must know of a segment, without walking it |
//! | `keys.rs` | idempotency keys |
//! | `erasures.rs` | what is erased, and whether it was scrubbed |
//! | `scrub.rs` | rewrites segments and copies without what is erased |
//! | `age.rs` | how old a segment is, whatever the clock does |
//! | `segment.rs` | the files, zeroed ahead |
//! | `scan.rs` | a walk over frames and damage |
//! | `new_record.rs` | records before they have a sequence and an id |
//! | `record.rs` | payloads: messages, erasures, aborts, context-clears |
//! | `frame.rs` | the bytes |
//! | `codec.rs` | values as bytes, for headers and side files |
//!
//! What happens when something fails, and where to read it:
//!
//! | what | then | where |
//! |---|---|---|
//! | a write or a sync | the batch is refused, its keys forgotten; the file is never written or synced again | `Writer::fail`, `JournalState::end` |
//! | … then | a new segment begins with what was refused, or was acknowledged and not synced; the latter is written into it | `Writer::mend` |
//! | … if that fails too | appends are refused at once for a while, readers go on, the janitor tries every second | `JournalState::append`, `Journal::maintain` |
//! | no room for the next segment | the batch is refused whole, before its first byte; drained segments go | `Writer::make_room`, `Journal::prune` |
//! | `max_bytes` reached by what is not drained | refused with "full"; nothing is dropped | `Writer::prepare` |
//! | a kill, a power cut | the last segment is walked, its tail cut after a copy; a request that is not whole is voided | `recover` |
//! | damage in a segment | stepped over by resynchronising; a copy is kept | `Scanner::resynchronise`, `Recovery::keep_gaps` |
//! | damage in a header | rebuilt from the digest or the first intact frame | `inventory::take` |
//! | a digest or the checkpoint missing or damaged | made again by walking; "from the start" | `Recovery::read`, `StoredCheckpoint::of` |
//! | a panic while publishing | the batch is refused, the process stops in order | `PanicGuard` |
//! | a second process, a newer format | the start ends, naming it | `Lock::take`, `Taking::look` |
//!
//! It knows of sessions only which messages an erasure covers. Knows nothing of caches, transcripts, MongoDB or
//! HTTP: its records go to the publisher it was opened with.

mod age;
mod batch;
mod checkpoint;
#[cfg(test)]
mod clock_tests;
pub mod codec;
mod commit;
mod copy;
#[cfg(test)]
mod crash_tests;
mod digest;
#[cfg(test)]
mod erasure_tests;
mod erasures;
mod error;
#[cfg(test)]
mod fault_tests;
mod frame;
#[cfg(test)]
mod fuzz_tests;
mod inventory;
mod keys;
mod lock;
mod meters;
mod new_record;
#[cfg(test)]
mod place_tests;
mod publish_notifier;
mod quarantine;
mod queue;
mod reader;
mod record;
mod recovery;
mod requests;
mod salvage;
mod scan;
mod scrub;
mod segment;
mod shared;
pub mod survey;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod upkeep;
mod watch;
mod writer;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crate::config::JournalConfig;
use crate::disk::overlay::Overlay;
use crate::disk::{Disk, RealDisk};
use crate::message::{Clock, Id, IdGenerator, LINE_BYTES_MAX, Message, SessionId, Timestamp};

pub use batch::Ticket;
pub use checkpoint::{Checkpoint, StoredCheckpoint};
pub use erasures::Unscrubbed;
pub use error::{AppendError, OpenError};
pub use lock::Lock;
pub use meters::JournalMeters;
pub use new_record::{NewRecord, ReplyTo};
pub use publish_notifier::{PublishNotifier, Woken};
pub use queue::Appended;
pub use reader::{ReadPosition, ReadProgress, Reader};
pub use record::{Entry, EntryView, IdempotencyKey, Links, Record};
pub use salvage::messages as salvage;
pub use scrub::Scrubbed;
pub use shared::{Publish, Warning};
pub use survey::RecoveryFindings;
pub use watch::SessionWatch;

use age::Ages;
use inventory::Start;
use queue::AppendQueue;
use recovery::recover;
use shared::{Condition, JournalState, Outlet};
use survey::{JournalSurvey, RecoveryWatch, Tell};
use writer::{Writer, WriterSettings};

/// The open journal.
pub struct Journal<D: Disk = RealDisk> {
    shared: Arc<JournalState<D>>,
    findings: RecoveryFindings,
    start: Checkpoint,
    /// The last segment whose digest is known to be written.
    digested: Mutex<u64>,
    /// What segments need not be kept for, as it was said last.
    drained: AtomicU64,
    /// Segments with records after this sequence are kept for a backup.
    pinned: AtomicU64,
    /// The warnings that were logged and have not ended.
    warned: Mutex<Vec<Warning>>,
    ages: Mutex<Ages>,
    clock: Clock,
    /// The folder is locked while it is open.
    lock: Option<Lock>,
}

/// Figures for the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalStats {
    /// Random; a feed cursor holds the epoch of its journal.
    pub epoch: u64,
    /// The number of segments.
    pub segments: usize,
    /// The length of all segments, in bytes, including the zeros of the last one.
    pub bytes: u64,
    /// The length, in bytes, of the segments that hold records after the checkpoint: they cannot be dropped. 0 when
    /// everything is drained, although the last segment stays.
    pub undrained_bytes: u64,
    /// The first sequence that may still be kept.
    pub first_sequence: u64,
    /// Everything up to this sequence is durable and published.
    pub published: u64,
}

impl Journal<RealDisk> {
    /// Opens the journal of `config` on the real disk.
    ///
    /// # Errors
    /// See [`Journal::open_on`].
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
    /// Opens the journal on `disk`. `publish` gets every batch; `on_panic` is called after a leader has panicked.
    ///
    /// # Errors
    /// [`OpenError`]: another process has the journal, a later version wrote it, or the disk failed. Repairs made so
    /// far stay; a retry is safe.
    pub fn open_on(
        disk: D,
        config: &JournalConfig,
        clock: Clock,
        publish: Publish,
        on_panic: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Self, OpenError> {
        Self::open_watched(disk, config, clock, (publish, on_panic), &mut RecoveryWatch::default())
    }

    fn open_watched(
        disk: D,
        config: &JournalConfig,
        clock: Clock,
        (publish, on_panic): (Publish, Box<dyn Fn() + Send + Sync>),
        watch: &mut RecoveryWatch<'_>,
    ) -> Result<Self, OpenError> {
        let found = recover(&Start { disk: &disk, config, clock: &clock }, watch)?;
        let condition = Condition::new();
        let segments = Arc::new(Mutex::new(found.segments));
        let waker = condition.waker.0.clone();
        let (epoch, meters) = (found.epoch, Arc::new(JournalMeters::new()));
        let settings =
            WriterSettings { config: config.clone(), epoch, clock: clock.clone(), waker, meters: meters.clone() };
        let next = (found.next_number, found.next_sequence);
        let shared = JournalState {
            config: config.clone(),
            epoch: found.epoch,
            queue: Mutex::new(AppendQueue::new(
                found.next_sequence,
                IdGenerator::new(clock.clone(), found.largest_id),
                found.keys,
            )),
            writer: Mutex::new(Writer::new(disk.clone(), settings, found.last, next, segments.clone())),
            segments,
            swap: Mutex::new(()),
            voids: found.voids,
            erasures: RwLock::new(found.erasures),
            outlet: Outlet::new(publish, on_panic, found.next_sequence - 1, found.last_import),
            condition,
            meters,
            disk,
        };
        Ok(Self {
            shared: Arc::new(shared),
            findings: watch.survey.findings,
            start: found.checkpoint,
            digested: Mutex::new(0),
            drained: AtomicU64::new(found.checkpoint.drained),
            pinned: AtomicU64::new(u64::MAX),
            warned: Mutex::default(),
            ages: Mutex::default(),
            clock,
            lock: found.lock,
        })
    }

    /// What the start found.
    pub fn findings(&self) -> RecoveryFindings {
        self.findings
    }

    /// The checkpoint that the start found.
    pub fn start(&self) -> Checkpoint {
        self.start
    }

    /// Gives the drafts their sequence, id and time, side by side; a draft whose key was used before gets the message
    /// of that key. Nothing counts until the ticket is committed.
    ///
    /// # Errors
    /// [`AppendError`]: a failed disk is not repaired yet, a draft is too long, or a key was used before with other
    /// content. No draft was taken. Only the first is worth a retry.
    pub fn append(&self, drafts: Vec<NewRecord>) -> Result<(Ticket, Vec<Appended>), AppendError> {
        Ok(self.append_unless(drafts, None)?.expect("nothing is watched"))
    }

    /// The same, unless something of the watched session got a place since: then `None`, and none of the drafts is taken.
    ///
    /// # Errors
    /// Those of [`Journal::append`].
    pub fn append_unless(
        &self,
        drafts: Vec<NewRecord>,
        watch: Option<&SessionWatch>,
    ) -> Result<Option<(Ticket, Vec<Appended>)>, AppendError> {
        let is_too_long = |draft: &NewRecord| draft.line_bytes() > LINE_BYTES_MAX;
        if let Some(index) = drafts.iter().position(is_too_long) {
            return self.counted(Err(AppendError::TooLong(index)));
        }
        self.counted(self.shared.append(drafts, watch))
    }

    /// Appends messages that have ids, as one request; `None` if some may not be imported now, and none was: one is erased or
    /// being erased, or its id is not less than every id given from now on, which passes with time.
    ///
    /// # Errors
    /// [`AppendError`]: a failed disk is not repaired yet, or a message is too long. None was taken.
    pub fn import(&self, messages: &[Arc<Message>]) -> Result<Option<Ticket>, AppendError> {
        let drafts = messages.iter().cloned().map(NewRecord::Import).collect();
        Ok(self.append_unless(drafts, None)?.map(|(ticket, _)| ticket))
    }

    /// An id that is greater than all that were given, and less than all that will be.
    pub fn mark(&self) -> Id {
        self.shared.queue.lock().expect("no holder panics").mark()
    }

    /// The time of the last id given.
    pub fn last_time(&self) -> Timestamp {
        self.shared.queue.lock().expect("no holder panics").last_time()
    }

    /// The sequence of the last imported message, as far as the journal has it; 0 without one.
    pub fn last_import(&self) -> u64 {
        self.shared.outlet.last_import.load(Ordering::Acquire)
    }

    /// Watches a session. What was appended before is published, or refused, when this returns, so that whoever reads then has
    /// all that the watch does not tell of.
    pub fn watch(&self, session: &SessionId) -> SessionWatch {
        self.shared.watch(session)
    }

    /// Finds the message of the draft's key, if the key was used before; the message is durable when this returns.
    /// Nothing is recorded.
    ///
    /// # Errors
    /// [`AppendError`]: the key was used before with other content, or its message could not be made durable.
    pub fn find(&self, draft: &NewRecord) -> Result<Option<Appended>, AppendError> {
        self.counted(self.shared.find(draft))
    }

    /// Waits until the ticket's records are durable, as the policy means it, and published.
    ///
    /// # Errors
    /// [`AppendError`]: they will never be published, but a start after a crash may find them. A retry needs keys to be
    /// safe.
    pub fn commit(&self, ticket: Ticket) -> Result<(), AppendError> {
        self.counted(self.shared.commit(ticket))
    }

    fn counted<T>(&self, outcome: Result<T, AppendError>) -> Result<T, AppendError> {
        outcome.inspect_err(|refusal| self.shared.meters.refused[refusal.reason()].add(1))
    }

    /// What is counted since the start.
    pub fn meters(&self) -> &JournalMeters {
        &self.shared.meters
    }

    /// Everything up to this sequence is durable and published.
    pub fn published(&self) -> u64 {
        self.shared.outlet.published()
    }

    /// Whether a message was erased since it was published: for callers that hold records which no reader hands out any
    /// more.
    pub fn is_erased(&self, message: &Message) -> bool {
        self.is_erased_up_to(message.session(), message.id())
    }

    /// Whether everything of the session up to that id is erased, as far as the erasure is remembered.
    pub fn is_erased_up_to(&self, session: &SessionId, id: Id) -> bool {
        self.shared.erasures.read().expect("no holder panics").covers(session.as_str(), id)
    }

    /// Up to which id a session is erased, if it was and that is remembered.
    pub fn erased_to(&self, session: &SessionId) -> Option<Id> {
        self.shared.erasures.read().expect("no holder panics").of(session)
    }

    /// The sessions whose last erasure has a sequence after `sequence`, each with the id up to which it is erased.
    pub fn erasures_after(&self, sequence: u64) -> Vec<(SessionId, Id)> {
        self.shared.erasures.read().expect("no holder panics").after(sequence)
    }

    /// A reader of everything after the sequence `after`.
    pub fn reader(&self, after: u64) -> Reader<D> {
        Reader::new(self.shared.clone(), after, None)
    }

    /// The same from `place`, where an earlier reader stopped that had come as far.
    pub fn reader_at(&self, after: u64, place: Option<ReadPosition>) -> Reader<D> {
        Reader::new(self.shared.clone(), after, place)
    }

    /// The random number that tells this journal from another.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// The first sequence that may still be kept.
    pub fn first_sequence(&self) -> u64 {
        self.shared.segments.lock().expect("no holder panics").first().map_or(0, |s| s.header.first_sequence)
    }

    /// Wakes its waiters whenever [`Journal::published`] advances.
    pub fn publish_notifier(&self) -> &PublishNotifier {
        &self.shared.outlet.publish_notifier
    }

    /// Whether no file has failed. Never waits, not even for a disk that hangs.
    pub fn is_writable(&self) -> bool {
        self.shared.condition.writable.load(Ordering::Relaxed)
    }

    /// Why a message would be refused now, if it would: a file failed, the next segment cannot be made, or the folder is
    /// not where it was. Waits for no disk either.
    pub fn refusal(&self) -> Option<AppendError> {
        let Condition { moved, refusing, refusal, .. } = &self.shared.condition;
        if moved.load(Ordering::Relaxed) {
            return Some(AppendError::moved(&self.shared.config.path));
        }
        let refuses = refusing.load(Ordering::Relaxed) || !self.is_writable();
        let unknown = || AppendError::Unavailable("the journal's file failed".into());
        refuses.then(|| refusal.lock().expect("no holder panics").clone().unwrap_or_else(unknown))
    }

    /// Notes that another part, most likely on the same disk, ran out of space: the next [`Journal::prune`] frees some.
    pub fn want_room(&self) {
        self.shared.condition.short.store(true, Ordering::Relaxed);
    }

    /// Whether drained segments should be dropped for space.
    pub fn wants_room(&self) -> bool {
        self.shared.condition.short.load(Ordering::Relaxed)
    }

    /// Replaces the checkpoint, on disk.
    ///
    /// # Errors
    /// The disk failed. The old checkpoint still stands, unless only the folder's sync failed; a retry is safe.
    pub fn store_checkpoint(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        checkpoint.store(&self.shared.disk, &self.shared.config.path, self.shared.epoch)
    }

    /// Figures for the status.
    pub fn stats(&self) -> JournalStats {
        let segments = self.shared.segments.lock().expect("no holder panics");
        let (drained, published) = (self.drained.load(Ordering::Relaxed), self.published());
        // A segment ends where the next one begins.
        let passed = match drained >= published {
            true => segments.len(),
            false => segments.windows(2).take_while(|pair| pair[1].header.first_sequence <= drained + 1).count(),
        };
        JournalStats {
            undrained_bytes: segments[passed..].iter().map(|s| s.file_bytes).sum(),
            epoch: self.shared.epoch,
            segments: segments.len(),
            bytes: segments.iter().map(|s| s.file_bytes).sum(),
            first_sequence: segments.first().map_or(0, |s| s.header.first_sequence),
            published,
        }
    }
}

impl<D: Disk> Journal<Overlay<D>> {
    /// Recovers without writing anything: returns what a start would find, and the journal as it would be then, or
    /// `None` if that cannot be told. Each fault goes to `tell`. The caller holds the lock ([`Lock::look`]).
    pub fn look(
        disk: Overlay<D>,
        config: &JournalConfig,
        clock: Clock,
        tell: Tell<'_>,
    ) -> (JournalSurvey, Option<Self>) {
        let mut watch = RecoveryWatch::new(tell);
        let opened = Self::open_watched(disk, config, clock, (Box::new(|_| ()), Box::new(|| ())), &mut watch);
        let journal = watch.pass(opened).ok().flatten();
        (watch.survey, journal)
    }
}
