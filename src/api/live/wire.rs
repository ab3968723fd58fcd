//! The JSON of a WebSocket: what clients may send, and each event that they receive.
//!
//! A message is not serialised again: its line, as it is stored, becomes the event once fields are put before it. An
//! event for many clients is made once.
//!
//! Pure: knows no socket, and not which client receives what.

use std::borrow::Cow;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::api::body::{self, Text, check_metadata, check_whole_numbers};
use crate::api::chat::check_key;
use crate::api::shape::{FieldKind, Shape};
use crate::api::{Problem, SharedBytes, content};
use crate::chat::{RewindTarget, is_clear, is_help};
use crate::hub::{SessionEvent, TurnEventKind};
use crate::journal::Entry;
use crate::message::{Id, Message, Origin, SessionId, Timestamp};

use super::replay::KnownSession;

/// The longest `client_id`, in characters.
const CLIENT_ID_CHARS_MAX: usize = 128;
/// The text of the reply to `/help`.
const HELP: &str = "Send {\"message\": \"…\"}. A client_id comes back in the ack; with a message_id a repeated message is \
     recorded only once. Commands, as {\"command\": \"…\"} or as a message: /stop ends the running answer, \
     /clear begins a new context, /help shows this text. The command \"ping\" is answered with a heartbeat.";

/// A client's message, read. Those that are not recorded have their `client_id` only.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ClientRequest {
    Say(Say),
    Stop(Option<String>),
    Help(Option<String>),
    Ping(Option<String>),
}

/// A message to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Say {
    pub(super) text: String,
    pub(super) client_id: Option<String>,
    pub(super) key: Option<String>,
    pub(super) metadata: Option<Map<String, Value>>,
    pub(super) rewind_to: Option<RewindTarget>,
}

impl Say {
    /// Whether it asks for a new context.
    pub(super) fn is_clear(&self) -> bool {
        is_clear(&self.text)
    }
}

const FRAME: &Shape = &[
    ("message", FieldKind::MaybeText),
    ("command", FieldKind::MaybeText),
    ("client_id", FieldKind::MaybeText),
    ("message_id", FieldKind::MaybeText),
    ("metadata", FieldKind::MaybeObject),
    ("rewind_to", FieldKind::NullableText),
];

#[derive(Deserialize)]
struct ClientFrame<'a> {
    #[serde(borrow, default)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    command: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    client_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    message_id: Option<Cow<'a, str>>,
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
    #[serde(borrow, default, deserialize_with = "body::given")]
    rewind_to: Option<Option<Text<'a>>>,
}

/// Reads a client's message.
///
/// # Errors
/// The `error` event to send, with the client's `client_id` if it can be found. Nothing was recorded; the same message
/// fails again.
pub(super) fn read(bytes: &[u8]) -> Result<ClientRequest, SharedBytes> {
    let json = content::text(bytes);
    let frame: Result<ClientFrame<'_>, Problem> = body::object(&json, FRAME);
    let client_id = match &frame {
        Ok(frame) => frame.client_id.as_deref().map(str::to_owned),
        Err(_) => client_id_of(&json),
    };
    let asked = frame.and_then(|frame| {
        check_whole_numbers(frame.metadata.iter(), &json)?;
        asked(frame)
    });
    asked.map_err(|problem| error(&problem, client_id.as_deref()))
}

fn asked(frame: ClientFrame<'_>) -> Result<ClientRequest, Problem> {
    let ClientFrame { message, command, client_id, message_id, metadata, rewind_to } = frame;
    if client_id.as_ref().is_some_and(|id| id.chars().count() > CLIENT_ID_CHARS_MAX) {
        return Err(Problem::field("client_id", &format!("must be at most {CLIENT_ID_CHARS_MAX} characters")));
    }
    check_key(message_id.as_deref(), "message_id")?;
    check_metadata(metadata.as_ref(), "metadata")?;
    let rewind_to = rewind_to.map(|to| body::rewind_target(to.as_deref(), "rewind_to")).transpose()?;
    if rewind_to.is_some() {
        body::check_rewinding(message.as_deref().unwrap_or("/help"))?;
    }
    let client_id = client_id.map(Cow::into_owned);
    let say = |text: String, client_id| {
        let key = message_id.map(Cow::into_owned);
        ClientRequest::Say(Say { text, client_id, key, metadata, rewind_to })
    };
    match (message.as_deref().map(str::trim), command.as_deref()) {
        (Some(_), Some(_)) => Err(Problem::field("command", "and `message` exclude each other")),
        (None, None) => Err(Problem::field("message", "or `command` must be there")),
        (Some("/stop"), _) | (_, Some("stop")) => Ok(ClientRequest::Stop(client_id)),
        (_, Some("help")) => Ok(ClientRequest::Help(client_id)),
        (Some(text), _) if is_help(text) => Ok(ClientRequest::Help(client_id)),
        (_, Some("ping")) => Ok(ClientRequest::Ping(client_id)),
        (_, Some("clear")) => Ok(say("/clear".to_owned(), client_id)),
        (_, Some(_)) => Err(Problem::field("command", "must be one of stop, clear, help, ping")),
        (Some(_), None) => match message {
            Some(text) if !text.is_empty() => Ok(say(text.into_owned(), client_id)),
            _ => Err(Problem::field("message", "must not be empty")),
        },
    }
}

fn client_id_of(bytes: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let id = value.get("client_id")?.as_str()?;
    (id.chars().count() <= CLIENT_ID_CHARS_MAX).then(|| id.to_owned())
}

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

    fn fault(text: &str) -> (&'static str, Option<String>, Option<String>) {
        let event: Value = serde_json::from_slice(&read(text.as_bytes()).unwrap_err()).unwrap();
        let text_of = |name: &str| event.get(name).and_then(Value::as_str).map(str::to_owned);
        (text_of("code").unwrap().leak(), text_of("field"), text_of("client_id"))
    }

    #[test]
    fn what_clients_may_send_is_read() {
        let say = |text: &str| Say { text: text.into(), client_id: None, key: None, metadata: None, rewind_to: None };
        assert_eq!(read(br#"{"message":"hi"}"#), Ok(ClientRequest::Say(say("hi"))));
        assert_eq!(read(br#"{"message":" /clear "}"#), Ok(ClientRequest::Say(say(" /clear "))));
        assert_eq!(read(br#"{"command":"clear"}"#), Ok(ClientRequest::Say(say("/clear"))));
        let whole = Say {
            text: "gr\u{fc}\u{df}e".into(),
            client_id: Some("c".into()),
            key: Some("k".into()),
            metadata: json!({"a": 1}).as_object().cloned(),
            rewind_to: Some(None),
        };
        let text = r#"{"message":"gr\u00fcße","client_id":"c","message_id":"k","metadata":{"a":1},"rewind_to":null,"command":null}"#;
        assert_eq!(read(text.as_bytes()), Ok(ClientRequest::Say(whole)));
        for (text, asked) in [
            (r#"{"command":"stop"}"#, ClientRequest::Stop(None)),
            (r#"{"message":"/stop"}"#, ClientRequest::Stop(None)),
            (r#"{"message":"/help\n"}"#, ClientRequest::Help(None)),
            (r#"{"command":"help"}"#, ClientRequest::Help(None)),
            (r#"{"message":" help"}"#, ClientRequest::Help(None)),
            (r#"{"command":"ping"}"#, ClientRequest::Ping(None)),
            (r#"{"message":"clear"}"#, ClientRequest::Say(say("clear"))),
            (r#"{"message":"hi","type":"message","user":{"a":1}}"#, ClientRequest::Say(say("hi"))),
            ("\u{feff}{\"message\":\"\\ud83d\"}", ClientRequest::Say(say("\u{fffd}"))),
        ] {
            assert_eq!(read(text.as_bytes()), Ok(asked), "{text}");
        }
    }

    #[test]
    fn what_they_may_not_is_named_with_their_own_id() {
        assert_eq!(fault("hello"), ("malformed_json", None, None));
        assert_eq!(fault("{"), ("malformed_json", None, None));
        assert_eq!(fault("[]").0, "invalid_body");
        assert_eq!(fault(r#"{"client_id":"c"}"#), ("invalid_field", Some("message".into()), Some("c".into())));
        assert_eq!(fault(r#"{"message":"","client_id":"c"}"#).1.as_deref(), Some("message"));
        assert_eq!(fault(r#"{"message":"x","command":"stop"}"#).1.as_deref(), Some("command"));
        assert_eq!(fault(r#"{"command":"dance"}"#).1.as_deref(), Some("command"));
        let named = |field: &str, client_id: Option<&str>| {
            ("invalid_field", Some(field.to_owned()), client_id.map(str::to_owned))
        };
        assert_eq!(fault(r#"{"message":"x","mesage_id":"s","client_id":"c"}"#), named("mesage_id", Some("c")));
        assert_eq!(fault(r#"{"message":"x","rewind_to":"first"}"#).1.as_deref(), Some("rewind_to"));
        assert_eq!(fault(r#"{"message":"/clear","rewind_to":null}"#).1.as_deref(), Some("rewind_to"));
        assert_eq!(fault(r#"{"command":"ping","rewind_to":null}"#).1.as_deref(), Some("rewind_to"));
        assert_eq!(fault(r#"{"message":5,"client_id":"c"}"#), named("message", Some("c")));
        assert_eq!(fault(r#"{"message":"x","client_id":5}"#), named("client_id", None));
        assert_eq!(fault(r#"{"message":"x","metadata":{"n":99999999999999999999}}"#), named("metadata.n", None));
        assert_eq!(fault(r#"{"message":"x","message_id":""}"#).1.as_deref(), Some("message_id"));
        assert_eq!(fault(r#"{"message":"x","metadata":{"a\u0000":1}}"#).1.as_deref(), Some("metadata"));
        let long = format!(r#"{{"message":"x","client_id":"{}"}}"#, "i".repeat(129));
        assert_eq!(fault(&long).1.as_deref(), Some("client_id"));
    }

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
