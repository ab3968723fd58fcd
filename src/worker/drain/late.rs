//! Inserts that took longer than a call may and were given up: they go on on their threads, and what comes of them counts.
//!
//! Over a slow link a retry beside such a call would take half of the link from it, and send again what is under way. So a
//! retry waits for it, for twice as long as a call may take, and ends once it succeeds. Knows nothing of how much a batch
//! holds.

use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;

use crate::disk::Disk;
use crate::store::{Inserted, StoreError};

use super::Drain;
use super::call::{CallPurpose, CallResult, LateInsert};

impl<D: Disk> Drain<D> {
    /// An insert has failed: what was too much for the link is halved, and what may still succeed is remembered.
    pub(super) fn insert_failed(&mut self, error: &StoreError, took: Duration) {
        let batch = &self.intake.batch;
        let given_up = self.caller.given_up.take();
        let is_too_much = given_up.is_some() || matches!(error, StoreError::BrokenOff(_));
        if let Some(call) = given_up {
            let (messages, bytes, last) = (batch.messages().clone(), batch.bytes(), batch.last());
            let retry_at = Instant::now() + 2 * self.caller.timeout;
            let began = Instant::now() - took;
            let given_ids = batch.given_ids().collect();
            self.caller.late.push(LateInsert { call, messages, given_ids, bytes, last, passed: 0, began, retry_at });
        }
        if is_too_much {
            self.intake.too_much();
        }
    }

    /// Takes what came of those that were given up.
    pub(super) fn take_late(&mut self) {
        let mut at = 0;
        while let Some(late) = self.caller.late.get(at) {
            match late.outcome().try_recv() {
                Err(TryRecvError::Empty) => at += 1,
                Ok(Ok(CallResult::Inserted(inserted))) => {
                    let late = self.caller.late.remove(at);
                    self.late_success(&late, &inserted);
                }
                // What it sent may still arrive.
                _ => {
                    self.caller.late.remove(at);
                    self.erasures.insert_failed();
                }
            }
        }
    }

    fn late_success(&mut self, late: &LateInsert, inserted: &Inserted) {
        let took = late.began.elapsed();
        let inserted = late.rest(inserted);
        let left = late.messages.len().saturating_sub(late.passed);
        if left == 0 || late.last <= self.intake.drained || !self.write_letters(&late.messages, &inserted) {
            return;
        }
        self.mongo_status.flushed(&inserted, left, took);
        let reached = late.given_ids.last().copied();
        self.mongo_status.reached(reached);
        self.intake.pace.worked(late.messages.len(), late.bytes, took);
        let was_sent_again = self.intake.caught_up(late.last);
        if was_sent_again && self.caller.is_inserting() {
            self.caller.under_way = None;
        }
        self.caller.late.iter_mut().for_each(|other| other.pass(reached));
        self.succeeded(CallPurpose::Insert);
    }
}
