//! What a reader asks for, the answer, and how a page is merged from several sources.

use std::io;
use std::sync::Arc;

use crate::message::{Direction, Id, Message, SessionId, Timestamp};
use crate::transcript::{PAGE_BYTES_MAX, Query};

/// A message, and where it was found.
pub(super) type Located = (Arc<Message>, MessageSource);

/// Where a message was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageSource {
    /// In memory.
    Cache,
    /// In MongoDB.
    Mongo,
    /// In a transcript, or in the journal while the transcript is stale.
    Disk,
}

impl MessageSource {
    /// Its name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Mongo => "mongo",
            Self::Disk => "disk",
        }
    }
}

/// A question for a page.
#[derive(Clone, Debug)]
pub struct HistoryQuery {
    /// The session.
    pub session: SessionId,
    /// The most messages of the page.
    pub limit: usize,
    /// Only ids before this one.
    pub before: Option<Id>,
    /// Only ids after this one; the page is then filled from its oldest side, so that a reader can go forward.
    pub after: Option<Id>,
    /// Only messages of this role.
    pub role: Option<String>,
    /// Only messages of this time or later.
    pub since: Option<Timestamp>,
    /// Only messages before this time.
    pub until: Option<Timestamp>,
    /// Only what stands on the path of the conversation after its rewinds (current.rs); not with `after`.
    pub current: bool,
    /// The most bytes of messages, unless the first is longer; a page that ends for it says that there are more.
    pub page_bytes_max: usize,
}

impl HistoryQuery {
    /// The newest messages of a session.
    #[must_use]
    pub fn newest(session: SessionId, limit: usize) -> Self {
        let page_bytes_max = PAGE_BYTES_MAX;
        Self {
            session,
            limit,
            before: None,
            after: None,
            role: None,
            since: None,
            until: None,
            current: false,
            page_bytes_max,
        }
    }
}

impl HistoryQuery {
    /// The question for what follows a part of the page: `part` has a message, and fewer than the page may have.
    fn rest_after(&self, part: &HistoryPage) -> Self {
        let mut rest = self.clone();
        rest.limit -= part.messages.len();
        rest.page_bytes_max = rest.page_bytes_max.saturating_sub(part.bytes());
        let id = |message: Option<&Located>| message.map(|(message, _)| message.id());
        match self.after {
            Some(_) => rest.after = id(part.messages.last()),
            None => rest.before = id(part.messages.first()),
        }
        rest
    }
}

impl HistoryPage {
    /// What was found, or that there is nothing of it, as far as the page can tell.
    ///
    /// # Errors
    /// Nothing was found, and the page may lack something.
    pub fn known<T>(self, found: Option<T>) -> io::Result<Option<T>> {
        match (found, self.incomplete) {
            (None, Some(why)) => Err(io::Error::other(why)),
            (found, _) => Ok(found),
        }
    }

    /// The length of its messages, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.messages.iter().map(|(message, _)| message.line().len()).sum()
    }
}

/// A page.
#[derive(Clone, Debug, Default)]
pub struct HistoryPage {
    /// Oldest first.
    pub messages: Vec<(Arc<Message>, MessageSource)>,
    /// More messages follow in the direction of paging.
    pub has_more: bool,
    /// Why the answer may lack messages, if so.
    pub incomplete: Option<String>,
    /// Where an incomplete answer ended: the `before`, or going forward the `after`, to go on with.
    pub next: Option<Id>,
    /// The time of the session's newest message that is at its destination.
    pub last_persisted_at: Option<Timestamp>,
    /// The newest message of the session on this machine.
    pub newest: Option<Id>,
}

impl HistoryPage {
    /// Reads on: this is the first part of the page that `ask` asks for, which ended at its bytes.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn complete<E>(
        self,
        ask: &HistoryQuery,
        read: impl FnOnce(&HistoryQuery) -> Result<Self, E>,
    ) -> Result<Self, E> {
        let rest = read(&ask.rest_after(&self))?;
        let (mut messages, further) = match ask.after {
            Some(_) => (self.messages, rest.messages),
            None => (rest.messages, self.messages),
        };
        messages.extend(further);
        let last_persisted_at = self.last_persisted_at.max(rest.last_persisted_at);
        let (incomplete, newest) = (rest.incomplete.or(self.incomplete), self.newest.max(rest.newest));
        Ok(Self { messages, incomplete, last_persisted_at, newest, ..rest })
    }

    /// The answer may lack messages, for this reason too.
    pub(super) fn add_reason(&mut self, why: String) {
        self.incomplete = Some(match self.incomplete.take() {
            Some(before) => format!("{before}; {why}"),
            None => why,
        });
    }
}

/// [`take`] out of what was found in several places, in any order: a message that is in two counts for the nearer.
pub(super) fn merge(mut found: Vec<Located>, query: &Query) -> HistoryPage {
    found.sort_by_key(|(message, source)| (message.id(), *source));
    found.dedup_by_key(|(message, _)| message.id());
    take(found, query)
}

/// The page out of all wanted messages, oldest first: as many as fit, but at least one.
pub(super) fn take(mut found: Vec<Located>, query: &Query) -> HistoryPage {
    let mut bytes = 0;
    let fits = |(message, _): &&(Arc<Message>, MessageSource)| {
        let first = bytes == 0;
        bytes += message.line().len();
        first || bytes <= query.page_bytes_max
    };
    let count = match query.direction {
        Direction::Newest => found.iter().rev().take(query.limit).take_while(fits).count(),
        Direction::Oldest => found.iter().take(query.limit).take_while(fits).count(),
    };
    let has_more = found.len() > count;
    match query.direction {
        Direction::Newest => drop(found.drain(..found.len() - count)),
        Direction::Oldest => found.truncate(count),
    }
    HistoryPage { messages: found, has_more, ..HistoryPage::default() }
}
