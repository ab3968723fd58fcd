//! Sessions from their beginning, page by page, for an export: the same sources and the same rules as a page of the
//! history, without the limit on what is searched, without a trace in the cache, and without a count in its metrics.
//!
//! Where MongoDB has a message that this machine has too, this machine's line is given: it is the one that was recorded.
//! Knows nothing of formats.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use crate::disk::Disk;
use crate::message::{Id, Message, SessionId};
use crate::transcript::Query;

use super::lacking::Lacking;
use super::{CachedRun, History, HistoryPage, HistoryQuery, MessageSource};

/// The most messages and bytes of a page.
const PAGE_MESSAGES: usize = 2000;
/// The most bytes of messages in such a page, unless a single one is longer.
pub const FORWARD_PAGE_BYTES: usize = 512 << 10;

impl<D: Disk> History<D> {
    /// The sessions that have a transcript, or messages that a transcript still lacks, by name.
    ///
    /// # Errors
    /// The transcripts cannot be listed. A retry is safe.
    pub fn sessions_here(&self) -> io::Result<BTreeSet<SessionId>> {
        // One that is compared is either whole or among the stale.
        self.transcripts.reconcile();
        let stale = self.transcripts.all_stale().into_iter().map(|(session, _)| session);
        Ok(self.transcripts.sessions()?.into_iter().chain(stale).collect())
    }

    /// Sessions of MongoDB after that name, in its order, and where to go on if there are more; `None` without MongoDB.
    ///
    /// # Errors
    /// Why MongoDB did not answer, for display. A retry is safe.
    #[allow(clippy::type_complexity)]
    pub fn sessions_of_mongo(&self, after: &str) -> Option<Result<(Vec<SessionId>, Option<String>), String>> {
        self.database.as_ref().map(|database| database.sessions(after))
    }

    /// The page of a session after that id.
    ///
    /// # Errors
    /// See [`History::read`].
    pub fn page_after(&self, session: &SessionId, after: Id) -> io::Result<HistoryPage> {
        let (after, page_bytes_max) = (Some(after), FORWARD_PAGE_BYTES);
        let ask = HistoryQuery { after, page_bytes_max, ..HistoryQuery::newest(session.clone(), PAGE_MESSAGES) };
        let query = Query { bytes_max: u64::MAX, ..self.query(&ask) };
        let mut page = match &self.database {
            None => self.page_on_disk(&ask, &query)?,
            Some(database) => {
                let asked = database.ask(&ask, &query, Duration::MAX);
                let mut here = self.page_on_disk(&ask, &query)?;
                // Of two the nearer is taken.
                here.messages.iter_mut().for_each(|(_, source)| *source = MessageSource::Cache);
                let is_gone = |message: &Message| self.journal.is_erased(message);
                database.merge(asked, &ask, &query, here, &is_gone)
            }
        };
        self.tell_of_loss(&ask, &query, &mut page);
        Ok(page)
    }

    fn page_on_disk(&self, ask: &HistoryQuery, query: &Query) -> io::Result<HistoryPage> {
        let lacking = Lacking::of(&self.transcripts, &self.journal, &ask.session, query)?;
        self.merged(ask, query, CachedRun::default(), lacking)
    }
}
