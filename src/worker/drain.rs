//! The drain to MongoDB: batches of messages in sequence, one call at a time, until everything published is there.
//!
//! It takes the worker's records as long as it has space for them. What it had no space for, in an outage or after a
//! start, it reads from the journal later, in bounded pieces. So its memory is at most three batches and their
//! documents, whatever the backlog. A call runs on a thread of its own (`store/calls.rs`), and the worker never waits
//! for one: either the outcome arrives, or the deadline passes and the call is abandoned on its thread.
//!
//! Exactly once in effect: a batch is tried again, whole, until the store says that each message of it is there or can never
//! be; the store's ids make the second time harmless. A call that was given up may still succeed, and then counts
//! (`late.rs`). What can never be stored is a dead letter, synced, before the drain
//! goes past it.
//!
//! An erasure is carried out in its place, and again when no earlier failed insert can arrive any more
//! (`pending_erasures.rs`).
//!
//! If other servers write to the same database, the drain asks for their erasures every few seconds, and before the
//! first batch after an outage (`remote_erasures.rs`). Each becomes a record of this journal and reaches its place here
//! like any erasure. So nothing that this drain sent before can bring back what another server erased.
//!
//! What an operator asks to be sent again goes between the batches (`resend.rs`, `pass.rs`).
//!
//! Knows nothing of checkpoints; the worker asks how far it is.

mod call;
mod intake;
mod late;
mod outcomes;
mod pass;
mod resend;
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
use crate::transcript::Transcripts;

use super::batch::InsertBatch;
use super::dead_letters::DeadLetters;
use super::mongo_status::MongoStatus;
use super::pending_erasures::PendingErasures;
use super::remote_erasures::RemoteErasures;

use call::{CallPurpose, CallResult, CallReturn, Caller, LateInsert};
use intake::{Intake, id_at};
use pass::Resender;

/// Sends the worker's records to the store.
pub struct Drain<D: Disk = RealDisk> {
    journal: Arc<Journal<D>>,
    intake: Intake<D>,
    caller: Caller,
    dead_letters: DeadLetters<D>,
    /// Erasures that are not final, also those made while MongoDB was disabled.
    erasures: PendingErasures<D>,
    /// Erasures of other servers, if the database is shared.
    remote_erasures: Option<RemoteErasures>,
    mongo_status: Arc<MongoStatus>,
    /// What an operator asks to be sent again, if it can be.
    resender: Option<Resender<D>>,
    batch_age: Duration,
    /// The last batch that was acknowledged. It is freed while the next call runs, so that freeing delays no call.
    acknowledged: InsertBatch,
    /// The id at the checkpoint was looked up, for the status and the history.
    knows_reached: bool,
    /// Batches go out at once, whatever their age.
    hurry: bool,
}

impl<D: Disk> Drain<D> {
    /// A drain that goes on after sequence `drained`.
    pub fn new(
        journal: &Arc<Journal<D>>,
        store: Arc<dyn Store>,
        (dead_letters, erasures): (DeadLetters<D>, PendingErasures<D>),
        expiry: Expiry,
        config: &MongoConfig,
        drained: u64,
        mongo_status: Arc<MongoStatus>,
    ) -> Self {
        mongo_status.connecting();
        Self {
            journal: journal.clone(),
            intake: Intake::new(journal, expiry, config, drained),
            caller: Caller::new(store, config),
            dead_letters,
            erasures,
            remote_erasures: None,
            mongo_status,
            resender: None,
            batch_age: config.batch.max_age,
            acknowledged: InsertBatch::default(),
            knows_reached: false,
            hurry: false,
        }
    }

    /// The same for a database that other servers write to as well.
    #[must_use]
    pub fn sharing(self, remote_erasures: RemoteErasures) -> Self {
        Self { remote_erasures: Some(remote_erasures), ..self }
    }

    /// The same with the transcripts from which it may be asked to send again.
    #[must_use]
    pub fn resending(self, transcripts: Arc<Transcripts<D>>) -> Self {
        Self { resender: Some(Resender::new(transcripts)), ..self }
    }

    /// How many erasures were pending at the start and are still to be carried out. They come first: each has an id as
    /// its limit, so it deletes nothing that was recorded later.
    pub fn erasures_pending(&self) -> usize {
        self.erasures.found()
    }

    /// The store has everything up to this sequence.
    pub fn drained(&self) -> u64 {
        self.intake.drained
    }

    /// Whether dead letters were written since the last call of this. If so the checkpoint should be stored soon: after
    /// a crash only the end of the file is searched for letters.
    pub fn wrote_letters(&mut self) -> bool {
        self.dead_letters.came()
    }

    /// Whether the store, once what is pending is there, has all that was ever recorded here.
    pub fn has_all(&self, has_all: bool) {
        self.mongo_status.has_all(has_all);
    }

    /// Whether a call failed and none has succeeded since.
    pub fn is_failing(&self) -> bool {
        self.caller.backoff.failures() > 0
    }

    /// Sends batches at once from now on: the process is about to end.
    pub fn hurry(&mut self) {
        self.hurry = true;
        self.caller.backoff.end_pause();
    }

    /// Takes a record if it is the next one and there is space.
    pub fn offer(&mut self, record: &Record) {
        self.intake.offer(&*self.caller.store, record);
    }

    /// The channel that brings the outcome of the call under way.
    pub fn outcome(&self) -> Option<&Receiver<CallReturn>> {
        self.caller.under_way.as_ref().map(|under_way| under_way.call.outcome())
    }

    /// Where the outcomes of inserts come that were given up.
    pub fn late_outcomes(&self) -> impl Iterator<Item = &Receiver<CallReturn>> {
        self.caller.late.iter().map(LateInsert::outcome)
    }

    /// Goes on as far as it can without waiting; `passed` is the sequence up to which the worker has taken everything.
    ///
    /// # Errors
    /// The journal cannot be read. Nothing is lost: call it again later.
    pub fn step(&mut self, passed: u64) -> io::Result<()> {
        // Not at the start, because this may read a whole segment.
        if !std::mem::replace(&mut self.knows_reached, true) {
            self.mongo_status.reached(id_at(&self.journal, self.intake.drained));
        }
        loop {
            if let Some(answer) = self.caller.take_slow_connection() {
                self.finish(CallPurpose::Connect, Duration::ZERO, answer);
            }
            self.take_late();
            let read = self.intake.read(&*self.caller.store, passed);
            self.form_batch();
            if let Some((task, took, answer)) = self.caller.take() {
                self.finish(task, took, answer);
                // Forms the next batch first.
                continue;
            }
            if self.caller.under_way.is_some() {
                return read;
            }
            let begun = !self.caller.backoff.pauses() && self.begin();
            self.acknowledged = InsertBatch::default();
            if !begun {
                return read;
            }
        }
    }

    /// The latest time at which [`Drain::step`] has something to do.
    pub fn wake(&self) -> Option<Instant> {
        if let Some(under_way) = &self.caller.under_way {
            return Some(under_way.deadline);
        }
        let batch =
            self.intake.batch.since().map(|since| (since + self.batch_age).max(self.retry_at().unwrap_or(since)));
        let others = [self.erasures.wake(), self.remote_erasures.as_ref().map(RemoteErasures::due), self.resend_at()];
        let due = [batch, self.caller.connect_at()].into_iter().chain(others).flatten().min();
        match (self.caller.backoff.until(), due) {
            (Some(until), Some(due)) => Some(until.max(due)),
            (_, due) => due,
        }
    }

    /// Forms the next batch, unless one is under way or failed: that one is sent again unchanged.
    fn form_batch(&mut self) {
        if self.caller.is_inserting() || (self.is_failing() && !self.intake.batch.is_empty()) {
            return;
        }
        self.intake.form_batch();
        self.mongo_status.pending_since(self.intake.oldest(), self.intake.drained);
    }

    /// When the batch may be sent although inserts that were given up may still succeed.
    fn retry_at(&self) -> Option<Instant> {
        self.caller.late.iter().map(LateInsert::retry_at).max()
    }

    /// Whether the batch is to go out.
    fn batch_is_due(&self) -> bool {
        let batch = &self.intake.batch;
        // An erasure, or a message that does not fit, comes next: waiting adds nothing.
        let is_blocked = !self.intake.prefetch.is_empty();
        let is_old = batch.since().is_some_and(|since| since.elapsed() >= self.batch_age);
        let is_due = batch.is_full(&self.intake.pace) || is_blocked || is_old || self.is_failing() || self.hurry;
        !batch.is_empty() && is_due && self.retry_at().is_none_or(|at| at <= Instant::now())
    }

    /// Begins the next call, if there is one to make; returns whether it did.
    fn begin(&mut self) -> bool {
        // Erasures go before batches, except the erasure right after the batch; else a steady load would starve them.
        if self.caller.connect_at().is_some_and(|at| at <= Instant::now()) {
            self.call(CallPurpose::Connect, |store| store.connect().map(CallResult::Connected))
        } else if let Some(remote_erasures) =
            self.remote_erasures.as_ref().filter(|remote_erasures| remote_erasures.due() <= Instant::now())
        {
            let place = remote_erasures.place();
            self.call(CallPurpose::RemoteErasures, move |store| {
                store.erasures(place.as_ref()).map(CallResult::RemoteErasures)
            })
        } else if let Some((session, up_to)) = self.erasures.next(&self.caller.calls) {
            self.call(CallPurpose::ErasePending, move |store| store.erase(&session, up_to).map(CallResult::Erased))
        } else if self.batch_is_due() {
            let messages = self.intake.batch.messages().clone();
            self.call(CallPurpose::Insert, move |store| store.send(&messages).map(CallResult::Inserted))
        } else if let Some((session, up_to)) = self.intake.erasure() {
            self.call(CallPurpose::Erase, move |store| store.erase(&session, up_to).map(CallResult::Erased))
        } else {
            self.begin_resend()
        }
    }

    fn call(&mut self, task: CallPurpose, call: impl FnOnce(&dyn Store) -> CallReturn + Send + 'static) -> bool {
        let begun = self.caller.begin(task, call);
        begun.map_err(|error| self.failed(task, &error)).is_ok()
    }
}
