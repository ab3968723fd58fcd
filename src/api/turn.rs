//! `POST /api/chat`: takes a turn and answers with one object, or streams the answer.
//!
//! A turn may wait: at its beginning for earlier turns of its session, at its end for the responder. Each cause that
//! keeps a turn from beginning has its own status. Once it has begun the user's message is durable, and only then the
//! first byte of a stream is sent.
//!
//! Knows nothing of how turns are run.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tiny_http::StatusCode;

use crate::access::Principal;
use crate::chat::{Chat, Follow, StartedTurn, Turn, TurnClient, TurnOutcome, TurnProgress, TurnStatus, WhenBusy};
use crate::config::OnDisconnect;
use crate::logging;
use crate::message::{Id, SessionId, Timestamp};

use super::body::{self, Text};
use super::chat::{KEY_HEADER, check_key};
use super::event_stream::{self, CLIENT_POLL_INTERVAL, EVENT_STREAM, Signs, push_json};
use super::http::full;
use super::shape::{FieldKind, Shape};
use super::{Problem, Reply, RequestHead, Stream, StreamClient, StreamKind, content, json, query};

/// The header that says what becomes of a turn when its client goes away.
const ON_DISCONNECT_HEADER: &str = "X-Chatkeep-On-Disconnect";

const TURN: &Shape = &[
    ("message", FieldKind::Text),
    ("session_id", FieldKind::MaybeText),
    ("metadata", FieldKind::MaybeObject),
    ("message_id", FieldKind::MaybeText),
    ("stream", FieldKind::MaybeBool),
    ("rewind_to", FieldKind::NullableText),
];

#[derive(Deserialize)]
struct TurnBody<'a> {
    #[serde(borrow)]
    message: Text<'a>,
    #[serde(borrow)]
    session_id: Option<Text<'a>>,
    metadata: Option<Map<String, Value>>,
    #[serde(borrow)]
    message_id: Option<Text<'a>>,
    stream: Option<bool>,
    #[serde(borrow, default, deserialize_with = "body::given")]
    rewind_to: Option<Option<Text<'a>>>,
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
    duplicate: bool,
    durable: &'a str,
}

/// The data of a `delta` event.
#[derive(Serialize)]
struct Delta<'a> {
    text: &'a str,
    reply_to: Id,
}

/// The form of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplyFormat {
    /// One object.
    Json,
    /// Server-sent events: `delta` for each piece, then `response` with that object.
    Events,
}

/// `POST /api/chat`. The reply, and the data of the last event of a stream:
///
/// ```json
/// {"response":"pong!","status":"completed","timestamp":"2025-11-28T01:23:45.123456+00:00","session_id":"default",
///  "user_message_id":"…","assistant_message_id":"…","duplicate":false,"durable":"disk"}
/// ```
pub fn say(chat: &Arc<Chat>, head: &RequestHead<'_>, body: &[u8]) -> Result<Reply, Problem> {
    query::none_of(head.query, TURN)?;
    let body = content::json(head, body, TURN)?;
    let turn: TurnBody<'_> = body::object(&body, TURN)?;
    let session = body::session(head.caller, turn.session_id.as_deref(), "session_id")?;
    logging::about_session(session.as_str());
    body::check_metadata(turn.metadata.as_ref(), "metadata")?;
    body::check_whole_numbers(turn.metadata.iter(), &body)?;
    let sent = head.single(KEY_HEADER)?;
    check_key(sent, KEY_HEADER)?;
    check_key(turn.message_id.as_deref(), "message_id")?;
    let key = turn.message_id.as_deref().or(sent);
    if turn.message.is_empty() {
        return Err(Problem::field("message", "must not be empty"));
    }
    let rewind_to = turn.rewind_to.as_ref().map(|to| body::rewind_target(to.as_deref(), "rewind_to")).transpose()?;
    if rewind_to.is_some() {
        body::check_rewinding(&turn.message)?;
    }
    let form = form(head, turn.stream);
    let metadata = turn.metadata.as_ref();
    let (text, transport) = (&*turn.message, head.transport);
    let said = Turn { session: &session, text, metadata, transport, key, origin: None, rewind_to };
    let client =
        TurnClient { when_busy: WhenBusy::Queue, on_disconnect: on_disconnect(head)?, presence: head.presence };
    let follow = match chat.begin(&said, &client)? {
        StartedTurn::Done(outcome) => return Ok(whole(form, chat, &session, &outcome)),
        StartedTurn::Follow(follow) => follow,
    };
    if form == ReplyFormat::Json {
        let Some(outcome) = follow.wait(head.presence) else {
            let detail = "the client closed its connection, or its sending side; a retry with the message's key follows \
                          its answer, and the history has it";
            return Err(Problem::client_gone(detail));
        };
        return Ok(whole(form, chat, &session, &outcome?));
    }
    let chat = Arc::clone(chat);
    let (request_id, caller) = (head.request_id.to_owned(), head.caller.clone());
    // If it is dropped before it was called, the client is gone.
    let write = move |to: &mut dyn StreamClient| stream(&chat, &follow, (&request_id, &caller), to);
    let headers = event_stream::headers(EVENT_STREAM);
    Ok(Reply::Stream(Stream {
        status: StatusCode(200),
        headers,
        length: None,
        span: StreamKind::Lasting,
        write: Box::new(write),
    }))
}

/// What becomes of the turn when its client goes away, if the request says it.
pub(super) fn on_disconnect(head: &RequestHead<'_>) -> Result<Option<OnDisconnect>, Problem> {
    let Some(word) = head.single(ON_DISCONNECT_HEADER)? else { return Ok(None) };
    let named = OnDisconnect::named(word);
    named.map(Some).ok_or_else(|| Problem::field(ON_DISCONNECT_HEADER, "must be finish or stop"))
}

/// The form of the reply; the body's `stream` wins over `Accept`.
fn form(head: &RequestHead<'_>, stream: Option<bool>) -> ReplyFormat {
    let accepted = || head.preferred(&[("application/json", ReplyFormat::Json), (EVENT_STREAM, ReplyFormat::Events)]);
    stream.map_or_else(accepted, |stream| if stream { ReplyFormat::Events } else { ReplyFormat::Json })
}

fn object<'a>(chat: &Chat, session: &'a SessionId, outcome: &'a TurnOutcome) -> TurnReply<'a> {
    TurnReply {
        response: outcome.text.as_deref(),
        status: outcome.status.as_str(),
        timestamp: outcome.reply.unwrap_or(outcome.user).time(),
        session_id: session,
        user_message_id: outcome.user,
        assistant_message_id: outcome.reply,
        duplicate: outcome.duplicate,
        durable: chat.durability().as_str(),
    }
}

/// The reply to a turn that is over.
fn whole(form: ReplyFormat, chat: &Chat, session: &SessionId, outcome: &TurnOutcome) -> Reply {
    let status = if outcome.status == TurnStatus::Recorded { 202 } else { 200 };
    let object = object(chat, session, outcome);
    if form == ReplyFormat::Json {
        return json(status, &object);
    }
    let mut events = Vec::new();
    if let (Some(text), Some(_), TurnStatus::Completed | TurnStatus::Cancelled) =
        (object.response, outcome.reply, outcome.status)
        && !text.is_empty()
    {
        push_delta(&mut events, text, outcome.user);
    }
    push_json(&mut events, "response", &object);
    full(status, event_stream::headers(EVENT_STREAM), events)
}

/// Sends the events of a turn until its end, or until the token is revoked. An error: the client is gone.
fn stream(
    chat: &Chat,
    follow: &Follow,
    (request_id, caller): (&str, &Principal),
    to: &mut dyn StreamClient,
) -> io::Result<()> {
    let running = follow.running();
    // Sends the head alone: the client sees that its message is recorded.
    to.flush()?;
    let (mut seen, mut signs, mut event) = (0, Signs::watching(to), Vec::new());
    loop {
        event.clear();
        if caller.is_revoked() {
            event_stream::push_fault(&mut event, &Problem::revoked(), request_id);
            to.write_all(&event)?;
            return to.flush();
        }
        match running.wait_for_text(seen, Instant::now() + CLIENT_POLL_INTERVAL) {
            TurnProgress::Text(text) => {
                seen += text.len();
                push_delta(&mut event, &text, running.user());
            }
            TurnProgress::End(end) => {
                match follow.outcome(&end) {
                    Ok(outcome) => push_json(&mut event, "response", &object(chat, running.session(), &outcome)),
                    Err(refusal) => event_stream::push_fault(&mut event, &refusal.into(), request_id),
                }
                to.write_all(&event)?;
                return to.flush();
            }
            TurnProgress::Nothing if !signs.are_due(to)? => continue,
            TurnProgress::Nothing => event.extend_from_slice(event_stream::SIGN),
        }
        to.write_all(&event)?;
        to.flush()?;
        signs.sent();
    }
}

fn push_delta(to: &mut Vec<u8>, text: &str, reply_to: Id) {
    push_json(to, "delta", &Delta { text, reply_to });
}
