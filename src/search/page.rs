//! The question of a search, and the page that answers it.

use crate::access::SessionPrefix;
use crate::message::{Id, Message, SessionId, Timestamp};
use crate::sessions::ListPosition;

use super::needles::Needles;
use super::words::SearchWords;

/// Why messages may be missing.
pub(super) const NOT_WHOLE: &str = "the list of sessions is being made again from the transcripts";
pub(super) const MONGO: &str = "messages that only MongoDB has are not searched";
pub(super) const UNREADABLE: &str = "a transcript cannot be read at the moment";
pub(super) const LOST: &str = "a part of a transcript is gone";
pub(super) const JOURNAL: &str =
    "a transcript is stale, and the search of the journal ended after history.max_scan_bytes";

/// A question for a page.
#[derive(Clone, Debug, Default)]
pub struct SearchQuery {
    /// The words that a text must have.
    pub words: SearchWords,
    /// The most messages.
    pub limit: usize,
    /// Only in that session.
    pub session: Option<SessionId>,
    /// Only in these sessions.
    pub prefix: Option<SessionPrefix>,
    /// Only messages of this role.
    pub role: Option<String>,
    /// Only messages of this time or later.
    pub since: Option<Timestamp>,
    /// Only messages before this time.
    pub until: Option<Timestamp>,
    /// Only what stands on the path of its conversation after its rewinds.
    pub current: bool,
    /// Where an earlier page ended.
    pub cursor: Option<SearchCursor>,
}

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchCursor {
    /// The session, and its place in the order.
    pub session: ListPosition,
    /// It goes on in that session, before this id, and then after the session.
    pub before: Id,
}

/// A page.
#[derive(Debug, Default)]
pub struct SearchPage {
    /// The messages, in the order of the walk.
    pub messages: Vec<Message>,
    /// Where the next page goes on. It may find nothing.
    pub next: Option<SearchCursor>,
    /// Why messages may be missing, each reason once.
    pub reasons: Vec<&'static str>,
}

/// The making of a page.
pub(super) struct SearchRun<'q> {
    pub(super) ask: &'q SearchQuery,
    pub(super) needles: Needles,
    pub(super) page: SearchPage,
    /// Of its messages.
    pub(super) bytes: usize,
}

impl SearchRun<'_> {
    pub(super) fn add_reason(&mut self, holds: bool, reason: &'static str) {
        if holds && !self.page.reasons.contains(&reason) {
            self.page.reasons.push(reason);
        }
    }
}
