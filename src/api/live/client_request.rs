//! The JSON that the clients of a WebSocket may send.
//!
//! Pure: knows no socket. A fault is named with the client's own `client_id`, so that it knows which of its messages was
//! not taken.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::api::body::{self, Text, check_metadata, check_whole_numbers};
use crate::api::chat::check_key;
use crate::api::shape::{FieldKind, Shape};
use crate::api::{Problem, SharedBytes, content};
use crate::chat::{RewindTarget, is_clear, is_help};

use super::wire::error;

/// The longest `client_id`, in characters.
const CLIENT_ID_CHARS_MAX: usize = 128;

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

#[cfg(test)]
mod tests {
    use serde_json::json;

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
        // No type of ours takes these numbers.
        let beyond = format!(r#"{{"message":"x","metadata":{{"n":{}}}}}"#, "9".repeat(400));
        assert_eq!(fault(&beyond), ("invalid_field", Some("metadata.n".into()), None));
        assert_eq!(fault(r#"{"message":"x","metadata":{"n":1e400}}"#).0, "invalid_body");
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
}
