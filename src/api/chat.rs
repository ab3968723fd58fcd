//! `POST /api/chat` and `POST /api/chat/messages`: bodies in, turns and records out.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::chat::{Chat, Given, Outcome, Turn};
use crate::message::{Id, Message, ROLE_BYTES_MAX, SessionId, Timestamp, is_role};

use super::body::{self, Kind, Shape};
use super::{Problem, Reply, json};

/// Messages one request may bring.
const MESSAGES_MAX: usize = 1000;
/// What the metadata says of messages that came by HTTP.
const TRANSPORT: &str = "rest";
/// The reply to `/clear`.
const CLEARED: &str = "A new context begins here.";

const TURN: &Shape = &[
    ("message", Kind::Text),
    ("session_id", Kind::MaybeText),
    ("metadata", Kind::MaybeObject),
    ("message_id", Kind::MaybeText),
    ("stream", Kind::MaybeBool),
];

const MESSAGE: &Shape = &[
    ("role", Kind::Text),
    ("text", Kind::Text),
    ("session_id", Kind::MaybeText),
    ("metadata", Kind::MaybeObject),
    ("vector_ids", Kind::MaybeArray),
    ("message_id", Kind::MaybeText),
];

#[derive(Deserialize)]
struct TurnBody<'a> {
    #[serde(borrow)]
    message: Cow<'a, str>,
    session_id: Option<Cow<'a, str>>,
    metadata: Option<Map<String, Value>>,
    message_id: Option<Cow<'a, str>>,
    stream: Option<bool>,
}

#[derive(Deserialize)]
struct MessageBody<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    text: Cow<'a, str>,
    session_id: Option<Cow<'a, str>>,
    metadata: Option<Map<String, Value>>,
    vector_ids: Option<Vec<Value>>,
    message_id: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct TurnReply<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'a str>,
    status: &'a str,
    timestamp: Timestamp,
    session_id: &'a SessionId,
    user_message_id: Id,
    assistant_message_id: Option<Id>,
    durable: &'a str,
}

#[derive(Serialize)]
struct Kept {
    id: Id,
    created_at: Timestamp,
    duplicate: bool,
}

#[derive(Serialize)]
struct KeptReply<'a> {
    messages: Vec<Kept>,
    durable: &'a str,
}

/// `POST /api/chat`
pub fn say(chat: &Chat, body: &[u8]) -> Result<Reply, Problem> {
    let turn: TurnBody<'_> = body::object(body, TURN)?;
    let session = body::session(turn.session_id.as_deref(), "session_id")?;
    body::check_metadata(turn.metadata.as_ref(), "metadata")?;
    no_key_yet(turn.message_id.as_deref(), "message_id")?;
    if turn.stream == Some(true) {
        return Err(Problem::field("stream", "must be false: replies are not streamed in this version yet"));
    }
    if turn.message.is_empty() {
        return Err(Problem::field("message", "must not be empty"));
    }
    let metadata = turn.metadata.as_ref();
    let outcome = chat.say(&Turn { session: &session, text: &turn.message, metadata, transport: TRANSPORT })?;
    let durable = chat.durability().as_str();
    let reply = |user: &Message, last: &Message, response, assistant_message_id, status| TurnReply {
        response,
        status,
        timestamp: last.id().time(),
        session_id: &session,
        user_message_id: user.id(),
        assistant_message_id,
        durable,
    };
    Ok(match &outcome {
        Outcome::Answered { user, reply: last, text } => {
            json(200, &reply(user, last, Some(text), Some(last.id()), "completed"))
        }
        Outcome::Cleared(record) => json(200, &reply(record, record, Some(CLEARED), None, "completed")),
        Outcome::Recorded(user) => json(202, &reply(user, user, None, None, "recorded")),
    })
}

/// `POST /api/chat/messages`
pub fn record(chat: &Chat, body: &[u8]) -> Result<Reply, Problem> {
    let is_array = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let bodies: Vec<MessageBody<'_>> =
        if is_array { body::array(body, MESSAGE)? } else { vec![body::object(body, MESSAGE)?] };
    if bodies.is_empty() || bodies.len() > MESSAGES_MAX {
        let rule = format!("the array must hold 1 to {MESSAGES_MAX} messages, and this one holds {}", bodies.len());
        return Err(Problem::new(422, "invalid_body", rule));
    }
    let sessions = bodies.iter().enumerate().map(|(index, body)| check(body, index, is_array));
    let sessions = sessions.collect::<Result<Vec<SessionId>, Problem>>()?;
    let given: Vec<Given<'_>> = bodies
        .iter()
        .zip(&sessions)
        .map(|(body, session)| Given {
            session,
            role: &body.role,
            text: &body.text,
            metadata: body.metadata.as_ref(),
            vector_ids: body.vector_ids.as_deref().unwrap_or_default(),
        })
        .collect();
    let kept = chat.record(&given, TRANSPORT)?;
    let kept = kept.iter().map(|m| Kept { id: m.id(), created_at: m.id().time(), duplicate: false });
    Ok(json(201, &KeptReply { messages: kept.collect(), durable: chat.durability().as_str() }))
}

/// Checks one message; its fields are named by their place in an array.
fn check(body: &MessageBody<'_>, index: usize, is_array: bool) -> Result<SessionId, Problem> {
    let field = |name: &str| if is_array { format!("[{index}].{name}") } else { name.to_owned() };
    if !is_role(&body.role) {
        let rule = format!("must be 1 to {ROLE_BYTES_MAX} characters of a-z 0-9 _ -, starting with a letter");
        return Err(Problem::field(&field("role"), &rule));
    }
    body::check_metadata(body.metadata.as_ref(), &field("metadata"))?;
    no_key_yet(body.message_id.as_deref(), &field("message_id"))?;
    if body.vector_ids.iter().flatten().any(|id| !id.is_string()) {
        return Err(Problem::field(&field("vector_ids"), "must be an array of strings"));
    }
    body::session(body.session_id.as_deref(), &field("session_id"))
}

fn no_key_yet(key: Option<&str>, field: &str) -> Result<(), Problem> {
    match key {
        Some(_) => Err(Problem::field(field, "must be left out: keys are not kept in this version yet")),
        None => Ok(()),
    }
}
