//! Search: the messages whose text has all of some words, session by session, newest activity first, and newest first
//! within each.
//!
//! | file | what |
//! |---|---|
//! | here | the walk over the sessions, and how much one page may read |
//! | `page.rs` | a question and its answer |
//! | `session.rs` | one session: its transcript, and what that lacks from the journal |
//! | `needles.rs` | which lines are worth parsing |
//! | `words.rs` | the words in a text, and the piece around them |
//!
//! There is no index of words: everything that is kept is read, no more than `history.max_scan_bytes` for one page, and a
//! cursor says where the next page goes on. Invariant: a walk by cursors shows each message once that was recorded before
//! it began, unless its session becomes active before the walk has reached it; then it stands where a new walk begins.
//!
//! Knows nothing of HTTP, and does not ask MongoDB.

mod needles;
mod page;
mod session;
#[cfg(test)]
mod tests;
mod words;

use std::sync::Arc;
use std::time::Duration;

use crate::access::SessionPrefix;
use crate::config::Config;
use crate::disk::{Disk, RealDisk};
use crate::journal::Journal;
use crate::message::{Clock, Expiry, Id, SessionId, Timestamp};
use crate::permit::Semaphore;
use crate::sessions::{ListPosition, SessionIndex};
use crate::transcript::{ScanBuffers, Transcripts};

pub use page::{SearchCursor, SearchPage, SearchQuery};
pub use words::{SearchWords, SnippetPiece};

use needles::Needles;
use page::{LOST, MONGO, NOT_WHOLE, SearchRun, UNREADABLE};
use session::{SearchSources, SessionEnd};

/// Searches at once: each takes a processor and up to a megabyte.
const SEARCHES_MAX: usize = 2;
/// How long a page waits after a start for the index.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// Sessions that are taken from the index at once: first, and at most.
const SESSIONS_FIRST: usize = 64;
const SESSIONS_MAX: usize = 2048;
/// Bytes that a session counts for at least: to open a file takes as long as to read as many.
const SESSION_BYTES_MIN: u64 = 8 << 10;

/// Finds messages by their words.
pub struct MessageSearch<D: Disk = RealDisk> {
    index: Arc<SessionIndex<D>>,
    sources: SearchSources<D>,
    has_mongo: bool,
    running: Arc<Semaphore>,
}

impl<D: Disk> MessageSearch<D> {
    /// A search over these parts.
    #[must_use]
    pub fn new(
        config: &Config,
        clock: Clock,
        index: Arc<SessionIndex<D>>,
        transcripts: Arc<Transcripts<D>>,
        journal: Arc<Journal<D>>,
    ) -> Self {
        let (expiry, scan_bytes_max) = (Expiry::new(config.mongo.ttl, clock), config.history.max_scan_bytes);
        let sources = SearchSources { transcripts, journal, expiry, scan_bytes_max };
        Self { index, sources, has_mongo: config.mongo.enabled, running: Semaphore::new(SEARCHES_MAX) }
    }

    /// Finds a page. Waits for the disk only. `None`: as many searches as may run are running.
    pub fn page(&self, ask: &SearchQuery) -> Option<SearchPage> {
        let _permit = self.running.try_acquire()?;
        let mut search = SearchRun {
            ask,
            needles: Needles::new(ask.words.as_slice(), ask.current),
            page: SearchPage::default(),
            bytes: 0,
        };
        let is_whole = self.index.is_whole(WAIT_MAX);
        search.add_reason(!is_whole, NOT_WHOLE);
        search.add_reason(self.has_mongo, MONGO);
        search.page.next = self.walk(&mut search, &mut ScanBuffers::default()).err();
        Some(search.page)
    }

    /// Searches sessions until the page ends.
    ///
    /// # Errors
    /// Where it ended, unless all were searched.
    fn walk(&self, search: &mut SearchRun<'_>, buffers: &mut ScanBuffers) -> Result<(), SearchCursor> {
        let ask = search.ask;
        if let Some(SearchCursor { session, before }) = &ask.cursor {
            self.step((&mut *search, &mut *buffers), session, *before)?;
        } else if let Some(session) = &ask.session {
            let time = self.index.get(session).map_or(0, |entry| entry.updated);
            self.step((&mut *search, &mut *buffers), &(time, session.as_str().to_owned()), Id::END)?;
        }
        let mut at_once = SESSIONS_FIRST;
        let mut after = ask.cursor.as_ref().map(|cursor| cursor.session.clone());
        while ask.session.is_none() {
            let found = self.newest(ask, after.as_ref(), at_once);
            let is_last = found.len() < at_once;
            for place in found {
                self.step((&mut *search, &mut *buffers), &place, Id::END)?;
                after = Some(place);
            }
            if is_last {
                break;
            }
            at_once = (at_once * 2).min(SESSIONS_MAX);
        }
        Ok(())
    }

    /// Searches a session, before that id.
    fn step(
        &self,
        (search, buffers): (&mut SearchRun<'_>, &mut ScanBuffers),
        place: &ListPosition,
        before: Id,
    ) -> Result<(), SearchCursor> {
        let Ok(session) = SessionId::new(&place.1) else { return Ok(()) };
        let at = |before| Err(SearchCursor { session: place.clone(), before });
        if search.page.messages.len() == search.ask.limit || buffers.bytes_read >= self.sources.scan_bytes_max {
            return at(before);
        }
        let searched = self.sources.search(search, buffers, &session, before);
        buffers.bytes_read += SESSION_BYTES_MIN;
        search.add_reason(self.sources.transcripts.lost(&session).is_some(), LOST);
        match searched {
            Ok(SessionEnd::Finished) => Ok(()),
            Ok(SessionEnd::At(id)) => at(id),
            Err(e) => {
                log::debug!("session {session} cannot be searched: {e}");
                search.add_reason(true, UNREADABLE);
                Ok(())
            }
        }
    }

    fn newest(&self, ask: &SearchQuery, after: Option<&ListPosition>, limit: usize) -> Vec<ListPosition> {
        let bound = self.sources.expiry.time().max(ask.since).map_or(0, Timestamp::micros);
        let prefix = ask.prefix.as_ref().map_or("", SessionPrefix::as_str);
        let found = self.index.newest(limit, after, &|name, entry| {
            entry.messages > 0 && entry.updated >= bound && name.starts_with(prefix)
        });
        found.into_iter().map(|(session, entry)| (entry.updated, session.as_str().to_owned())).collect()
    }
}
