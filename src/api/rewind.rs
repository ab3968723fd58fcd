//! `POST /api/chat/sessions/{id}/rewind`: has a conversation go on from an earlier message. Nothing is removed.

use serde::Deserialize;

use crate::chat::{Chat, Rewind, TurnError};

use super::body::{self, Text};
use super::chat::{KEY_HEADER, check_key, recorded};
use super::shape::{FieldKind, Shape};
use super::{Problem, Reply, RequestHead, content, query, sessions};

const REWIND: &Shape =
    &[("to", FieldKind::NullableText), ("stop", FieldKind::MaybeBool), ("message_id", FieldKind::MaybeText)];

#[derive(Deserialize)]
struct RewindBody<'a> {
    #[serde(borrow, default, deserialize_with = "body::given")]
    to: Option<Option<Text<'a>>>,
    stop: Option<bool>,
    #[serde(borrow)]
    message_id: Option<Text<'a>>,
}

/// `POST /api/chat/sessions/{id}/rewind`: records a rewind. Replies 201 as for messages:
///
/// ```json
/// {"messages":[{"id":"…","created_at":"2025-11-28T01:23:45.123456+00:00","duplicate":false}],"durable":"disk"}
/// ```
///
/// # Errors
/// 409 while a turn of the session runs, unless `stop` is true; 422 for a target that the session has nothing of.
pub fn rewind(chat: &Chat, head: &RequestHead<'_>, body: &[u8]) -> Result<Reply, Problem> {
    query::none_of(head.query, REWIND)?;
    let session = sessions::session(head, "/rewind")?;
    let body = content::json(head, body, REWIND)?;
    let asked: RewindBody<'_> = body::object(&body, REWIND)?;
    let Some(to) = asked.to else {
        return Err(Problem::field("to", "is missing: it must be the id of a message, or null for the beginning"));
    };
    let sent = head.single(KEY_HEADER)?;
    check_key(sent, KEY_HEADER)?;
    check_key(asked.message_id.as_deref(), "message_id")?;
    let kept = chat.rewind(&Rewind {
        session: &session,
        to: body::rewind_target(to.as_deref(), "to")?,
        stop: asked.stop.unwrap_or(false),
        transport: head.transport,
        key: asked.message_id.as_deref().or(sent),
    });
    match kept {
        Ok(kept) => Ok(recorded(chat, &[kept])),
        Err(TurnError::NothingThere(_)) => Err(Problem::nothing_there("to")),
        Err(TurnError::Busy) => {
            let what = "an answer is being given in this session: wait for its end, or send \"stop\": true";
            Err(Problem::new(409, "session_busy", what))
        }
        Err(refusal) => Err(refusal.into()),
    }
}
