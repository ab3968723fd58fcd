//! The JSON of the events that the clients of a WebSocket or an event stream receive.
//!
//! A message is not serialised again: its line, as it is stored, becomes the event once fields are put before it. An
//! event for many clients is made once.
//!
//! Pure: knows no socket, and not which client receives what.

use std::sync::OnceLock;

use serde::Serialize;
use serde_json::{Value, json};

use crate::api::{Problem, SharedBytes};
use crate::hub::{SessionEvent, TurnEventKind};
use crate::journal::Entry;
use crate::message::{Id, Message, Origin, SessionId, Timestamp};

use super::replay::KnownSession;

/// The text of the reply to `/help`.
const HELP: &str = "Send {\"message\": \"…\"}. A client_id comes back in the ack; with a message_id a repeated message is \
     recorded only once. Commands, as {\"command\": \"…\"} or as a message: /stop ends the running answer, \
     /clear begins a new context, /help shows this text. The command \"ping\" is answered with a heartbeat.";

/// An event of that type with these fields; `id` if it is of a recorded message.
fn shared(kind: &'static str, id: Option<Id>, fields: Value) -> SharedBytes {
    #[derive(Serialize)]
    struct Event {
        r#type: &'static str,
        #[serde(flatten)]
        fields: Value,
    }
    let bytes = serde_json::to_vec(&Event { r#type: kind, fields }).expect("our own events always serialise");
    SharedBytes::event(kind, id, bytes)
}

/// An event that answers what a client sent: with the `client_id` of that, if it had one.
fn answer(kind: &'static str, mut fields: Value, client_id: Option<&str>) -> SharedBytes {
    if let Some(client_id) = client_id {
        fields["client_id"] = client_id.into();
    }
    shared(kind, None, fields)
}

/// `last`: where a client resumes that has received no message yet. It is the event's id, so that a browser's `EventSource`
/// resumes there by itself.
pub(super) fn welcome(
    session: &SessionId,
    known: &KnownSession,
    last: Id,
    now: Timestamp,
    heartbeat_seconds: u64,
) -> SharedBytes {
    let (status, message) = match known.is_known {
        true => ("resumed", "Welcome back."),
        false => ("new", "Welcome."),
    };
    shared(
        "system",
        Some(last),
        json!({
            "message": message,
            "session_id": session,
            "session_status": status,
            "interactions": known.interactions,
            "timestamp": now,
            "version": env!("CARGO_PKG_VERSION"),
            "heartbeat_seconds": heartbeat_seconds,
            "last_id": last,
        }),
    )
}

pub(super) fn help(session: &SessionId, now: Timestamp, client_id: Option<&str>) -> SharedBytes {
    answer("system", json!({"message": HELP, "session_id": session, "timestamp": now}), client_id)
}

pub(super) fn heartbeat(now: Timestamp, client_id: Option<&str>) -> SharedBytes {
    answer("heartbeat", json!({"timestamp": now}), client_id)
}

pub(super) fn ack(client_id: Option<&str>, id: Id, durable: &str, duplicate: bool) -> SharedBytes {
    shared(
        "ack",
        None,
        json!({
            "client_id": client_id, "id": id, "created_at": id.time(), "durable": durable, "duplicate": duplicate,
        }),
    )
}

pub(super) fn gap(session: &SessionId, after: Option<Id>, reason: &str) -> SharedBytes {
    shared("gap", None, json!({"session_id": session, "after": after, "reason": reason}))
}

pub(super) fn error(problem: &Problem, client_id: Option<&str>) -> SharedBytes {
    let detail = problem.detail.as_str();
    let mut event = json!({"code": problem.code, "detail": detail, "message": detail});
    if let Some(field) = &problem.field {
        event["field"] = field.as_str().into();
    }
    answer("error", event, client_id)
}

pub(super) fn busy(session: &SessionId, client_id: Option<&str>) -> SharedBytes {
    let message = "Still working on the previous request. This message was not recorded.";
    shared(
        "status",
        None,
        json!({
            "status": "busy", "message": message, "session_id": session, "client_id": client_id,
        }),
    )
}

/// How the answer of a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    Processing,
    Cancelling,
    Cancelled,
    Idle,
}

pub(super) fn status(session: &SessionId, activity: Activity, reply_to: Option<Id>) -> SharedBytes {
    status_for(None, session, activity, reply_to)
}

/// The same, in answer to what a client sent.
pub(super) fn status_for(
    client_id: Option<&str>,
    session: &SessionId,
    activity: Activity,
    reply_to: Option<Id>,
) -> SharedBytes {
    let (status, message) = match activity {
        Activity::Processing => ("processing", "Working on an answer."),
        Activity::Cancelling => ("cancelling", "Stopping the answer."),
        Activity::Cancelled => ("cancelled", "The answer was stopped."),
        Activity::Idle => ("idle", "Ready."),
    };
    let fields = json!({"status": status, "message": message, "session_id": session, "reply_to": reply_to});
    answer("status", fields, client_id)
}

/// `offset`: where the text stands in the whole answer, in bytes; at 0 it replaces what was shown of it.
pub(super) fn delta(reply_to: Id, offset: usize, text: &str) -> SharedBytes {
    shared("delta", None, json!({"reply_to": reply_to, "offset": offset, "text": text}))
}

/// A reply that was recorded earlier, for a client that repeats its message.
pub(super) fn response(session: &SessionId, text: &str, status: &str, id: Id, reply_to: Id) -> SharedBytes {
    shared(
        "response",
        None,
        json!({
            "message": text, "status": status, "session_id": session, "id": id, "timestamp": id.time(),
            "reply_to": reply_to, "duplicate": true,
        }),
    )
}

/// The id is named `erasure_id` because no client may resume from it; the feed and `DELETE` tell the same id.
pub(super) fn erased(session: &SessionId, id: Id) -> SharedBytes {
    shared("erased", None, json!({"session_id": session, "erasure_id": id}))
}

/// A recorded message.
pub(super) fn message(message: &Message, is_replayed: bool) -> SharedBytes {
    let start: &[u8] = match is_replayed {
        true => b"{\"type\":\"message\",\"replayed\":true,",
        false => b"{\"type\":\"message\",\"replayed\":false,",
    };
    SharedBytes::event("message", Some(message.id()), [start, &message.line()[1..]].concat())
}

/// A reply that was just recorded.
fn live_response(message: &Message, reply_to: Id) -> SharedBytes {
    let (text, metadata) = message.parts().map(|parts| (parts.text, parts.metadata)).unwrap_or_default();
    let (session, id) = (message.session(), message.id());
    shared(
        "response",
        Some(id),
        json!({
            "message": text, "status": metadata.get("status").and_then(Value::as_str).unwrap_or("completed"),
            "session_id": session, "id": id, "timestamp": id.time(), "reply_to": reply_to, "metadata": metadata,
        }),
    )
}

/// An event for many clients, in the form that most of them get.
pub(super) struct Notice {
    pub(super) event: SessionEvent,
    made: OnceLock<SharedBytes>,
}

impl Notice {
    pub(super) fn new(event: SessionEvent) -> Self {
        Self { event, made: OnceLock::new() }
    }

    /// The id of the record, if this event is one.
    pub(super) fn recorded(&self) -> Option<Id> {
        let SessionEvent::Recorded(record) = &self.event else { return None };
        record.entry.id()
    }

    /// The id of the record, if `origin` sent it.
    pub(super) fn recorded_from(&self, origin: Origin) -> Option<Id> {
        let SessionEvent::Recorded(record) = &self.event else { return None };
        record.entry.id().filter(|_| record.origin == Some(origin))
    }

    /// The whole event, serialised once.
    pub(super) fn shared(&self) -> &SharedBytes {
        self.made.get_or_init(|| self.make())
    }

    fn make(&self) -> SharedBytes {
        match &self.event {
            SessionEvent::Recorded(record) => recorded(&record.entry),
            SessionEvent::Imported(session) => gap(session, None, "older messages were imported"),
            SessionEvent::Live(live) => match &live.what {
                TurnEventKind::Started => status(&live.session, Activity::Processing, Some(live.user)),
                TurnEventKind::Delta { offset, text } => delta(live.user, *offset, text),
                TurnEventKind::Stopping => status(&live.session, Activity::Cancelling, Some(live.user)),
                TurnEventKind::Ended { .. } => status(&live.session, Activity::Idle, Some(live.user)),
            },
        }
    }
}

/// A record that was just committed.
fn recorded(entry: &Entry) -> SharedBytes {
    match entry {
        Entry::Message(recorded, links) => match links.reply_to {
            Some(reply_to) => live_response(recorded, reply_to),
            None => message(recorded, false),
        },
        Entry::ContextClear(recorded, _) => {
            let (session, id) = (recorded.session(), recorded.id());
            shared("clear", Some(id), json!({"session_id": session, "id": id, "timestamp": id.time()}))
        }
        Entry::Erasure { id, session } => erased(session, *id),
        Entry::Import(..) | Entry::Abort { .. } => Vec::new().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_for_people_carries_a_message() {
        let session = SessionId::new("s").unwrap();
        let id = Id::least_of(Timestamp::from_micros(1));
        let draft = crate::message::Draft {
            session: &session,
            role: "user",
            text: "hi",
            metadata: crate::message::Metadata::default(),
            vector_ids: &[],
        };
        let without = [
            ack(Some("c"), id, "disk", false),
            delta(id, 0, "hi"),
            heartbeat(id.time(), Some("c")),
            message(&draft.prepare().seal(id), false),
            gap(&session, Some(id), "why"),
            erased(&session, id),
        ];
        let problem = Problem::new(503, "reply_not_recorded", "why");
        let known = KnownSession { is_known: true, interactions: 1 };
        let activities = [Activity::Processing, Activity::Cancelling, Activity::Cancelled, Activity::Idle];
        let with = [
            error(&problem, None),
            busy(&session, None),
            welcome(&session, &known, id, id.time(), 20),
            help(&session, id.time(), Some("c")),
            response(&session, "hi", "completed", id, id),
        ];
        let with = with.into_iter().chain(activities.map(|activity| status(&session, activity, None)));
        let read = |event: &SharedBytes| serde_json::from_slice::<Value>(event).unwrap();
        for event in without.iter().map(read) {
            assert!(event.get("message").is_none(), "{event}");
        }
        for event in with.map(|event| read(&event)) {
            assert!(event["message"].as_str().is_some_and(|message| !message.is_empty()), "{event}");
        }
    }
}
