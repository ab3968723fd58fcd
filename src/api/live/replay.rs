//! Reads what a subscriber missed, a page at a time, on a thread that may wait for the disk.
//!
//! Knows nothing of sockets; [`History`] does the reading.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use crate::history::{History, HistoryPage, HistoryQuery};
use crate::message::{Id, Message, SessionId};

/// Messages of one page; few in tests, so that there are many pages.
const PAGE: usize = if cfg!(test) { 20 } else { 200 };
/// Bytes of one page, unless a single message is longer: the memory that a subscriber takes while it catches up.
const PAGE_BYTES_MAX: usize = 256 << 10;
/// The welcome counts the user's messages among this many of the newest.
const COUNTED: usize = 100;

/// One page of what a subscriber missed.
#[derive(Default)]
pub(super) struct ReplayPage {
    /// Everything up to here was erased since the message that the subscriber had. Only in the first page.
    pub(super) erased: Option<Id>,
    /// Only in the first page.
    pub(super) welcome: Option<KnownSession>,
    /// Oldest first.
    pub(super) messages: Vec<Arc<Message>>,
    /// More messages follow.
    pub(super) more: bool,
    /// Why the messages cannot be given; the client is told to fetch the history.
    pub(super) gap: Option<Cow<'static, str>>,
    /// The newest message of the session: where to go on after a gap, or without `after`.
    pub(super) newest: Option<Id>,
}

/// What the welcome tells of a session.
pub(super) struct KnownSession {
    pub(super) is_known: bool,
    /// The user's messages among the newest 100.
    pub(super) interactions: usize,
}

/// Reads the first page, and what the welcome tells.
pub(super) fn first(history: &History, session: &SessionId, after: Option<Id>) -> ReplayPage {
    let newest = match history.read_page_here(&ask(session, COUNTED, None)) {
        Ok(newest) => newest,
        Err(fault) => {
            return ReplayPage {
                welcome: Some(KnownSession { is_known: false, interactions: 0 }),
                ..failed(session, &fault)
            };
        }
    };
    let interactions = count(history, session, &newest);
    let welcome = Some(KnownSession { is_known: !newest.messages.is_empty(), interactions });
    let last = newest.messages.last().map(|(message, _)| message.id());
    let Some(after) = after else { return ReplayPage { welcome, newest: last, ..ReplayPage::default() } };
    if after == Id::BEGINNING {
        return ReplayPage { welcome, ..next(history, session, None) };
    }
    // Nothing older is left to replay.
    if let Some(erased) = history.erased_to(session).filter(|erased| after < *erased) {
        return ReplayPage { welcome, erased: Some(erased), ..next(history, session, Some(erased)) };
    }
    // If the message itself is gone, what followed it may be gone as well.
    let page = match history.read_page_here(&ask(session, PAGE, Some(after.just_before()))) {
        Ok(answer) => page_of(answer),
        Err(fault) => failed(session, &fault),
    };
    if page.gap.is_none() && page.messages.first().is_none_or(|message| message.id() != after) {
        let gap = Some("the message of `after` is not kept here".into());
        return ReplayPage { welcome, gap, newest: last, ..ReplayPage::default() };
    }
    let messages = page.messages.into_iter().skip(1).collect();
    ReplayPage { welcome, messages, newest: last, ..page }
}

/// Reads what follows a message; without one, from the beginning.
pub(super) fn next(history: &History, session: &SessionId, after: Option<Id>) -> ReplayPage {
    let after = after.unwrap_or(Id::BEGINNING);
    match history.read_page_here(&ask(session, PAGE, Some(after))) {
        Ok(answer) => page_of(answer),
        Err(fault) => failed(session, &fault),
    }
}

/// How many of the newest messages are the user's; `newest` has the first of them, as far as a page goes. What is longer is
/// read page by page, and only counted.
fn count(history: &History, session: &SessionId, newest: &HistoryPage) -> usize {
    let of_user = |answer: &HistoryPage| answer.messages.iter().filter(|(message, _)| message.role() == "user").count();
    let oldest = |answer: &HistoryPage| answer.messages.first().map(|(message, _)| message.id());
    let (mut users, mut left) = (of_user(newest), COUNTED - newest.messages.len().min(COUNTED));
    let mut before = oldest(newest).filter(|_| newest.has_more);
    while let Some(id) = before.filter(|_| left > 0) {
        let older = HistoryQuery { before: Some(id), ..ask(session, left, None) };
        let Ok(older) = history.read_page_here(&older) else { break };
        users += of_user(&older);
        left -= older.messages.len().min(left);
        before = oldest(&older).filter(|_| older.has_more);
    }
    users
}

fn ask(session: &SessionId, limit: usize, after: Option<Id>) -> HistoryQuery {
    HistoryQuery { after, page_bytes_max: PAGE_BYTES_MAX, ..HistoryQuery::newest(session.clone(), limit) }
}

fn page_of(answer: HistoryPage) -> ReplayPage {
    let gap = answer.incomplete.map(Cow::from);
    let messages: Vec<Arc<Message>> = answer.messages.into_iter().map(|(message, _)| message).collect();
    ReplayPage { erased: None, welcome: None, messages, more: answer.has_more, gap, newest: answer.newest }
}

fn failed(session: &SessionId, fault: &io::Error) -> ReplayPage {
    log::warn!("cannot read what a client missed of {session}: {fault}");
    ReplayPage { gap: Some("the history cannot be read at the moment".into()), ..ReplayPage::default() }
}
