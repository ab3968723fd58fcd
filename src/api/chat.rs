//! `POST /api/chat/messages`: records messages. Also holds what it shares with `POST /api/chat`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::access::Principal;
use crate::chat::{Chat, NewMessage};
use crate::message::{Id, ROLE_BYTES_MAX, SessionId, Timestamp, is_role};

use super::body::{self, Text};
use super::shape::{FieldKind, Shape};
use super::{Problem, Reply, RequestHead, content, json, query};

/// The most messages of one request.
const MESSAGES_MAX: usize = 1000;
/// The header with an idempotency key; a `message_id` in the body wins.
pub(super) const KEY_HEADER: &str = "Idempotency-Key";
/// The longest key, in characters.
const KEY_CHARS_MAX: usize = 128;

const MESSAGE: &Shape = &[
    ("role", FieldKind::Text),
    ("text", FieldKind::Text),
    ("session_id", FieldKind::MaybeText),
    ("metadata", FieldKind::MaybeObject),
    ("vector_ids", FieldKind::MaybeArray),
    ("message_id", FieldKind::MaybeText),
];

#[derive(Deserialize)]
struct MessageBody<'a> {
    #[serde(borrow)]
    role: Text<'a>,
    #[serde(borrow)]
    text: Text<'a>,
    #[serde(borrow)]
    session_id: Option<Text<'a>>,
    metadata: Option<Map<String, Value>>,
    vector_ids: Option<Vec<Value>>,
    #[serde(borrow)]
    message_id: Option<Text<'a>>,
}

#[derive(Serialize)]
struct RecordedMessage {
    id: Id,
    created_at: Timestamp,
    duplicate: bool,
}

#[derive(Serialize)]
struct RecordedReply<'a> {
    messages: Vec<RecordedMessage>,
    durable: &'a str,
}

/// `POST /api/chat/messages`: records one message or an array, all or none. Replies 201:
///
/// ```json
/// {"messages":[{"id":"019ac8b7-5f3e-7c41-b52a-9d1f0a7c2e11","created_at":"2025-11-28T01:23:45.123456+00:00",
///  "duplicate":false}],"durable":"disk"}
/// ```
pub fn record(chat: &Chat, head: &RequestHead<'_>, body: &[u8]) -> Result<Reply, Problem> {
    query::none_of(head.query, MESSAGE)?;
    let body = content::json(head, body, MESSAGE)?;
    let is_array = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let bodies: Vec<MessageBody<'_>> =
        if is_array { body::array(&body, MESSAGE)? } else { vec![body::object(&body, MESSAGE)?] };
    if bodies.is_empty() || bodies.len() > MESSAGES_MAX {
        let rule = format!("the array must hold 1 to {MESSAGES_MAX} messages, and this one holds {}", bodies.len());
        return Err(Problem::new(422, "invalid_body", rule));
    }
    let sent = head.single(KEY_HEADER)?;
    check_key(sent, KEY_HEADER)?;
    let sessions = bodies.iter().enumerate().map(|(index, body)| check(head.caller, body, index, is_array));
    let sessions = sessions.collect::<Result<Vec<SessionId>, Problem>>()?;
    body::check_whole_numbers(bodies.iter().filter_map(|body| body.metadata.as_ref()), &body)?;
    let keys = bodies.iter().enumerate().map(|(index, body)| key_of(body, sent, index, is_array));
    let keys: Vec<Option<Cow<'_, str>>> = keys.collect();
    let given: Vec<NewMessage<'_>> = bodies
        .iter()
        .zip(&sessions)
        .zip(&keys)
        .map(|((body, session), key)| NewMessage {
            session,
            role: &body.role,
            text: &body.text,
            metadata: body.metadata.as_ref(),
            vector_ids: body.vector_ids.as_deref().unwrap_or_default(),
            key: key.as_deref(),
        })
        .collect();
    let kept = chat.record(&given, head.transport)?;
    Ok(recorded(chat, &kept))
}

/// The reply that names what was recorded: each id, and whether its key was used before.
pub(super) fn recorded(chat: &Chat, kept: &[(Id, bool)]) -> Reply {
    let kept = kept.iter().map(|&(id, duplicate)| RecordedMessage { id, created_at: id.time(), duplicate });
    json(201, &RecordedReply { messages: kept.collect(), durable: chat.durability().as_str() })
}

/// Checks one message; in an array a problem names the field with its index.
fn check(caller: &Principal, body: &MessageBody<'_>, index: usize, is_array: bool) -> Result<SessionId, Problem> {
    let field = |name: &str| if is_array { format!("[{index}].{name}") } else { name.to_owned() };
    let vector_ids = body.vector_ids.as_deref().unwrap_or_default();
    check_parts(&body.role, body.metadata.as_ref(), vector_ids, &field)?;
    check_key(body.message_id.as_deref(), &field("message_id"))?;
    body::session(caller, body.session_id.as_deref(), &field("session_id"))
}

/// Checks what is recorded of a message beside its text; `field` names a field in a problem.
pub(super) fn check_parts(
    role: &str,
    metadata: Option<&Map<String, Value>>,
    vector_ids: &[Value],
    field: &dyn Fn(&str) -> String,
) -> Result<(), Problem> {
    if !is_role(role) {
        let rule = format!("must be 1 to {ROLE_BYTES_MAX} characters of a-z 0-9 _ -, starting with a letter");
        return Err(Problem::field(&field("role"), &rule));
    }
    body::check_metadata(metadata, &field("metadata"))?;
    if vector_ids.iter().any(|id| !id.is_string()) {
        return Err(Problem::field(&field("vector_ids"), "must be an array of strings"));
    }
    Ok(())
}

/// The key of a message: its own, or the request's; in an array the request's key with the message's index.
fn key_of<'a>(
    body: &'a MessageBody<'_>,
    header: Option<&'a str>,
    index: usize,
    is_array: bool,
) -> Option<Cow<'a, str>> {
    match (body.message_id.as_deref(), header) {
        (Some(own), _) => Some(own.into()),
        (None, Some(header)) if is_array => Some(format!("{header}#{index}").into()),
        (None, header) => header.map(Cow::from),
    }
}

pub(super) fn check_key(key: Option<&str>, field: &str) -> Result<(), Problem> {
    match key {
        Some(key) if !(1..=KEY_CHARS_MAX).contains(&key.chars().count()) => {
            Err(Problem::field(field, &format!("must be 1 to {KEY_CHARS_MAX} characters")))
        }
        _ => Ok(()),
    }
}
