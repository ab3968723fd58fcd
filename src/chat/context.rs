//! The context that a responder gets: the newest messages that fit, of those that led to the user's message since the
//! last `/clear`; what was rewound is no part of it.
//!
//! Knows nothing of turns.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::history::{History, HistoryQuery};
use crate::message::{Id, Marker, Message, SessionId};
use crate::responder::ContextLimit;

/// The longest wait for what only MongoDB has.
pub(super) const MONGO_WAIT: Duration = Duration::from_millis(200);

/// A part of a conversation.
pub(super) struct Conversation {
    /// Oldest first; the last one is the message to answer.
    pub(super) messages: Vec<Arc<Message>>,
    /// Whether older messages may belong to it that could not be read.
    pub(super) is_partial: bool,
}

/// The messages up to `user`, oldest first; that one is the last. `None`: it is not there any more, because its session
/// was erased or it has expired.
///
/// # Errors
/// The history could not be read, and the context is unknown. Nothing was changed; a retry is safe.
pub(super) fn up_to(
    history: &History,
    session: &SessionId,
    user: Id,
    context: ContextLimit,
) -> io::Result<Option<Conversation>> {
    let ask = HistoryQuery {
        before: Some(user.just_after()),
        current: true,
        ..HistoryQuery::newest(session.clone(), context.messages.max(1))
    };
    let answer = history.read_within(&ask, MONGO_WAIT)?;
    let mut older = answer.messages.into_iter().map(|(message, _)| message).rev();
    let Some(asked) = older.next().filter(|message| message.id() == user) else { return Ok(None) };
    let mut bytes = if context.messages > 1 { asked.text().len() } else { 0 };
    let mut messages = vec![asked];
    let mut is_partial = answer.incomplete.is_some();
    for message in older {
        // Checked first, so that the message after the last that fits is not parsed.
        if bytes >= context.bytes || message.marker() == Some(Marker::Clear) {
            is_partial = false;
            break;
        }
        bytes += message.text().len();
        if bytes > context.bytes {
            is_partial = false;
            break;
        }
        messages.push(message);
    }
    messages.reverse();
    is_partial &= messages.len() < context.messages;
    Ok(Some(Conversation { messages, is_partial }))
}
