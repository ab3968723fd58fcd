//! Records that the drain has taken, in sequence, the batch made of them, and how far it is.
//!
//! What it has no space for it reads from the journal later, in bounded pieces. Knows nothing of calls.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::config::MongoConfig;
use crate::disk::Disk;
use crate::journal::{Entry, Journal, ReadProgress, Reader, Record};
use crate::message::{Expiry, Id, SessionId};
use crate::store::Store;
use crate::worker::batch::{InsertBatch, Prefetch};
use crate::worker::pace::Pace;

/// Bytes of one read of the journal.
const READ_BYTES: usize = 256 * 1024;

/// Records on their way to the store.
pub(super) struct Intake<D: Disk> {
    reader: Reader<D>,
    pub(super) expiry: Expiry,
    /// Everything up to this sequence was taken or read.
    pub(super) position: u64,
    /// Taken, and not yet in the batch.
    pub(super) prefetch: Prefetch,
    pub(super) batch: InsertBatch,
    pub(super) pace: Pace,
    /// The store has everything up to here.
    pub(super) drained: u64,
}

impl<D: Disk> Intake<D> {
    /// An intake that goes on after sequence `drained`.
    pub(super) fn new(journal: &Journal<D>, expiry: Expiry, config: &MongoConfig, drained: u64) -> Self {
        let (reader, prefetch, batch) =
            (journal.reader(drained), Prefetch::new(config.batch), InsertBatch::after(drained));
        let pace = Pace::new(config.batch, config.call_timeout);
        Self { reader, expiry, position: drained, prefetch, batch, pace, drained }
    }

    /// Takes a record if it is the next one and there is space.
    pub(super) fn offer(&mut self, store: &dyn Store, record: &Record) {
        if record.sequence == self.position + 1 && self.prefetch.has_room() {
            self.reader.skip_to(record.sequence);
            self.position = record.sequence;
            self.prefetch.push(store, record.clone());
        }
    }

    /// Reads from the journal what it had no space for, up to `passed`.
    pub(super) fn read(&mut self, store: &dyn Store, passed: u64) -> io::Result<()> {
        while self.position < passed && self.prefetch.has_room() {
            let prefetch = &mut self.prefetch;
            let left = prefetch.bytes_left().clamp(1, READ_BYTES);
            let read = self.reader.read(left, |record| prefetch.push(store, record));
            // Refused sequences leave gaps.
            self.position = self.position.max(self.reader.position());
            read?;
        }
        Ok(())
    }

    /// Moves records into the batch, up to its limits or to an erasure.
    pub(super) fn form_batch(&mut self) {
        self.batch.fill(&mut self.prefetch, &self.pace, self.expiry.bound());
        if self.batch.is_empty() {
            // None of these records is for the store.
            self.drained = self.drained.max(self.batch.last());
            if self.prefetch.is_empty() {
                self.drained = self.drained.max(self.position);
                self.batch.pass(self.position);
            }
        }
    }

    /// The message that has waited longest.
    pub(super) fn oldest(&self) -> Option<Id> {
        self.batch.given_ids().next().or_else(|| self.prefetch.first().and_then(|next| next.entry.given_id()))
    }

    /// The erasure that comes next, once the batch before it is acknowledged.
    pub(super) fn erasure(&self) -> Option<(SessionId, Id)> {
        match self.prefetch.first().map(|next| &next.entry) {
            Some(Entry::Erasure { id, session }) if self.batch.is_empty() => Some((session.clone(), *id)),
            _ => None,
        }
    }

    /// Notes that this erasure was carried out.
    pub(super) fn erased(&mut self) {
        if let Some(record) = self.prefetch.pop() {
            self.drained = record.sequence;
            self.batch.pass(record.sequence);
        }
    }

    /// The batch went through, after that time; it is handed back.
    pub(super) fn inserted(&mut self, took: Duration) -> InsertBatch {
        self.pace.worked(self.batch.messages().len(), self.batch.bytes(), took);
        self.drained = self.drained.max(self.batch.last());
        std::mem::replace(&mut self.batch, InsertBatch::after(self.drained))
    }

    /// The batch was too much for one call.
    pub(super) fn too_much(&mut self) {
        self.pace.failed(self.batch.messages().len(), self.batch.bytes());
        self.batch.narrow(&mut self.prefetch, &self.pace);
    }

    /// The store has everything up to that sequence, by an earlier call. Whether the batch is done with by that.
    pub(super) fn caught_up(&mut self, sequence: u64) -> bool {
        self.drained = self.drained.max(sequence);
        if self.batch.last() > sequence {
            return false;
        }
        self.batch = InsertBatch::after(self.drained);
        self.prefetch.pass(self.drained);
        true
    }
}

/// The id given to the record at that sequence, if the journal still has it.
pub(super) fn id_at<D: Disk>(journal: &Journal<D>, sequence: u64) -> Option<Id> {
    let (mut reader, mut next) = (journal.reader(sequence.checked_sub(1)?), None);
    // Skips the records before it in its segment, piece by piece.
    loop {
        let read = reader.read_while(READ_BYTES, |record| {
            next = Some(record);
            ControlFlow::Break(())
        });
        if next.is_some() || !matches!(read, Ok(ReadProgress::More)) {
            return next.filter(|record| record.sequence == sequence)?.entry.given_id();
        }
    }
}
