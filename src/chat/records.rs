//! What a turn records: its lines, their idempotency keys, and the texts that are ours.
//!
//! Knows nothing of the order in which they are recorded.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::journal::{IdempotencyKey, NewRecord, ReplyTo};
use crate::message::{self, Metadata, SessionId};

use super::turn::{Rewind, Turn};

/// What a user sends to begin a new context, and to be told what may be sent.
const CLEAR: [&str; 2] = ["/clear", "clear"];
const HELP: [&str; 2] = ["/help", "help"];
/// The answer to a request for help.
pub(super) const HELPED: &str = "Every message is recorded and answered. /clear (or clear) begins a new context; the \
     history stays. /help (or help) shows this. Over a WebSocket /stop ends the answer in progress.";
/// The text of a new context's record in the history.
pub(super) const CLEARED: &str = "A new context begins here.";

/// The field of a reply's metadata that tells how long the responder took, in milliseconds.
pub(super) const DURATION: &str = "duration_ms";

/// The text of a rewind's record in the history.
pub(super) const REWOUND: &str = "The conversation goes on from an earlier message.";

/// Whether a text begins a new context, white space around it aside.
#[must_use]
pub fn is_clear(text: &str) -> bool {
    CLEAR.contains(&text.trim())
}

/// Whether a text asks what may be sent.
#[must_use]
pub fn is_help(text: &str) -> bool {
    HELP.contains(&text.trim())
}

/// The line of what a user sent.
fn user_line(turn: &Turn<'_>) -> message::Prepared {
    let sent = [("transport", turn.transport.as_str().into())];
    line(turn.session, "user", turn.text, Metadata { given: turn.metadata, defaults: &sent }).sent_by(turn.origin)
}

/// The key of what a user sent, if it has one.
pub(super) fn user_key(turn: &Turn<'_>) -> Option<IdempotencyKey> {
    turn.key.map(|key| key_of(turn.session, key, "user", turn.text, turn.metadata, &[]))
}

/// The record of a rewind.
pub(super) fn rewind(rewind: &Rewind<'_>) -> NewRecord {
    let to = rewind.to.map_or(Value::Null, |to| Value::String(to.to_string()));
    let says = Map::from_iter([("type".to_owned(), "rewind".into()), ("to".to_owned(), to)]);
    let sent = [("transport", rewind.transport.as_str().into())];
    let line = line(rewind.session, "system", REWOUND, Metadata { given: Some(&says), defaults: &sent });
    let key = rewind.key.map(|key| key_of(rewind.session, key, "system", REWOUND, Some(&says), &[]));
    NewRecord::Message { line, key, reply_to: ReplyTo::Nothing }
}

/// The records of what a user sent: the rewind before it, if it has one, and the message.
pub(super) fn user_records(turn: &Turn<'_>) -> Vec<NewRecord> {
    // A key of its own: the turn's is the message's.
    let own_key = turn.key.map(|key| format!("{key}#rewind"));
    let before = turn.rewind_to.map(|to| {
        let Turn { session, transport, .. } = *turn;
        rewind(&Rewind { session, to, stop: false, transport, key: own_key.as_deref() })
    });
    // With room for a reply that is recorded beside it.
    let mut records = Vec::with_capacity(3);
    records.extend(before);
    records.push(user_record(turn));
    records
}

/// The record of what a user sent.
pub(super) fn user_record(turn: &Turn<'_>) -> NewRecord {
    NewRecord::Message { line: user_line(turn), key: user_key(turn), reply_to: ReplyTo::Nothing }
}

/// Whole milliseconds, as metadata has them.
pub(super) fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

/// The line of a message of that author.
pub(super) fn line(session: &SessionId, role: &str, text: &str, metadata: Metadata<'_>) -> message::Prepared {
    message::Draft { session, role, text, metadata, vector_ids: &[] }.prepare()
}

/// Hashes a key and its content, without the transport: a retry may come by another.
pub(super) fn key_of(
    session: &SessionId,
    key: &str,
    role: &str,
    text: &str,
    metadata: Option<&Map<String, Value>>,
    vector_ids: &[Value],
) -> IdempotencyKey {
    let by_value = message::by_value(metadata, vector_ids);
    let as_sent = serde_json::to_vec(&(metadata, vector_ids)).expect("JSON values always serialise");
    // Lengths first, so that no two contents run into the same bytes.
    let lengths = format!("{} {} ", role.len(), text.len());
    let content = |rest| [lengths.as_bytes(), role.as_bytes(), text.as_bytes(), rest];
    let made = IdempotencyKey::new(session, key, &content(by_value.as_slice()));
    if as_sent == by_value { made } else { made.sent_as(&content(as_sent.as_slice())) }
}
