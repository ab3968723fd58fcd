//! What comes of a call of the drain: what it may count as stored, what it pauses for, what the status is told.
//!
//! Invariant: nothing counts before the store has said that it is there, or a dead letter of it is synced.

use std::time::Duration;

use crate::disk::Disk;
use crate::store::{CallError, Connected, Inserted, StoreError, StoredErasure};

use super::Drain;
use super::call::{Connection, Failing, Outcome, Task, UnderWay};

impl<D: Disk> Drain<D> {
    /// The call under way has ended, one way or another.
    pub(super) fn finish(&mut self, outcome: Result<Outcome, CallError>) {
        let Some(UnderWay { task, call, began, .. }) = self.caller.under_way.take() else { return };
        let took = began.elapsed();
        let error = match outcome {
            Ok(Outcome::Connected(Ok(connected))) => return self.connected(&connected),
            Ok(Outcome::Inserted(Ok(inserted))) => return self.inserted(&inserted, took),
            Ok(Outcome::Erased(Ok(count))) => return self.erased(&task, count),
            Ok(Outcome::Foreign(Ok(found))) => return self.heard(&found),
            Ok(Outcome::Foreign(Err(e @ (StoreError::Credentials { .. } | StoreError::Server { .. })))) => {
                let Some(foreign) = &mut self.foreign else { return };
                return self.storage.cannot_share(Some(&foreign.refused(&e)));
            }
            Ok(
                Outcome::Connected(Err(e))
                | Outcome::Inserted(Err(e))
                | Outcome::Erased(Err(e))
                | Outcome::Foreign(Err(e)),
            ) => e,
            Err(CallError::Late) => {
                if matches!(task, Task::Connect) {
                    self.caller.connection = Connection::Slow(call);
                }
                StoreError::Unreachable { reason: format!("no answer within {} s", self.caller.timeout.as_secs()) }
            }
            Err(e) => StoreError::Unreachable { reason: e.to_string() },
        };
        self.failed(&task, &error);
    }

    pub(super) fn connected(&mut self, connected: &Connected) {
        self.caller.connection = Connection::Made;
        self.storage.connected(connected);
        self.succeeded(Failing::Drain);
    }

    pub(super) fn inserted(&mut self, inserted: &Inserted, took: Duration) {
        let messages = self.intake.batch.messages().clone();
        let refused = inserted.refused.iter().filter_map(|r| Some((&messages.get(r.index)?.message, &*r.reason)));
        // What was erased meanwhile is scrubbed from every file, and must not come to stand in another.
        let refused = refused.filter(|(message, _)| !self.journal.is_erased(message));
        if let Err(e) = self.dead_letters.add(refused) {
            return self.held_up(&format!("the dead letters cannot be written: {e}"));
        }
        self.wrote_letters |= !inserted.refused.is_empty();
        self.storage.flushed(inserted, messages.len(), took);
        self.storage.reached(messages.last().map(|outgoing| outgoing.message.id()));
        self.through = self.intake.inserted();
        self.succeeded(Failing::Drain);
    }

    pub(super) fn erased(&mut self, task: &Task, count: u64) {
        if let Task::Erase(session, up_to) = task {
            if let Err(e) = self.erasures.carried_out(session, *up_to, &self.caller.calls) {
                return self.held_up(&format!("an erasure that is to be repeated cannot be noted: {e}"));
            }
            log::info!("[CHAT WORKER] Session {session} is erased from MongoDB: {count} messages");
            self.intake.erased();
            self.succeeded(Failing::Drain);
        } else {
            self.erasures.next_is_carried_out(&self.caller.calls);
            self.succeeded(Failing::ErasePending);
        }
        self.storage.erasures_to_repeat(self.erasures.again());
    }

    /// Other servers erased this.
    pub(super) fn heard(&mut self, found: &[StoredErasure]) {
        let Some(foreign) = &mut self.foreign else { return };
        self.storage.cannot_share(foreign.take(found).as_deref());
        self.succeeded(Failing::Foreign);
    }

    fn succeeded(&mut self, what: Failing) {
        if self.caller.succeeded(what) {
            self.storage.recovered();
        }
    }

    /// The store did its part, and this machine cannot do its own.
    fn held_up(&mut self, reason: &str) {
        self.caller.failed(Failing::Drain, true);
        self.storage.failed(reason);
    }

    pub(super) fn failed(&mut self, task: &Task, error: &StoreError) {
        if matches!(task, Task::Insert) {
            self.erasures.insert_failed();
        }
        let what = match task {
            Task::Foreign => Failing::Foreign,
            Task::ErasePending => Failing::ErasePending,
            Task::Connect | Task::Insert | Task::Erase(..) => Failing::Drain,
        };
        self.caller.failed(what, error.is_passing());
        self.storage.failed(&error.to_string());
    }
}
