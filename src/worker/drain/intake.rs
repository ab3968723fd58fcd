//! What the drain has taken and how far it is: records that were offered or read, in sequence, and the batch made of them.
//!
//! What it has no room for it reads from the journal later, in bounded pieces. Knows nothing of calls.

use std::io;
use std::ops::ControlFlow;

use crate::config::MongoConfig;
use crate::disk::Disk;
use crate::journal::{Entry, Journal, Progress, Reader, Record};
use crate::message::{Expiry, Id, SessionId};
use crate::store::Store;
use crate::worker::batch::{Batch, Prefetch};

/// How much of the journal is read at once, in bytes.
const READ_BYTES: usize = 256 * 1024;

/// See the module.
pub(super) struct Intake<D: Disk> {
    reader: Reader<D>,
    expiry: Expiry,
    /// Everything up to here was taken, or read.
    pub(super) position: u64,
    /// Taken, and not yet in the batch.
    pub(super) prefetch: Prefetch,
    pub(super) batch: Batch,
    /// The store has everything up to here.
    pub(super) drained: u64,
}

impl<D: Disk> Intake<D> {
    /// One that goes on behind sequence `drained`.
    pub(super) fn new(journal: &Journal<D>, expiry: Expiry, config: &MongoConfig, drained: u64) -> Self {
        let (reader, prefetch, batch) = (journal.reader(drained), Prefetch::new(config.batch), Batch::after(drained));
        Self { reader, expiry, position: drained, prefetch, batch, drained }
    }

    /// Takes a record if it is the next one and there is room.
    pub(super) fn offer(&mut self, store: &dyn Store, record: &Record) {
        if record.sequence == self.position + 1 && self.prefetch.has_room() {
            self.reader.skip_to(record.sequence);
            self.position = record.sequence;
            self.prefetch.push(store, record.clone());
        }
    }

    /// Reads from the journal what it had no room for, up to `passed`.
    pub(super) fn read(&mut self, store: &dyn Store, passed: u64) -> io::Result<()> {
        while self.position < passed && self.prefetch.has_room() {
            let prefetch = &mut self.prefetch;
            let left = prefetch.bytes_left().clamp(1, READ_BYTES);
            let read = self.reader.read(left, |record| prefetch.push(store, record));
            // Refused sequences leave holes.
            self.position = self.position.max(self.reader.position());
            read?;
        }
        Ok(())
    }

    /// Moves what was taken into the batch, up to its limits or to an erasure.
    pub(super) fn form_batch(&mut self) {
        self.batch.fill(&mut self.prefetch, self.expiry.bound());
        if self.batch.is_empty() {
            // Nothing of it is for the store.
            self.drained = self.drained.max(self.batch.last());
            if self.prefetch.is_empty() {
                self.drained = self.drained.max(self.position);
                self.batch.pass(self.position);
            }
        }
    }

    /// The message that has waited longest.
    pub(super) fn oldest(&self) -> Option<Id> {
        let oldest = self.batch.messages().first().map(|outgoing| outgoing.message.id());
        oldest.or_else(|| self.prefetch.first().and_then(|next| next.entry.id()))
    }

    /// The erasure that comes next, once the batch before it is through.
    pub(super) fn erasure(&self) -> Option<(SessionId, Id)> {
        match self.prefetch.first().map(|next| &next.entry) {
            Some(Entry::Erasure { id, session }) if self.batch.is_empty() => Some((session.clone(), *id)),
            _ => None,
        }
    }

    /// That erasure was carried out.
    pub(super) fn erased(&mut self) {
        if let Some(record) = self.prefetch.pop() {
            self.drained = record.sequence;
            self.batch.pass(record.sequence);
        }
    }

    /// The batch went through; it is handed back.
    pub(super) fn inserted(&mut self) -> Batch {
        self.drained = self.batch.last();
        std::mem::replace(&mut self.batch, Batch::after(self.drained))
    }
}

/// The id of the record at that sequence, if the journal still has it.
pub(super) fn id_at<D: Disk>(journal: &Journal<D>, sequence: u64) -> Option<Id> {
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
