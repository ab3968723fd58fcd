//! The search in one session: a pass over its transcript, and what that lacks from the journal, as one row of messages.
//!
//! With the current view the row is the path of the conversation (`history/current.rs`): markers of rewinds are met on it,
//! and what they jump over is not.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::disk::Disk;
use crate::journal::{Journal, ReadProgress};
use crate::message::{Expiry, Id, Marker, Message, SessionId};
use crate::transcript::{PAGE_BYTES_MAX, ScanBounds, ScanBuffers, ScanEnd, ScanStep, Seeker, Transcripts};

use super::page::{JOURNAL, SearchQuery, SearchRun, UNREADABLE};

/// Bytes of one read of the journal.
const READ_BYTES: usize = 1 << 20;
/// The most messages that are kept of what a transcript lacks: more than a page has.
const LACKING_MAX: usize = 1000;

/// How the search in a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionEnd {
    /// All was searched.
    Finished,
    /// The page ended: the next one goes on before that id.
    At(Id),
}

/// Where messages are searched.
pub(super) struct SearchSources<D: Disk> {
    pub(super) transcripts: Arc<Transcripts<D>>,
    pub(super) journal: Arc<Journal<D>>,
    pub(super) expiry: Expiry,
    /// The most bytes that are read for a page.
    pub(super) scan_bytes_max: u64,
}

/// A row of messages, newest first, that is searched.
struct Row<'r, 'q, D: Disk> {
    search: &'r mut SearchRun<'q>,
    journal: &'r Journal<D>,
    /// What is wanted of the messages that the transcript lacks.
    lacking: BTreeMap<Id, Message>,
    /// The row goes on before this one.
    below: Id,
    is_over: bool,
    is_full: bool,
}

/// What was read of the journal.
#[derive(Default)]
struct LackingRead {
    bytes: u64,
    /// There may be more in it.
    is_limited: bool,
    /// Everything wanted up to this id was left out, for there was too much.
    dropped: Option<Id>,
}

impl<D: Disk> SearchSources<D> {
    /// Searches a session before that id, until the page is full or has read all that it may.
    pub(super) fn search(
        &self,
        search: &mut SearchRun<'_>,
        buffers: &mut ScanBuffers,
        session: &SessionId,
        before: Id,
    ) -> io::Result<SessionEnd> {
        let ask = search.ask;
        let since = ask.since.map(|time| Id::least_of(time).just_before());
        let after = since.max(self.expiry.bound().map(Id::just_before));
        // On a path later markers count, too.
        let until = ask.until.filter(|_| !ask.current).map_or(Id::END, Id::least_of);
        let (lacking, below) = (BTreeMap::new(), before.min(until));
        let mut row = Row { search, journal: &self.journal, lacking, below, is_over: false, is_full: false };
        let left = |buffers: &ScanBuffers| self.scan_bytes_max.saturating_sub(buffers.bytes_read);
        let is_first = buffers.bytes_read == 0;
        let mut read = LackingRead::default();
        if let Some(stale) = self.transcripts.stale(session)? {
            row.read_lacking(session, stale.first, after, left(buffers), &mut read)?;
            buffers.bytes_read += read.bytes;
            if read.is_limited && !is_first {
                // The next page begins with it, and may read more of the journal.
                return Ok(SessionEnd::At(before));
            }
            row.search.add_reason(read.is_limited, JOURNAL);
        }
        let before = Some(below).filter(|below| *below < Id::END);
        let bounds = ScanBounds { before, after: after.max(read.dropped), bytes_max: left(buffers) };
        let scanned = self.transcripts.scan(session, bounds, buffers, &mut row);
        // What it lacks is found nevertheless.
        let ended = scanned.unwrap_or_else(|e| {
            log::debug!("the transcript of {session} cannot be searched: {e}");
            row.search.add_reason(true, UNREADABLE);
            ScanEnd::Finished
        });
        Ok(row.end(ended, read.dropped))
    }
}

impl<D: Disk> Row<'_, '_, D> {
    /// Reads what the transcript lacks from `first` on.
    fn read_lacking(
        &mut self,
        session: &SessionId,
        first: u64,
        after: Option<Id>,
        bytes_max: u64,
        read: &mut LackingRead,
    ) -> io::Result<()> {
        let (mut reader, mut held) = (self.journal.reader(first - 1), 0);
        let at_once = usize::try_from(bytes_max).unwrap_or(READ_BYTES).min(READ_BYTES);
        while read.bytes < bytes_max {
            let progress = reader.look(at_once, |_, entry| {
                let Some(view) = entry.message() else { return };
                read.bytes += view.line().len() as u64;
                let is_within = view.id() < self.below && Some(view.id()) > after.max(read.dropped);
                if !is_within || view.session() != session.as_str() || !self.search.needles.may_pick(view.line()) {
                    return;
                }
                let message = view.to_message();
                if self.wants(&message) {
                    held += message.line().len();
                    self.lacking.insert(message.id(), message);
                }
                while (held > PAGE_BYTES_MAX && self.lacking.len() > 1) || self.lacking.len() > LACKING_MAX {
                    let Some((id, oldest)) = self.lacking.pop_first() else { break };
                    held -= oldest.line().len();
                    read.dropped = Some(id);
                }
            })?;
            if progress == ReadProgress::CaughtUp {
                return Ok(());
            }
        }
        read.is_limited = true;
        Ok(())
    }

    /// Meets what the transcript lacks down to that id, or all of it.
    fn meet_lacking(&mut self, down_to: Option<Id>) {
        while !self.is_over
            && let Some(newest) = self.lacking.last_entry()
            && down_to.is_none_or(|down_to| *newest.key() >= down_to)
        {
            let message = newest.remove();
            if message.id() < self.below && Some(message.id()) != down_to {
                self.meet(message);
            }
        }
    }

    /// The next message of the row.
    fn meet(&mut self, message: Message) {
        let id = message.id();
        match message.marker() {
            Some(Marker::Rewind(None)) => self.is_over = true,
            // One that names a later message than itself jumps over nothing.
            Some(Marker::Rewind(Some(to))) => self.below = id.min(to.just_after()),
            Some(Marker::Clear | Marker::Session(_)) | None => {
                let SearchRun { page, bytes, ask, .. } = &mut *self.search;
                *bytes += message.line().len();
                self.is_full = *bytes > PAGE_BYTES_MAX && !page.messages.is_empty();
                if !self.is_full {
                    page.messages.push(message);
                    (self.below, self.is_full) = (id, page.messages.len() == ask.limit);
                }
                self.is_over = self.is_full;
            }
        }
    }

    fn end(mut self, ended: ScanEnd, dropped: Option<Id>) -> SessionEnd {
        let reached = match ended {
            ScanEnd::At(reached) => Some(reached),
            ScanEnd::Finished => None,
        };
        self.meet_lacking(reached);
        match reached {
            _ if self.is_full => SessionEnd::At(self.below),
            _ if self.is_over => SessionEnd::Finished,
            Some(reached) => SessionEnd::At(self.below.min(reached)),
            None if dropped.is_some() => SessionEnd::At(self.below),
            None => SessionEnd::Finished,
        }
    }
}

impl<D: Disk> Seeker for Row<'_, '_, D> {
    fn pick(&mut self, block: &[u8], picked: &mut Vec<Range<usize>>) {
        self.search.needles.pick(block, picked);
    }

    fn wants(&mut self, message: &Message) -> bool {
        let ask = self.search.ask;
        if self.journal.is_erased(message) {
            return false;
        }
        match message.marker() {
            Some(Marker::Rewind(_)) => ask.current,
            Some(Marker::Clear | Marker::Session(_)) => false,
            None => ask.wants(message) && ask.words.are_in(&message.text()),
        }
    }

    fn take(&mut self, message: Message) -> ScanStep {
        let id = message.id();
        self.meet_lacking(Some(id));
        if !self.is_over && id < self.below {
            self.meet(message);
        }
        match self.below {
            _ if self.is_over => ScanStep::Done,
            below if below < id => ScanStep::Below(below),
            _ => ScanStep::On,
        }
    }
}

impl SearchQuery {
    /// Whether a message is wanted, words and markers aside.
    fn wants(&self, message: &Message) -> bool {
        self.role.as_ref().is_none_or(|role| message.role() == role)
            && self.until.is_none_or(|until| message.id() < Id::least_of(until))
    }
}
