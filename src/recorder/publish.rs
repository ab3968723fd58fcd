//! What the journal's leader does with each batch that is durable: transcripts, cache and index of sessions, then hub and
//! channel.
//!
//! The transcript comes first, so that whatever the cache evicts can be read there. Called by one thread at a time, in
//! sequence. Knows nothing of appends and syncs.

use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::cache::Cache;
use crate::disk::Disk;
use crate::hub::Hub;
use crate::journal::{Entry, Record};
use crate::logging::{self, Throttle};
use crate::message::{Message, SessionId};
use crate::metrics::Counter;
use crate::sessions::{Covered, SessionIndex};
use crate::transcript::{AppendOutcome, Transcripts};

/// The most INFO lines of the cache a second, of each kind.
pub(super) const CACHE_LINES_PER_SECOND: u32 = 3;

/// Where published records go, and their counters.
pub(super) struct Outlets<D: Disk> {
    pub(super) transcripts: Arc<Transcripts<D>>,
    pub(super) cache: Arc<Cache>,
    pub(super) sessions: Arc<SessionIndex<D>>,
    pub(super) channel: Sender<Record>,
    pub(super) hub: Arc<Hub>,
    pub(super) skipped: Arc<Counter>,
    pub(super) touched: Throttle,
    pub(super) evicted: Throttle,
}

impl<D: Disk> Outlets<D> {
    /// Shows a batch of durable records to every reader, in sequence.
    pub(super) fn publish(&self, records: &[Record]) {
        // Messages before an erasure and those after it are kept apart.
        for part in records.split_inclusive(|record| matches!(record.entry, Entry::Erasure { .. })) {
            self.publish_part(part);
        }
        if let Some(last) = records.last() {
            self.sessions.covers(Covered { sequence: last.sequence, id: last.entry.id() });
        }
        self.hub.publish(records);
        for record in records {
            if self.channel.try_send(record.clone()).is_err() {
                self.skipped.add(1);
            }
        }
    }

    /// Publishes messages, session by session, each in sequence, and then the erasure that may follow them. A batch
    /// is of many requests: what the log says of a record names its own.
    fn publish_part(&self, part: &[Record]) {
        let mut messages: Vec<(u64, &Arc<Message>)> =
            part.iter().filter_map(|record| Some((record.sequence, record.entry.message()?))).collect();
        // Stable, so that each session's stay in sequence: one write of its transcript for all of them.
        messages.sort_by(|(_, one), (_, other)| one.session().cmp(other.session()));
        let is_import = |sequence: u64| part[(sequence - part[0].sequence) as usize].entry.is_import();
        let enter = |sequence: u64, session: &SessionId| {
            let record = &part[(sequence - part[0].sequence) as usize];
            let entered = logging::enter(record.request.clone());
            logging::about_session(session.as_str());
            entered
        };
        for run in messages.chunk_by(|(_, one), (_, other)| one.session() == other.session()) {
            let session = run[0].1.session();
            if run.iter().any(|(sequence, _)| is_import(*sequence)) {
                self.transcripts.imported(session, run[0].0, run[run.len() - 1].0);
                self.cache.forget(session);
                continue;
            }
            let entered = enter(run[0].0, session);
            let appended = self.transcripts.append(session, run);
            drop(entered);
            if appended == AppendOutcome::WrittenBehindUnended {
                // What is held lacks that line.
                self.cache.forget(session);
            }
            for (index, (sequence, message)) in run.iter().enumerate() {
                let _entered = enter(*sequence, session);
                self.cache_one(message, index == 0 && appended == AppendOutcome::Written { first_ever: true });
            }
        }
        self.sessions.published(messages.iter().map(|(_, message)| &***message));
        if let Some(Record { entry: Entry::Erasure { id, session }, sequence, .. }) = part.last() {
            let _entered = enter(*sequence, session);
            // In this order: a warm-up may have read the transcript before it was removed.
            self.transcripts.erase(session, *id, *sequence);
            self.cache.erase(session, *id);
            self.sessions.erased(session, *id);
        }
    }

    fn cache_one(&self, message: &Arc<Message>, first_ever: bool) {
        let pushed = self.cache.push(message, first_ever);
        log::debug!("[CHAT CACHE] Cached {} message {} of {}", message.role(), message.id(), message.session());
        if pushed.first_touch
            && let Some(left_out) = self.touched.admit()
        {
            log::info!("[CHAT CACHE] Session {} is in use{}", message.session(), logging::others(left_out));
        }
        if pushed.evicted > 0
            && let Some(left_out) = self.evicted.admit()
        {
            log::info!("[CHAT CACHE] Sessions that left to make room: {}{}", pushed.evicted, logging::others(left_out));
        }
    }
}
