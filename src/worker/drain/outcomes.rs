//! What comes of a call of the drain: what it may count as stored, what it pauses for, what the status is told.
//!
//! Invariant: nothing counts before the store has said that it is there, or a dead letter of it is synced.

use std::time::Duration;

use crate::disk::Disk;
use crate::message::{Id, SessionId};
use crate::store::{CallError, Connected, Inserted, StoreError, StoredErasure};

use super::super::batch::Batch;
use super::{Connection, Drain, Outcome, Task, UnderWay};

/// What a success tells of a failure before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Failing {
    /// A connection, a batch or an erasure in its place: any other success tells nothing of it.
    Drain,
    /// An erasure that is carried out again.
    EraseAgain,
    /// The question what other servers erased.
    Foreign,
}

impl<D: Disk> Drain<D> {
    /// The call under way has ended, one way or another.
    pub(super) fn finish(&mut self, outcome: Result<Outcome, CallError>) {
        let Some(UnderWay { task, call, began, .. }) = self.under_way.take() else { return };
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
                    self.connection = Connection::Slow(call);
                }
                StoreError::Unreachable { reason: format!("no answer within {} s", self.call_timeout.as_secs()) }
            }
            Err(e) => StoreError::Unreachable { reason: e.to_string() },
        };
        self.failed(&task, &error);
    }

    pub(super) fn connected(&mut self, connected: &Connected) {
        self.connection = Connection::Made;
        self.storage.connected(connected);
        self.succeeded();
    }

    pub(super) fn inserted(&mut self, inserted: &Inserted, took: Duration) {
        let refused =
            inserted.refused.iter().filter_map(|r| Some((&self.batch.messages().get(r.index)?.message, &*r.reason)));
        // What was erased meanwhile is scrubbed from every file, and must not come to stand in another.
        let refused = refused.filter(|(message, _)| !self.journal.is_erased(message));
        if let Err(e) = self.dead_letters.add(refused) {
            self.storage.failed(&format!("the dead letters cannot be written: {e}"));
            self.backoff.fail(true);
            return;
        }
        self.wrote_letters |= !inserted.refused.is_empty();
        self.storage.flushed(inserted, self.batch.messages().len(), took);
        self.drained = self.batch.last();
        self.storage.reached(self.batch.messages().last().map(|outgoing| outgoing.message.id()));
        self.through = std::mem::replace(&mut self.batch, Batch::behind(self.drained));
        self.succeeded();
    }

    pub(super) fn erased(&mut self, task: &Task, count: u64) {
        match task {
            Task::Erase(session, up_to) => {
                // Noted before it counts, or a restart would not know that it is to be repeated.
                let again = self.erasures.must_wait(&self.calls);
                if again && let Err(e) = self.owed.add(vec![(session.clone(), *up_to)]) {
                    self.failing = Some(Failing::Drain);
                    self.storage.failed(&format!("an erasure that is to be repeated cannot be noted: {e}"));
                    self.backoff.fail(true);
                    return;
                }
                log::info!("[CHAT WORKER] Session {session} is erased from MongoDB: {count} messages");
                if let Some(record) = self.ahead.pop() {
                    self.drained = record.sequence;
                    self.batch.pass(record.sequence);
                }
                self.carried_out(session.clone(), *up_to);
            }
            Task::EraseOwed => {
                if let Some((session, up_to)) = self.owed.carried_out() {
                    self.carried_out(session, up_to);
                }
            }
            _ => {
                if let Some((session, up_to)) = self.erasures.carried_out_again() {
                    self.owed.is_final(&session, up_to);
                }
            }
        }
        self.storage.erasures_to_repeat(self.erasures.len());
        if matches!(task, Task::Erase(..) | Task::EraseOwed) || self.failing == Some(Failing::EraseAgain) {
            self.succeeded();
        }
    }

    fn carried_out(&mut self, session: SessionId, up_to: Id) {
        if let Some((session, up_to)) = self.erasures.carried_out(session, up_to, &self.calls) {
            self.owed.is_final(&session, up_to);
        }
    }

    /// Other servers erased this. A batch or an erasure that failed has not gone through by it.
    fn heard(&mut self, found: &[StoredErasure]) {
        let Some(foreign) = &mut self.foreign else { return };
        self.storage.cannot_share(foreign.take(found).as_deref());
        if self.failing == Some(Failing::Foreign) {
            self.succeeded();
        }
    }

    pub(super) fn succeeded(&mut self) {
        self.failing = None;
        self.backoff.succeed();
        self.storage.recovered();
    }

    pub(super) fn failed(&mut self, task: &Task, error: &StoreError) {
        if matches!(task, Task::Insert) {
            self.erasures.insert_failed();
        }
        self.failing = Some(match task {
            Task::Foreign => Failing::Foreign,
            Task::EraseAgain => Failing::EraseAgain,
            Task::Connect | Task::Insert | Task::Erase(..) | Task::EraseOwed => Failing::Drain,
        });
        self.backoff.fail(error.is_passing());
        self.storage.failed(&error.to_string());
    }
}
