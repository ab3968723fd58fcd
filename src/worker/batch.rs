//! Records that the drain has taken and not yet sent, and the batch that it sends next.
//!
//! The drain decides when to send, this module how much: all limits of a batch are here. A batch ends before an
//! erasure, which is a call of its own, and holds at least one message however long.
//!
//! How much goes into one call follows the link (`pace.rs`): what a call was too slow for goes back to what is to be sent.
//!
//! Knows nothing of calls, journals and timeouts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::config::BatchConfig;
use crate::journal::{Entry, Record};
use crate::message::Id;
use crate::store::{OutgoingMessage, Store};

use super::pace::Pace;

/// A record that was taken.
struct TakenRecord {
    record: Record,
    /// Its message, in the store's form.
    outgoing: Option<OutgoingMessage>,
}

/// Records in sequence: one batch, and what one read brings beyond it. Their messages are put into the store's form
/// here while the previous batch is under way, so that the next call starts at once.
pub struct Prefetch {
    /// Limits of a batch; a single message may exceed the bytes.
    limits: BatchConfig,
    records: VecDeque<TakenRecord>,
    bytes: usize,
}

impl Prefetch {
    pub fn new(limits: BatchConfig) -> Self {
        Self { limits, records: VecDeque::new(), bytes: 0 }
    }

    pub fn has_room(&self) -> bool {
        self.records.len() < self.limits.max_messages && self.bytes < self.limits.max_bytes
    }

    /// How many bytes more it may take.
    pub fn bytes_left(&self) -> usize {
        self.limits.max_bytes.saturating_sub(self.bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn first(&self) -> Option<&Record> {
        self.records.front().map(|next| &next.record)
    }

    pub fn push(&mut self, store: &dyn Store, record: Record) {
        self.bytes += bytes_of(&record);
        let outgoing = record.entry.message().map(|message| store.prepare(message));
        self.records.push_back(TakenRecord { record, outgoing });
    }

    /// Takes the first record.
    pub fn pop(&mut self) -> Option<Record> {
        self.pop_taken().map(|taken| taken.record)
    }

    /// Its bytes: the running count, and a new count.
    #[cfg(test)]
    pub fn bytes(&self) -> (usize, usize) {
        (self.bytes, self.records.iter().map(|next| bytes_of(&next.record)).sum())
    }

    /// Takes out everything up to that sequence.
    pub fn pass(&mut self, sequence: u64) {
        while self.first().is_some_and(|next| next.sequence <= sequence) {
            self.pop();
        }
    }

    fn push_front(&mut self, record: Record, outgoing: OutgoingMessage) {
        self.bytes += bytes_of(&record);
        self.records.push_front(TakenRecord { record, outgoing: Some(outgoing) });
    }

    fn pop_taken(&mut self) -> Option<TakenRecord> {
        let taken = self.records.pop_front()?;
        self.bytes -= bytes_of(&taken.record);
        Some(taken)
    }
}

/// Messages of one call.
#[derive(Default)]
pub struct InsertBatch {
    messages: Arc<Vec<OutgoingMessage>>,
    /// Of each of them.
    records: Vec<Record>,
    bytes: usize,
    last: u64,
    since: Option<Instant>,
}

impl InsertBatch {
    /// An empty batch after sequence `last`.
    pub fn after(last: u64) -> Self {
        Self { last, ..Self::default() }
    }

    pub fn messages(&self) -> &Arc<Vec<OutgoingMessage>> {
        &self.messages
    }

    /// The ids given to the records of its messages, rising.
    pub fn given_ids(&self) -> impl Iterator<Item = Id> {
        self.records.iter().filter_map(|record| record.entry.given_id())
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Everything up to this sequence is in the batch, was handled before, or needs no batch.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Notes that everything up to `sequence` was handled.
    pub fn pass(&mut self, sequence: u64) {
        self.last = self.last.max(sequence);
    }

    /// When its first message was added.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Makes its first message that much older.
    #[cfg(test)]
    pub fn age(&mut self, by: std::time::Duration) {
        self.since = self.since.and_then(|since| since.checked_sub(by));
    }

    /// Bytes of its messages, as lines.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the next record does not fit, or no record ever will.
    pub fn is_full(&self, pace: &Pace) -> bool {
        self.messages.len() >= pace.messages() || self.bytes >= pace.bytes()
    }

    /// Moves records into the batch, up to the limits or to an erasure. Skips messages with ids below `expired_before`.
    pub fn fill(&mut self, prefetch: &mut Prefetch, pace: &Pace, expired_before: Option<Id>) {
        let messages = Arc::make_mut(&mut self.messages);
        while messages.len() < pace.messages()
            && let Some(next) = prefetch.first()
            && !matches!(next.entry, Entry::Erasure { .. })
        {
            let bytes = bytes_of(next);
            if !messages.is_empty() && self.bytes + bytes > pace.bytes() {
                break;
            }
            let Some(TakenRecord { record, outgoing }) = prefetch.pop_taken() else { break };
            self.last = record.sequence;
            if let Some(outgoing) = outgoing
                && expired_before.is_none_or(|bound| outgoing.message.id() >= bound)
            {
                self.bytes += bytes;
                self.since.get_or_insert_with(Instant::now);
                messages.push(outgoing);
                self.records.push(record);
            }
        }
    }

    /// Gives back what is beyond the limits, which have become narrower; one message stays.
    pub fn narrow(&mut self, prefetch: &mut Prefetch, pace: &Pace) {
        let messages = Arc::make_mut(&mut self.messages);
        while messages.len() > 1 && (messages.len() > pace.messages() || self.bytes > pace.bytes()) {
            let (Some(outgoing), Some(record)) = (messages.pop(), self.records.pop()) else { break };
            self.bytes -= bytes_of(&record);
            self.last = record.sequence - 1;
            prefetch.push_front(record, outgoing);
        }
    }
}

/// The bytes that a record takes in a batch.
fn bytes_of(record: &Record) -> usize {
    record.entry.message().map_or(0, |message| message.line().len())
}
