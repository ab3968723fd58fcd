//! The drain to the database: batches of messages in sequence, one call under way at a time, until everything published is
//! there.
//!
//! It takes the records the worker takes, as long as it has room for them; what it had no room for, in an outage or after a
//! start, it reads from the journal later, in bounded pieces. So its memory is bounded by three batches and their documents
//! whatever the backlog. A call runs on a thread of its own ([`Calls`]), and the worker never waits for one: it is told the outcome, or
//! the deadline passes, and the call is abandoned to its thread.
//!
//! Exactly once in effect: a batch is tried again, whole, until the store says that each message of it is there or can never
//! be; the store's ids make the second time harmless. What can never be stored is a dead letter, synced, before the drain
//! goes past it.
//!
//! An erasure is carried out in its place, and again when no insert that failed before it can arrive any more
//! (`erasures.rs`).
//!
//! Where other servers write to the same database, what they erased is asked for every few seconds and before the first batch
//! after an outage (`foreign.rs`). What is erased by it has a record of the journal like any erasure, and with it comes to
//! its place here: so nothing that this drain sent before can bring back what another server erased.
//!
//! A connection that takes longer than a call may, because it builds indexes, keeps its one thread, and batches go on over
//! the other.
//!
//! Knows nothing of transcripts and checkpoints; the worker asks how far it is.

mod outcomes;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};

use crate::config::MongoConfig;
use crate::disk::{Disk, RealDisk};
use crate::journal::{Entry, Journal, Progress, Reader, Record};
use crate::message::{Expiry, Id, SessionId};
use crate::store::{Call, CallError, Calls, Connected, Inserted, Store, StoreError, StoredErasure};

use super::backoff::Backoff;
use super::batch::{Ahead, Batch};
use super::dead_letters::DeadLetters;
use super::erasures::Erasures;
use super::foreign::Foreign;
use super::owed::OwedErasures;
use super::storage::Storage;

use outcomes::Failing;

/// How much of the journal is read at once, in bytes.
const READ_BYTES: usize = 256 * 1024;

/// What a call came to.
#[derive(Debug)]
pub enum Outcome {
    /// Of a connection.
    Connected(Result<Connected, StoreError>),
    /// Of a batch.
    Inserted(Result<Inserted, StoreError>),
    /// Of an erasure.
    Erased(Result<u64, StoreError>),
    /// Of the question what other servers erased.
    Foreign(Result<Vec<StoredErasure>, StoreError>),
}

/// What is under way.
enum Task {
    Connect,
    Insert,
    Erase(SessionId, Id),
    /// The first of those to be carried out again.
    EraseAgain,
    /// The first of those that were not final at the start.
    EraseOwed,
    Foreign,
}

struct UnderWay {
    task: Task,
    call: Call<Outcome>,
    began: Instant,
    deadline: Instant,
}

enum Connection {
    /// To be made.
    Missing,
    /// Under way for longer than a call may be.
    Slow(Call<Outcome>),
    /// Made.
    Made,
}

/// What a look at the call under way came to.
enum Looked {
    /// There is none.
    Idle,
    /// It goes on.
    Waits,
    /// It is over.
    Ended,
}

/// See the module.
pub struct Drain<D: Disk = RealDisk> {
    journal: Arc<Journal<D>>,
    store: Arc<dyn Store>,
    calls: Calls,
    dead_letters: DeadLetters<D>,
    expiry: Expiry,
    storage: Arc<Storage>,
    batch_age: Duration,
    call_timeout: Duration,
    reader: Reader<D>,
    /// Everything up to here was taken, or read.
    position: u64,
    /// Taken, and not yet in the batch.
    ahead: Ahead,
    batch: Batch,
    /// What went through last. It is freed once the next call is under way: that takes as long as handing the call over.
    through: Batch,
    under_way: Option<UnderWay>,
    connection: Connection,
    backoff: Backoff,
    drained: u64,
    erasures: Erasures,
    /// Erasures that are not final, also those of a time when MongoDB was switched off.
    owed: OwedErasures<D>,
    /// What other servers erase, where there are any.
    foreign: Option<Foreign>,
    /// What failed last, and has not succeeded since.
    failing: Option<Failing>,
    /// What the store had at the start was looked up, for the status and the history.
    knows_reached: bool,
    /// What is there goes out at once, whatever its age.
    hurry: bool,
    /// Letters were written since somebody asked.
    wrote_letters: bool,
}

impl<D: Disk> Drain<D> {
    /// A drain that goes on behind sequence `drained`.
    pub fn new(
        journal: &Arc<Journal<D>>,
        store: Arc<dyn Store>,
        (dead_letters, owed): (DeadLetters<D>, OwedErasures<D>),
        expiry: Expiry,
        config: &MongoConfig,
        drained: u64,
        storage: Arc<Storage>,
    ) -> Self {
        let reader = journal.reader(drained);
        storage.connecting();
        Self {
            journal: journal.clone(),
            store,
            calls: Calls::new("mongo-write"),
            dead_letters,
            expiry,
            storage,
            batch_age: config.batch.max_age,
            call_timeout: config.call_timeout,
            reader,
            position: drained,
            ahead: Ahead::new(config),
            batch: Batch::behind(drained),
            through: Batch::default(),
            under_way: None,
            connection: Connection::Missing,
            backoff: Backoff::new(config.backoff_max),
            drained,
            erasures: Erasures::new(),
            owed,
            foreign: None,
            failing: None,
            knows_reached: false,
            hurry: false,
            wrote_letters: false,
        }
    }

    /// The same where other servers write to the store, too.
    #[must_use]
    pub fn sharing(self, foreign: Foreign) -> Self {
        Self { foreign: Some(foreign), ..self }
    }

    /// Erasures that were not final at the start, and were not carried out since. They come first: each is bounded by an id,
    /// so it takes nothing that was said later.
    pub fn erasures_owed(&self) -> usize {
        self.owed.left()
    }

    /// The store has everything up to this sequence.
    pub fn drained(&self) -> u64 {
        self.drained
    }

    /// Whether dead letters were written since this was asked last: how far the drain is should be stored, or they are
    /// looked for in vain after a crash.
    pub fn wrote_letters(&mut self) -> bool {
        std::mem::take(&mut self.wrote_letters)
    }

    /// Whether a call was tried and failed, and none has succeeded since.
    pub fn is_failing(&self) -> bool {
        self.backoff.failures() > 0
    }

    /// What is there goes out at once from now on: the process is about to end.
    pub fn hurry(&mut self) {
        self.hurry = true;
        self.backoff.end_pause();
    }

    /// Takes a record the worker takes, if it is the next one and there is room.
    pub fn offer(&mut self, record: &Record) {
        if record.sequence == self.position + 1 && self.ahead.has_room() {
            self.reader.skip_to(record.sequence);
            self.position = record.sequence;
            self.ahead.push(&*self.store, record.clone());
        }
    }

    /// Where the outcome of the call under way comes.
    pub fn outcome(&self) -> Option<&Receiver<Outcome>> {
        self.under_way.as_ref().map(|under_way| under_way.call.outcome())
    }

    /// Goes on as far as it can without waiting; `passed` is the sequence up to which the worker has taken everything.
    ///
    /// # Errors
    /// The journal cannot be read: it is tried again the next time.
    pub fn step(&mut self, passed: u64) -> io::Result<()> {
        // Here and not at the start, which would wait for it: up to a segment is walked.
        if !std::mem::replace(&mut self.knows_reached, true) {
            self.storage.reached(id_at(&self.journal, self.drained));
        }
        loop {
            self.look_at_slow_connection();
            let read = self.fill(passed);
            self.form_batch();
            match self.look() {
                Looked::Waits => return read,
                // The next batch is formed first.
                Looked::Ended => {}
                Looked::Idle => {
                    let begun = !self.backoff.pauses() && self.begin();
                    self.through = Batch::default();
                    if !begun {
                        return read;
                    }
                }
            }
        }
    }

    /// Looks whether the call under way has ended, or is to be given up.
    fn look(&mut self) -> Looked {
        let Some(under_way) = &self.under_way else { return Looked::Idle };
        let outcome = match under_way.call.outcome().try_recv() {
            Ok(outcome) => Ok(outcome),
            Err(TryRecvError::Disconnected) => Err(CallError::Failed),
            Err(TryRecvError::Empty) if Instant::now() >= under_way.deadline => Err(CallError::Late),
            Err(TryRecvError::Empty) => return Looked::Waits,
        };
        self.finish(outcome);
        Looked::Ended
    }

    fn look_at_slow_connection(&mut self) {
        let Connection::Slow(call) = &self.connection else { return };
        let outcome = match call.outcome().try_recv() {
            Err(TryRecvError::Empty) => return,
            outcome => outcome,
        };
        self.connection = Connection::Missing;
        match outcome {
            Ok(Outcome::Connected(Ok(connected))) => self.connected(&connected),
            Ok(Outcome::Connected(Err(e))) => self.failed(&Task::Connect, &e),
            _ => self.failed(&Task::Connect, &StoreError::Unreachable { reason: CallError::Failed.to_string() }),
        }
    }

    /// When [`Drain::step`] has something to do at the latest, if nothing comes before.
    pub fn wake(&self) -> Option<Instant> {
        if let Some(under_way) = &self.under_way {
            return Some(under_way.deadline);
        }
        let due = self.batch.since().map(|since| since + self.batch_age);
        let due = due.into_iter().chain(self.erasures.wake());
        let due = due.chain(self.foreign.as_ref().map(Foreign::due)).min();
        // Without a connection there is always something to do.
        let due = if matches!(self.connection, Connection::Missing) || self.erasures_owed() > 0 {
            Some(Instant::now())
        } else {
            due
        };
        match (self.backoff.until(), due) {
            (Some(until), Some(due)) => Some(until.max(due)),
            (_, due) => due,
        }
    }

    /// Reads from the journal what it had no room for, up to `passed`.
    fn fill(&mut self, passed: u64) -> io::Result<()> {
        while self.position < passed && self.ahead.has_room() {
            let (store, ahead) = (&*self.store, &mut self.ahead);
            let left = ahead.bytes_left().clamp(1, READ_BYTES);
            let read = self.reader.read(left, |record| ahead.push(store, record));
            // Refused sequences leave holes.
            self.position = self.position.max(self.reader.position());
            read?;
        }
        Ok(())
    }

    /// Moves what was taken into the batch, up to its limits or to an erasure, unless it is under way.
    fn form_batch(&mut self) {
        let inserting = matches!(&self.under_way, Some(UnderWay { task: Task::Insert, .. }));
        // A batch that failed is tried again as it was.
        if inserting || (self.backoff.failures() > 0 && !self.batch.is_empty()) {
            return;
        }
        self.batch.fill(&mut self.ahead, self.expiry.bound());
        let oldest = self.batch.messages().first().map(|outgoing| outgoing.message.id());
        if oldest.is_none() {
            // Nothing of it is for the store.
            self.drained = self.drained.max(self.batch.last());
            if self.ahead.is_empty() {
                self.drained = self.drained.max(self.position);
                self.batch.pass(self.position);
            }
        }
        self.storage.pending_since(oldest.or_else(|| self.ahead.first().and_then(|next| next.entry.id())));
    }

    /// Begins the next call, if there is one to make; whether it did.
    fn begin(&mut self) -> bool {
        if matches!(self.connection, Connection::Missing) {
            let store = self.store.clone();
            return self.call(Task::Connect, move || Outcome::Connected(store.connect()));
        }
        // Both before a batch, or under a steady load it would never come to them.
        if let Some(foreign) = self.foreign.as_ref().filter(|foreign| foreign.due() <= Instant::now()) {
            let (store, place) = (self.store.clone(), foreign.place());
            return self.call(Task::Foreign, move || Outcome::Foreign(store.erasures(place.as_ref())));
        }
        if let Some((session, up_to)) = self.owed.first() {
            let store = self.store.clone();
            return self.call(Task::EraseOwed, move || Outcome::Erased(store.erase(&session, up_to)));
        }
        if let Some((session, up_to)) = self.erasures.due(&self.calls) {
            let store = self.store.clone();
            return self.call(Task::EraseAgain, move || Outcome::Erased(store.erase(&session, up_to)));
        }
        if !self.batch.is_empty() {
            let full = self.batch.is_full(&self.ahead);
            // Behind it stands an erasure, or a message that does not fit: waiting brings nothing more.
            let blocked = !self.ahead.is_empty();
            let old = self.batch.since().is_some_and(|since| since.elapsed() >= self.batch_age);
            let again = self.backoff.failures() > 0;
            if !(full || blocked || old || again || self.hurry) {
                return false;
            }
            let (store, messages) = (self.store.clone(), self.batch.messages().clone());
            return self.call(Task::Insert, move || Outcome::Inserted(store.send(&messages)));
        }
        if let Some(Entry::Erasure { id, session }) = self.ahead.first().map(|next| &next.entry) {
            let (store, session, up_to) = (self.store.clone(), session.clone(), *id);
            let task = Task::Erase(session.clone(), up_to);
            return self.call(task, move || Outcome::Erased(store.erase(&session, up_to)));
        }
        false
    }

    fn call(&mut self, task: Task, call: impl FnOnce() -> Outcome + Send + 'static) -> bool {
        let began = Instant::now();
        match self.calls.submit(began, call) {
            Ok(call) => {
                self.under_way = Some(UnderWay { task, call, began, deadline: began + self.call_timeout });
                true
            }
            Err(e) => {
                let reason = match e {
                    CallError::Busy => "the calls before have not returned".to_owned(),
                    e => e.to_string(),
                };
                self.failed(&task, &StoreError::Unreachable { reason });
                false
            }
        }
    }
}

/// The id of the record at that sequence, if the journal still has it.
fn id_at<D: Disk>(journal: &Journal<D>, sequence: u64) -> Option<Id> {
    let (mut reader, mut next) = (journal.reader(sequence.checked_sub(1)?), None);
    // What its segment has before it is passed over piece by piece.
    loop {
        let read = reader.read_while(READ_BYTES, |record| {
            next = Some(record);
            ControlFlow::Break(())
        });
        if next.is_some() || !matches!(read, Ok(Progress::More)) {
            return next.filter(|record| record.sequence == sequence)?.entry.id();
        }
    }
}
