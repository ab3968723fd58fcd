//! What the drain has taken and not yet sent, and the batch it sends next.
//!
//! They stand apart from the drain, which decides when to send, because they decide how much: all of a batch's limits are
//! here. A batch ends before an erasure, which is a call of its own, and holds at least one message however long.
//!
//! Knows nothing of calls, journals and time-outs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::config::BatchConfig;
use crate::journal::{Entry, Record};
use crate::message::Id;
use crate::store::{Outgoing, Store};

/// A record that was taken.
struct Taken {
    record: Record,
    /// Its message, ready to be sent.
    outgoing: Option<Outgoing>,
}

/// Records in sequence, as many as one batch may hold and what one read brings beyond. Their messages are made ready here,
/// while the batch before is under way: a server waits for the next one no longer than it takes to hand it over.
pub struct Prefetch {
    /// Of a batch; one message may be beyond the bytes.
    limits: BatchConfig,
    records: VecDeque<Taken>,
    bytes: usize,
}

impl Prefetch {
    pub fn new(limits: BatchConfig) -> Self {
        Self { limits, records: VecDeque::new(), bytes: 0 }
    }

    pub fn has_room(&self) -> bool {
        self.records.len() < self.limits.max_messages && self.bytes < self.limits.max_bytes
    }

    /// For how many bytes more it has room.
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
        self.records.push_back(Taken { record, outgoing });
    }

    /// Takes the first one out.
    pub fn pop(&mut self) -> Option<Record> {
        self.pop_taken().map(|taken| taken.record)
    }

    /// Its bytes as they were counted, and as they are.
    #[cfg(test)]
    pub fn bytes(&self) -> (usize, usize) {
        (self.bytes, self.records.iter().map(|next| bytes_of(&next.record)).sum())
    }

    fn pop_taken(&mut self) -> Option<Taken> {
        let taken = self.records.pop_front()?;
        self.bytes -= bytes_of(&taken.record);
        Some(taken)
    }
}

/// Messages for one call.
#[derive(Default)]
pub struct Batch {
    messages: Arc<Vec<Outgoing>>,
    bytes: usize,
    last: u64,
    since: Option<Instant>,
}

impl Batch {
    /// An empty one behind sequence `last`.
    pub fn after(last: u64) -> Self {
        Self { last, ..Self::default() }
    }

    pub fn messages(&self) -> &Arc<Vec<Outgoing>> {
        &self.messages
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Everything up to this sequence is in it, went before or is for no batch.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The same once everything up to `sequence` came to where it was to go another way.
    pub fn pass(&mut self, sequence: u64) {
        self.last = self.last.max(sequence);
    }

    /// When the first message came to it.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// As if its first message had come that much earlier.
    #[cfg(test)]
    pub fn age(&mut self, by: std::time::Duration) {
        self.since = self.since.and_then(|since| since.checked_sub(by));
    }

    /// Whether nothing of what is ahead goes into it any more, whatever comes.
    pub fn is_full(&self, prefetch: &Prefetch) -> bool {
        self.messages.len() >= prefetch.limits.max_messages || self.bytes >= prefetch.limits.max_bytes
    }

    /// Moves what is ahead into it, up to the limits or to an erasure. Messages below `expired_before` are passed over.
    pub fn fill(&mut self, prefetch: &mut Prefetch, expired_before: Option<Id>) {
        let limits = prefetch.limits;
        let messages = Arc::make_mut(&mut self.messages);
        while messages.len() < limits.max_messages
            && let Some(next) = prefetch.first()
            && !matches!(next.entry, Entry::Erasure { .. })
        {
            let bytes = bytes_of(next);
            if !messages.is_empty() && self.bytes + bytes > limits.max_bytes {
                break;
            }
            let Some(Taken { record, outgoing }) = prefetch.pop_taken() else { break };
            self.last = record.sequence;
            if let Some(outgoing) = outgoing
                && expired_before.is_none_or(|bound| outgoing.message.id() >= bound)
            {
                self.bytes += bytes;
                self.since.get_or_insert_with(Instant::now);
                messages.push(outgoing);
            }
        }
    }
}

/// What a record takes in a batch.
fn bytes_of(record: &Record) -> usize {
    record.entry.message().map_or(0, |message| message.line().len())
}
