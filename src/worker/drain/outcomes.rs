//! What follows from the outcome of a call: what counts as stored, how long to pause, what the status tells.
//!
//! Invariant: a message counts as stored only when the store has said so or its dead letter is synced.

use std::time::Duration;

use crate::disk::Disk;
use crate::store::{Connected, Inserted, OutgoingMessage, StoreError, StoredErasure};

use super::super::mongo_status::FlushFailure;
use super::super::remote_erasures::RemoteErasures;
use super::Drain;
use super::call::{CallPurpose, CallResult, CallReturn};
use super::pass::Resender;

impl<D: Disk> Drain<D> {
    /// Handles the outcome of a call.
    pub(super) fn finish(&mut self, task: CallPurpose, took: Duration, answer: CallReturn) {
        match answer {
            Ok(CallResult::Connected(connected)) => self.connected(&connected),
            Ok(CallResult::Inserted(inserted)) if task == CallPurpose::Resend => self.resent(&inserted, took),
            Ok(CallResult::Inserted(inserted)) => self.inserted(&inserted, took),
            Ok(CallResult::Erased(count)) => self.erased(task, count),
            Ok(CallResult::RemoteErasures(found)) => self.heard(&found),
            Err(e) if task == CallPurpose::RemoteErasures && self.goes_on_without(&e) => {
                let reason = self.remote_erasures.as_mut().map(|remote_erasures| remote_erasures.refused(&e));
                self.mongo_status.cannot_share(reason);
            }
            Err(e) => {
                if task == CallPurpose::Insert {
                    self.insert_failed(&e, took);
                }
                if task == CallPurpose::Resend {
                    self.resend_failed(&e, took >= self.caller.timeout);
                }
                self.failed(task, &e);
            }
        }
    }

    pub(super) fn connected(&mut self, connected: &Connected) {
        self.caller.connected();
        self.mongo_status.connected(connected);
        self.succeeded(CallPurpose::Connect);
    }

    pub(super) fn inserted(&mut self, inserted: &Inserted, took: Duration) {
        let messages = self.intake.batch.messages().clone();
        if !self.write_letters(&messages, inserted) {
            return;
        }
        self.mongo_status.flushed(inserted, messages.len(), took);
        let reached = self.intake.batch.given_ids().last();
        self.mongo_status.reached(reached);
        self.acknowledged = self.intake.inserted(took);
        self.caller.late.iter_mut().for_each(|late| late.pass(reached));
        self.succeeded(CallPurpose::Insert);
    }

    /// Writes what the store refused of them to the dead letters; whether that could be done.
    pub(super) fn write_letters(&mut self, messages: &[OutgoingMessage], inserted: &Inserted) -> bool {
        let refused = inserted.refused.iter().filter_map(|r| Some((&messages.get(r.index)?.message, &*r.reason)));
        // Erased meanwhile: the scrubber removes it from every file, so it must not be written to another.
        let refused = refused.filter(|(message, _)| !self.journal.is_erased(message));
        if let Err(e) = self.dead_letters.add(refused) {
            self.held_up(CallPurpose::Insert, &format!("cannot write the dead letters: {e}"));
            return false;
        }
        if !inserted.refused.is_empty() {
            self.resender.iter_mut().for_each(Resender::letters_written);
        }
        true
    }

    pub(super) fn erased(&mut self, task: CallPurpose, count: u64) {
        if task == CallPurpose::ErasePending {
            self.erasures.next_is_carried_out(&self.caller.calls);
        } else if let Some((session, up_to)) = self.intake.erasure() {
            if let Err(e) = self.erasures.carried_out(&session, up_to, &self.caller.calls) {
                return self.held_up(task, &format!("cannot note an erasure that is to be repeated: {e}"));
            }
            log::info!("[CHAT WORKER] Session {session} is erased from MongoDB: {count} messages");
            self.intake.erased();
        }
        self.succeeded(task);
        self.mongo_status.erasures_to_confirm(self.erasures.again());
    }

    /// Takes the erasures of other servers.
    pub(super) fn heard(&mut self, found: &[StoredErasure]) {
        let Some(remote_erasures) = &mut self.remote_erasures else { return };
        self.mongo_status.cannot_share(remote_erasures.take(found));
        self.succeeded(CallPurpose::RemoteErasures);
    }

    /// Whether messages do not wait for the question what other servers erased: not for the right to ask, and not for ever for an
    /// answer.
    fn goes_on_without(&mut self, error: &StoreError) -> bool {
        let is_refused = matches!(error, StoreError::Credentials(_) | StoreError::Server(_));
        is_refused || self.remote_erasures.as_mut().is_some_and(RemoteErasures::has_held_up)
    }

    pub(super) fn succeeded(&mut self, what: CallPurpose) {
        if self.caller.succeeded(what) {
            self.mongo_status.recovered();
        }
    }

    /// The store did its part, but this machine's disk or journal failed.
    fn held_up(&mut self, task: CallPurpose, reason: &str) {
        self.caller.failed(task, true);
        self.mongo_status.failed(FlushFailure::Disk, reason);
    }

    pub(super) fn failed(&mut self, task: CallPurpose, error: &StoreError) {
        if matches!(task, CallPurpose::Insert | CallPurpose::Resend) {
            self.erasures.insert_failed();
            self.remote_erasures.iter_mut().for_each(RemoteErasures::insert_failed);
        }
        self.caller.failed(task, error.is_passing());
        self.mongo_status.failed(error.into(), &error.to_string());
    }
}
