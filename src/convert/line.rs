//! A message of another system and the line that is made of it.

use std::cell::Cell;
use std::io;

use serde_json::{Map, Value, json};

use crate::message::{Draft, Id, Metadata, SessionId, Timestamp, is_role};

use super::format::ImportFormat;

/// Where lines go. A unit is what a file is counted in: its lines, or its conversations, from 1.
pub trait LineSink {
    /// Told once, before any line: what the file is.
    fn is(&mut self, format: ImportFormat);

    /// Takes a line of the form that `POST /api/chat/import` reads, without its end.
    ///
    /// # Errors
    /// The line cannot be passed on; the conversion ends.
    fn line(&mut self, unit: u64, line: &[u8]) -> io::Result<()>;

    /// Takes bytes of a file that has such lines already.
    ///
    /// # Errors
    /// As for [`LineSink::line`].
    fn lines(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Told of a unit that cannot be read, or only in part.
    ///
    /// # Errors
    /// As for [`LineSink::line`].
    fn failed(&mut self, unit: u64, why: String) -> io::Result<()>;
}

/// How messages are placed.
#[derive(Clone, Debug)]
pub struct Placing {
    /// The session that all go to, if one is named.
    pub session: Option<SessionId>,
    time: Timestamp,
    is_time_used: Cell<bool>,
}

impl Placing {
    /// `time`: that of messages that tell none.
    #[must_use]
    pub fn new(session: Option<SessionId>, time: Timestamp) -> Self {
        Self { session, time, is_time_used: Cell::new(false) }
    }

    /// The time for what tells none.
    pub(super) fn time(&self) -> Timestamp {
        self.is_time_used.set(true);
        self.time
    }

    /// Whether anything told no time.
    #[must_use]
    pub fn is_time_used(&self) -> bool {
        self.is_time_used.get()
    }
}

/// What was said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ForeignMessage {
    pub role: String,
    pub text: String,
    pub metadata: Map<String, Value>,
    pub vector_ids: Vec<Value>,
}

impl ForeignMessage {
    /// The line of a message with that id.
    pub(super) fn line(&self, session: &SessionId, id: Id) -> Result<Vec<u8>, String> {
        let Self { role, text, metadata, vector_ids } = self;
        if !is_role(role) {
            return Err(format!("its role `{role}` is no name of an author, such as user or assistant"));
        }
        let metadata = Metadata { given: Some(metadata), defaults: &[] };
        Ok(Draft { session, role, text, metadata, vector_ids }.prepare().seal(id).line().to_vec())
    }

    /// The line of a message that gets its id where it is imported.
    pub(super) fn line_without_id(&self, session: &str, time: Timestamp) -> Vec<u8> {
        let Self { role, text, metadata, vector_ids } = self;
        let line = json!({
            "session_id": session, "role": role, "created_at": time, "text": text, "metadata": metadata,
            "vector_ids": vector_ids
        });
        line.to_string().into_bytes()
    }
}

/// A session's name made of what another system calls a conversation. A name that no session may have gets another one, the
/// same every time.
pub(super) fn session_named(system: &str, name: &str) -> SessionId {
    let whole = if system.is_empty() { name.to_owned() } else { format!("{system}-{name}") };
    SessionId::new(&whole).unwrap_or_else(|_| {
        let system = if system.is_empty() { "session" } else { system };
        SessionId::new(&format!("{system}-{}", short_digest(name))).expect("letters and hexadecimal digits")
    })
}

/// A name for a text, the same every time.
pub(super) fn short_digest(text: &str) -> String {
    // The random bits of a derived id are a digest.
    Id::derived(Timestamp::from_micros(0), text).to_string()[19..].replace('-', "")
}

/// A role as other programs write it.
pub(super) fn role_named(role: &str) -> String {
    match role.to_ascii_lowercase().as_str() {
        "human" => "user".to_owned(),
        "ai" | "model" | "bot" => "assistant".to_owned(),
        role => role.to_owned(),
    }
}

/// A time as systems write it: a text, or a number of seconds, milliseconds or microseconds since 1970.
pub(super) fn time_of(value: &Value) -> Option<Timestamp> {
    match value {
        Value::String(text) => Timestamp::parse_any(text),
        Value::Number(number) => {
            let number = number.as_f64().filter(|number| *number > 0.0)?;
            let micros = match number {
                number if number < 1e11 => number * 1e6,
                number if number < 1e14 => number * 1e3,
                number => number,
            };
            // Rounded: a fraction of seconds has no exact binary form.
            Some(Timestamp::from_micros(micros.round() as u64))
        }
        _ => None,
    }
}

/// The text of content that is a text or a list of parts.
pub(super) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| match part {
                Value::String(text) => Some(text.clone()),
                // LibreChat has texts within texts.
                part => part
                    .get("text")
                    .map(|text| text.get("value").unwrap_or(text))
                    .and_then(Value::as_str)
                    .map(str::to_owned),
            });
            texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// Sets what says something.
pub(super) fn keep(fields: &mut Map<String, Value>, name: &str, value: Option<&Value>) {
    let is_nothing = |value: &&Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
    };
    if let Some(value) = value.filter(|value| !is_nothing(value)) {
        fields.insert(name.to_owned(), value.clone());
    }
}

/// Metadata with these fields under the system's name, if there are any.
pub(super) fn under(system: &str, fields: Map<String, Value>) -> Map<String, Value> {
    if fields.is_empty() { fields } else { Map::from_iter([(system.to_owned(), Value::Object(fields))]) }
}
