//! The drain to the database: batches of messages in sequence, one call under way at a time, until everything published is
//! there.
//!
//! It takes the records the worker takes, as long as it has room for them; what it had no room for, in an outage or after a
//! start, it reads from the journal later, in bounded pieces. So its memory is bounded by three batches and their documents
//! whatever the backlog. A call runs on a thread of its own (`store/calls.rs`), and the worker never waits for one: it is told the
//! outcome, or the deadline passes, and the call is abandoned to its thread.
//!
//! Exactly once in effect: a batch is tried again, whole, until the store says that each message of it is there or can never
//! be; the store's ids make the second time harmless. What can never be stored is a dead letter, synced, before the drain
//! goes past it.
//!
//! An erasure is carried out in its place, and again when no insert that failed before it can arrive any more
//! (`pending_erasures.rs`).
//!
//! Where other servers write to the same database, what they erased is asked for every few seconds and before the first batch
//! after an outage (`remote_erasures.rs`). What is erased by it has a record of the journal like any erasure, and with it comes to
//! its place here: so nothing that this drain sent before can bring back what another server erased.
//!
//! Knows nothing of transcripts and checkpoints; the worker asks how far it is.

mod call;
mod intake;
mod outcomes;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::config::MongoConfig;
use crate::disk::{Disk, RealDisk};
use crate::journal::{Journal, Record};
use crate::message::Expiry;
use crate::store::Store;

use super::batch::Batch;
use super::dead_letters::DeadLetters;
use super::pending_erasures::PendingErasures;
use super::remote_erasures::RemoteErasures;
use super::storage::MongoStatus;

use call::{Answer, CallResult, Caller, Task};
use intake::{Intake, id_at};

/// See the module.
pub struct Drain<D: Disk = RealDisk> {
    journal: Arc<Journal<D>>,
    intake: Intake<D>,
    caller: Caller,
    dead_letters: DeadLetters<D>,
    /// Letters were written since somebody asked.
    wrote_letters: bool,
    /// Erasures that are not final, also those of a time when MongoDB was switched off.
    erasures: PendingErasures<D>,
    /// What other servers erase, where there are any.
    remote_erasures: Option<RemoteErasures>,
    storage: Arc<MongoStatus>,
    batch_age: Duration,
    /// What went through last. It is freed once the next call is under way: that takes as long as handing the call over.
    acknowledged: Batch,
    /// What the store had at the start was looked up, for the status and the history.
    knows_reached: bool,
    /// What is there goes out at once, whatever its age.
    hurry: bool,
}

impl<D: Disk> Drain<D> {
    /// A drain that goes on behind sequence `drained`.
    pub fn new(
        journal: &Arc<Journal<D>>,
        store: Arc<dyn Store>,
        (dead_letters, erasures): (DeadLetters<D>, PendingErasures<D>),
        expiry: Expiry,
        config: &MongoConfig,
        drained: u64,
        storage: Arc<MongoStatus>,
    ) -> Self {
        storage.connecting();
        Self {
            journal: journal.clone(),
            intake: Intake::new(journal, expiry, config, drained),
            caller: Caller::new(store, config),
            dead_letters,
            wrote_letters: false,
            erasures,
            remote_erasures: None,
            storage,
            batch_age: config.batch.max_age,
            acknowledged: Batch::default(),
            knows_reached: false,
            hurry: false,
        }
    }

    /// The same where other servers write to the store, too.
    #[must_use]
    pub fn sharing(self, remote_erasures: RemoteErasures) -> Self {
        Self { remote_erasures: Some(remote_erasures), ..self }
    }

    /// Erasures that were not final at the start, and were not carried out since. They come first: each is bounded by an id,
    /// so it takes nothing that was said later.
    pub fn erasures_pending(&self) -> usize {
        self.erasures.found()
    }

    /// The store has everything up to this sequence.
    pub fn drained(&self) -> u64 {
        self.intake.drained
    }

    /// Whether dead letters were written since this was asked last: how far the drain is should be stored, or they are
    /// looked for in vain after a crash.
    pub fn wrote_letters(&mut self) -> bool {
        std::mem::take(&mut self.wrote_letters)
    }

    /// Whether a call was tried and failed, and none has succeeded since.
    pub fn is_failing(&self) -> bool {
        self.caller.backoff.failures() > 0
    }

    /// What is there goes out at once from now on: the process is about to end.
    pub fn hurry(&mut self) {
        self.hurry = true;
        self.caller.backoff.end_pause();
    }

    /// Takes a record the worker takes, if it is the next one and there is room.
    pub fn offer(&mut self, record: &Record) {
        self.intake.offer(&*self.caller.store, record);
    }

    /// Where the outcome of the call under way comes.
    pub fn outcome(&self) -> Option<&Receiver<Answer>> {
        self.caller.under_way.as_ref().map(|under_way| under_way.call.outcome())
    }

    /// Goes on as far as it can without waiting; `passed` is the sequence up to which the worker has taken everything.
    ///
    /// # Errors
    /// The journal cannot be read: it is tried again the next time.
    pub fn step(&mut self, passed: u64) -> io::Result<()> {
        // Here and not at the start, which would wait for it: up to a segment is walked.
        if !std::mem::replace(&mut self.knows_reached, true) {
            self.storage.reached(id_at(&self.journal, self.intake.drained));
        }
        loop {
            if let Some(answer) = self.caller.take_slow_connection() {
                self.finish(Task::Connect, Duration::ZERO, answer);
            }
            let read = self.intake.read(&*self.caller.store, passed);
            self.form_batch();
            if let Some((task, took, answer)) = self.caller.take() {
                self.finish(task, took, answer);
                // The next batch is formed first.
                continue;
            }
            if self.caller.under_way.is_some() {
                return read;
            }
            let begun = !self.caller.backoff.pauses() && self.begin();
            self.acknowledged = Batch::default();
            if !begun {
                return read;
            }
        }
    }

    /// When [`Drain::step`] has something to do at the latest, if nothing comes before.
    pub fn wake(&self) -> Option<Instant> {
        if let Some(under_way) = &self.caller.under_way {
            return Some(under_way.deadline);
        }
        let batch = self.intake.batch.since().map(|since| since + self.batch_age);
        let others = [self.erasures.wake(), self.remote_erasures.as_ref().map(RemoteErasures::due)];
        // Without a connection there is always something to do.
        let connection = self.caller.is_unconnected().then(Instant::now);
        let due = [batch, connection].into_iter().chain(others).flatten().min();
        match (self.caller.backoff.until(), due) {
            (Some(until), Some(due)) => Some(until.max(due)),
            (_, due) => due,
        }
    }

    /// Forms the next batch, unless one is under way, or failed: that one is tried again as it was.
    fn form_batch(&mut self) {
        if self.caller.is_inserting() || (self.is_failing() && !self.intake.batch.is_empty()) {
            return;
        }
        self.intake.form_batch();
        self.storage.pending_since(self.intake.oldest());
    }

    /// Whether the batch is to go out.
    fn batch_is_due(&self) -> bool {
        let batch = &self.intake.batch;
        // Behind it stands an erasure, or a message that does not fit: waiting brings nothing more.
        let is_blocked = !self.intake.prefetch.is_empty();
        let is_old = batch.since().is_some_and(|since| since.elapsed() >= self.batch_age);
        let is_due = batch.is_full(&self.intake.prefetch) || is_blocked || is_old || self.is_failing() || self.hurry;
        !batch.is_empty() && is_due
    }

    /// Begins the next call, if there is one to make; whether it did.
    fn begin(&mut self) -> bool {
        // A batch comes last but for the erasure behind it, or under a steady load it would never come to the others.
        if self.caller.is_unconnected() {
            self.call(Task::Connect, |store| store.connect().map(CallResult::Connected))
        } else if let Some(remote_erasures) =
            self.remote_erasures.as_ref().filter(|remote_erasures| remote_erasures.due() <= Instant::now())
        {
            let place = remote_erasures.place();
            self.call(Task::RemoteErasures, move |store| store.erasures(place.as_ref()).map(CallResult::RemoteErasures))
        } else if let Some((session, up_to)) = self.erasures.next(&self.caller.calls) {
            self.call(Task::ErasePending, move |store| store.erase(&session, up_to).map(CallResult::Erased))
        } else if self.batch_is_due() {
            let messages = self.intake.batch.messages().clone();
            self.call(Task::Insert, move |store| store.send(&messages).map(CallResult::Inserted))
        } else if let Some((session, up_to)) = self.intake.erasure() {
            self.call(Task::Erase, move |store| store.erase(&session, up_to).map(CallResult::Erased))
        } else {
            false
        }
    }

    fn call(&mut self, task: Task, call: impl FnOnce(&dyn Store) -> Answer + Send + 'static) -> bool {
        let begun = self.caller.begin(task, call);
        begun.map_err(|error| self.failed(task, &error)).is_ok()
    }
}
