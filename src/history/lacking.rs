//! What a session's transcript lacks, read from the journal, limited by bytes read and by what a page can show.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::disk::Disk;
use crate::journal::{Journal, ReadProgress};
use crate::message::{Direction, Id, Message, SessionId};
use crate::transcript::{Query, Transcripts};

/// Bytes of one read of the journal.
const READ_BYTES: usize = 1 << 20;

/// Messages from the journal.
#[derive(Debug, Default)]
pub(super) struct Lacking {
    /// The wanted messages, oldest first, from the side from which the page is filled. Those left out lie beyond the
    /// page's limits, so the page ends before them.
    pub messages: BTreeMap<Id, Arc<Message>>,
    /// The newest message of the session that was read, wanted or not.
    pub reached: Option<Id>,
    /// The search stopped at its limit: there may be more after `reached`.
    pub byte_limited: bool,
    /// The search stopped before imported messages, which may belong anywhere.
    pub lacks_imports: bool,
    bytes: usize,
}

impl Lacking {
    /// What the session's transcript lacks.
    pub(super) fn of<D: Disk>(
        transcripts: &Transcripts<D>,
        journal: &Journal<D>,
        session: &SessionId,
        query: &Query,
    ) -> io::Result<Self> {
        let mut lacking = Self::default();
        let Some(stale) = transcripts.stale(session)? else { return Ok(lacking) };
        let mut reader = journal.reader(stale.first - 1);
        // Records before the first one in its segment are skipped and not counted: at most one segment.
        let mut read = 0;
        let at_once = usize::try_from(query.bytes_max).unwrap_or(READ_BYTES).min(READ_BYTES);
        while read < query.bytes_max {
            let progress = reader.read(at_once, |record| {
                let Some(message) = record.entry.message() else { return };
                read += message.line().len() as u64;
                if message.session() == session {
                    lacking.meet(message, query);
                }
            })?;
            if progress == ReadProgress::CaughtUp {
                return Ok(lacking);
            }
        }
        lacking.byte_limited = true;
        lacking.lacks_imports = journal.last_import() > reader.position();
        Ok(lacking)
    }

    fn meet(&mut self, message: &Arc<Message>, query: &Query) {
        self.reached = self.reached.max(Some(message.id()));
        if !query.wants(message) {
            return;
        }
        if self.messages.insert(message.id(), message.clone()).is_none() {
            self.bytes += message.line().len();
        }
        // One more than fits stays, so that the page ends before it.
        let fits = |bytes: usize, count: usize| bytes <= query.page_bytes_max && count <= query.limit;
        while let Some((id, farthest)) = match query.direction {
            Direction::Newest => self.messages.first_key_value(),
            Direction::Oldest => self.messages.last_key_value(),
        } && let left = self.bytes - farthest.line().len()
            && !fits(left, self.messages.len() - 1)
        {
            let id = *id;
            self.bytes = left;
            self.messages.remove(&id);
        }
    }
}
