//! Reading what a subscriber missed, a page at a time, where the disk may be waited for.
//!
//! Knows nothing of sockets; the rest is [`History`]'s.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use crate::history::{Answer, Ask, History};
use crate::message::{Id, Message, SessionId};

/// Messages of one page; few in tests, so that there are many.
const PAGE: usize = if cfg!(test) { 20 } else { 200 };
/// Bytes of one page, but for a single message that has more: what a subscriber with much to catch up holds in memory.
const PAGE_BYTES_MAX: usize = 256 << 10;
/// Of how many messages the welcome counts those of the user.
const COUNTED: usize = 100;

/// What was read.
#[derive(Default)]
pub(super) struct Page {
    /// For the first page.
    pub(super) welcome: Option<Known>,
    /// Oldest first.
    pub(super) messages: Vec<Arc<Message>>,
    /// There is more behind them.
    pub(super) more: bool,
    /// Why nothing can be given from there.
    pub(super) gap: Option<Cow<'static, str>>,
    /// The newest message of the session, for a gap or who wants nothing of what was.
    pub(super) newest: Option<Id>,
}

/// What is known of a session.
pub(super) struct Known {
    pub(super) is_known: bool,
    /// Messages of the user, among the newest.
    pub(super) interactions: usize,
}

/// The first page, with what the welcome tells.
pub(super) fn first(history: &History, session: &SessionId, after: Option<Id>) -> Page {
    let newest = match history.read_page_here(&ask(session, COUNTED, None), PAGE_BYTES_MAX) {
        Ok(newest) => newest,
        Err(fault) => {
            return Page { welcome: Some(Known { is_known: false, interactions: 0 }), ..failed(session, &fault) };
        }
    };
    let welcome = Some(Known {
        is_known: !newest.messages.is_empty(),
        interactions: newest.messages.iter().filter(|(message, _)| message.role() == "user").count(),
    });
    let last = newest.messages.last().map(|(message, _)| message.id());
    let Some(after) = after else { return Page { welcome, newest: last, ..Page::default() } };
    // The message itself must be there: else what followed it may be gone as well.
    let page = match history.read_page_here(&ask(session, PAGE, Some(after.just_before())), PAGE_BYTES_MAX) {
        Ok(answer) => page_of(answer),
        Err(fault) => failed(session, &fault),
    };
    if page.gap.is_none() && page.messages.first().is_none_or(|message| message.id() != after) {
        let gap = Some("the message to go on from is not kept here".into());
        return Page { welcome, gap, newest: last, ..Page::default() };
    }
    let messages = page.messages.into_iter().skip(1).collect();
    Page { welcome, messages, newest: last, ..page }
}

/// What follows a message, or everything.
pub(super) fn next(history: &History, session: &SessionId, after: Option<Id>) -> Page {
    let after = after.unwrap_or_else(|| Id::least_of(crate::message::Timestamp::from_micros(0)));
    match history.read_page_here(&ask(session, PAGE, Some(after)), PAGE_BYTES_MAX) {
        Ok(answer) => page_of(answer),
        Err(fault) => failed(session, &fault),
    }
}

fn ask(session: &SessionId, limit: usize, after: Option<Id>) -> Ask {
    Ask { after, ..Ask::newest(session.clone(), limit) }
}

fn page_of(answer: Answer) -> Page {
    let gap = answer.incomplete.map(Cow::from);
    let messages: Vec<Arc<Message>> = answer.messages.into_iter().map(|(message, _)| message).collect();
    Page { welcome: None, messages, more: answer.has_more, gap, newest: answer.newest }
}

fn failed(session: &SessionId, fault: &io::Error) -> Page {
    log::warn!("what a client missed of {session} cannot be read: {fault}");
    Page { gap: Some("the history cannot be read now".into()), ..Page::default() }
}
