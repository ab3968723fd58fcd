//! What a session's transcript lacks, read from the journal, limited by bytes read and by what a page can show.

use std::collections::VecDeque;
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
    pub messages: VecDeque<Arc<Message>>,
    /// The last message of the session that was read, wanted or not.
    pub reached: Option<Id>,
    /// The search stopped at its limit: there may be more after `reached`.
    pub byte_limited: bool,
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
        Ok(lacking)
    }

    fn meet(&mut self, message: &Arc<Message>, query: &Query) {
        self.reached = Some(message.id());
        if !query.wants(message) {
            return;
        }
        let fits = |bytes: usize, count: usize| bytes <= query.page_bytes_max && count <= query.limit;
        if query.direction == Direction::Oldest && !fits(self.bytes, self.messages.len()) {
            return;
        }
        self.bytes += message.line().len();
        self.messages.push_back(message.clone());
        if query.direction == Direction::Newest {
            while let Some(oldest) = self.messages.front()
                && !fits(self.bytes - oldest.line().len(), self.messages.len() - 1)
            {
                self.bytes -= oldest.line().len();
                self.messages.pop_front();
            }
        }
    }
}
