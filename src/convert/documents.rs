//! One document a line: what the Python system wrote, what `mongoexport` writes of a collection of messages, and of
//! LangChain's message history.
//!
//! `mongoexport` writes extended JSON, which becomes plain JSON: `{"$oid"}` and `{"$date"}` a text, `{"$numberLong"}` a number.
//! Ids are those that the history derives from the same documents in MongoDB (`store/foreign.rs`), so a message that is read
//! there and imported here is one.

use std::collections::HashMap;
use std::io;

use serde_json::{Map, Value};

use crate::message::{Id, SessionId, Timestamp, with_target_in};

use super::line::{ForeignMessage, LineSink, Placing, keep, role_named, session_named, text_of, time_of, under};
use super::source::value_of;

const LANGCHAIN: &str = "langchain";

/// Sessions of which the last time is known; 100 bytes each. Beyond, it begins anew, at the same line every time.
const SESSIONS_MAX: usize = 100_000;

/// Converts documents of a file.
#[derive(Default)]
pub(super) struct Documents {
    /// The last time that LangChain's session has.
    last: HashMap<SessionId, Timestamp>,
}

impl Documents {
    /// A message of our own shape, or one like it.
    pub(super) fn message(&self, unit: u64, from: &Value, placing: &Placing, to: &mut dyn LineSink) -> io::Result<()> {
        let mut said = match said(from) {
            Ok(said) => said,
            Err(why) => return to.failed(unit, why),
        };
        let session = match (&placing.session, from["session_id"].as_str()) {
            (Some(session), _) => session.clone(),
            (None, Some(name)) => match SessionId::new(name) {
                Ok(session) => session,
                Err(rule) => return to.failed(unit, format!("its `session_id` {rule}")),
            },
            (None, None) => return to.failed(unit, "it has no `session_id`".into()),
        };
        let name = from.get("_id").or_else(|| from.get("id"));
        let time = created(from).or_else(|| name.and_then(object_id_time));
        let id = match (name, time) {
            (Some(name), time) => placed(name, time, from["created_at"].is_object()),
            (None, _) => None,
        };
        match id {
            Some(id) if placing.session.is_some() => {
                if let Some(moved) = with_target_in(&session, &said.role, &said.metadata) {
                    said.metadata = moved;
                }
                self.write(unit, said.line(&session, id.in_session(&session)), to)
            }
            Some(id) => self.write(unit, said.line(&session, id), to),
            None => to.line(unit, &said.line_without_id(session.as_str(), time.unwrap_or_else(|| placing.time()))),
        }
    }

    /// A document of LangChain's `MongoDBChatMessageHistory`.
    pub(super) fn langchain(
        &mut self,
        unit: u64,
        from: &Value,
        placing: &Placing,
        to: &mut dyn LineSink,
    ) -> io::Result<()> {
        let said = match langchain_said(from) {
            Ok(said) => said,
            Err(why) => return to.failed(unit, why),
        };
        let name = from["SessionId"].as_str().unwrap_or_default();
        let session = placing.session.clone().unwrap_or_else(|| session_named("", name));
        let time = from.get("_id").and_then(object_id_time).or_else(|| created(from)).unwrap_or_else(|| placing.time());
        if self.last.len() >= SESSIONS_MAX && !self.last.contains_key(&session) {
            self.last.clear();
        }
        let next = self.last.get(&session).map(|last| Timestamp::from_micros(last.micros() + 1));
        let time = next.map_or(time, |next| time.max(next));
        self.last.insert(session.clone(), time);
        let key = from.get("_id").map_or_else(|| format!("{}\n{}", said.role, said.text), Value::to_string);
        let id = Id::derived(time, &format!("{session}\n{key}"));
        self.write(unit, said.line(&session, id), to)
    }

    fn write(&self, unit: u64, line: Result<Vec<u8>, String>, to: &mut dyn LineSink) -> io::Result<()> {
        match line {
            Ok(line) => to.line(unit, &line),
            Err(why) => to.failed(unit, why),
        }
    }
}

fn said(from: &Value) -> Result<ForeignMessage, String> {
    let role = from["role"].as_str().ok_or("it has no `role`")?;
    let text =
        from["text"].as_str().or_else(|| from["content"].as_str()).ok_or("it has neither `text` nor `content`")?;
    let metadata = match plain(&from["metadata"]) {
        Value::Object(metadata) => metadata,
        _ => Map::new(),
    };
    let vector_ids = match plain(&from["vector_ids"]) {
        Value::Array(vector_ids) => vector_ids,
        _ => Vec::new(),
    };
    Ok(ForeignMessage { role: role_named(role), text: text.to_owned(), metadata, vector_ids })
}

fn langchain_said(from: &Value) -> Result<ForeignMessage, String> {
    let history = match &from["History"] {
        Value::String(text) => {
            value_of(text.as_bytes()).map_err(|why| format!("its `History` cannot be read: {why}"))?
        }
        other => other.clone(),
    };
    let data = &history["data"];
    let kind = history["type"].as_str().ok_or("its `History` has no `type`")?;
    let content = data.get("content").ok_or("its `History` has no `data.content`")?;
    let mut fields = Map::new();
    for name in ["name", "tool_calls", "tool_call_id", "additional_kwargs", "response_metadata", "usage_metadata", "id"]
    {
        keep(&mut fields, name, data.get(name));
    }
    keep(&mut fields, "content", Some(content).filter(|content| content.is_array()));
    let role = role_named(kind.trim_end_matches("MessageChunk"));
    Ok(ForeignMessage { role, text: text_of(content), metadata: under(LANGCHAIN, fields), vector_ids: vec![] })
}

/// When a document says that it was made.
fn created(from: &Value) -> Option<Timestamp> {
    match &from["created_at"] {
        Value::Object(date) => match date.get("$date")? {
            Value::Object(long) => millis(long.get("$numberLong")?.as_str()?.parse().ok()?),
            Value::Number(number) => millis(number.as_i64()?),
            text => time_of(text),
        },
        other => time_of(other),
    }
}

fn millis(millis: i64) -> Option<Timestamp> {
    u64::try_from(millis).ok().map(|millis| Timestamp::from_micros(millis.saturating_mul(1000)))
}

/// The id of a document, as the history places it: its own if that is one of ours of that time, else one that is derived.
fn placed(name: &Value, time: Option<Timestamp>, is_date: bool) -> Option<Id> {
    // A program that turned our texts into dates has cut them to milliseconds.
    let cut = |time: Timestamp| if is_date { time.micros() / 1000 } else { time.micros() };
    let own = name.as_str().and_then(|name| name.parse::<Id>().ok());
    match (own, time) {
        (Some(id), None) => Some(id),
        (Some(id), Some(time)) if cut(id.time()) == cut(time) => Some(id),
        (_, Some(time)) => Some(Id::derived(time, &relaxed(name).to_string())),
        (None, None) => None,
    }
}

/// An `_id` as `mongoexport` writes it by default: numbers are numbers.
fn relaxed(name: &Value) -> Value {
    let number = name.as_object().filter(|object| object.len() == 1).and_then(|object| {
        let (kind, text) = object.iter().next()?;
        matches!(&**kind, "$numberInt" | "$numberLong" | "$numberDouble")
            .then(|| serde_json::from_str(text.as_str()?).ok())?
    });
    number.unwrap_or_else(|| name.clone())
}

/// The seconds in an ObjectId.
fn object_id_time(name: &Value) -> Option<Timestamp> {
    let text = name.get("$oid")?.as_str().filter(|text| text.len() == 24)?;
    let seconds = u64::from_str_radix(text.get(..8)?, 16).ok()?;
    Some(Timestamp::from_micros(seconds * 1_000_000))
}

/// Extended JSON as plain JSON.
fn plain(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(plain).collect(),
        Value::Object(fields) => match fields.iter().next().filter(|_| fields.len() == 1) {
            Some((kind, inner)) if kind.starts_with('$') => of_type(kind, inner),
            _ => fields.iter().map(|(name, value)| (name.clone(), plain(value))).collect(),
        },
        other => other.clone(),
    }
}

fn of_type(kind: &str, inner: &Value) -> Value {
    match (kind, inner) {
        ("$numberInt" | "$numberLong" | "$numberDouble", Value::String(text)) => {
            serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into())
        }
        ("$date", Value::Object(_) | Value::Number(_)) => {
            let holder = serde_json::json!({"created_at": {"$date": inner}});
            created(&holder).map_or(Value::Null, |time| time.to_string().into())
        }
        ("$binary", Value::Object(binary)) => binary.get("base64").cloned().unwrap_or(Value::Null),
        ("$oid" | "$date" | "$numberDecimal" | "$uuid" | "$symbol", text) => text.clone(),
        (kind, inner) => Map::from_iter([(kind.to_owned(), plain(inner))]).into(),
    }
}
