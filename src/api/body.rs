//! Request bodies: JSON into typed values, or a problem that names the field.
//!
//! 400 if the bytes are not JSON; 422 if the JSON has the wrong shape or a misspelled field. The typed reader is fast
//! but its errors are vague, so after an error the shape is checked again, slowly.

mod reader;
mod whole_numbers;

use std::borrow::Cow;
use std::ops::Deref;

use serde::de::DeserializeSeed;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::access::Principal;
use crate::chat::RewindTarget;
use crate::message::SessionId;

use super::shape::Shape;
use super::{Problem, names};
use reader::{Named, NamedItems};

pub use whole_numbers::check_whole_numbers;

/// The deepest nesting of metadata; MongoDB takes a hundred levels in a document.
const METADATA_DEPTH_MAX: usize = 32;

/// A string of a body, borrowed from it unless it has escapes. (Serde copies a `Cow` in an `Option`.)
#[derive(Deserialize)]
pub struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// A field whose `null` says something too; `None`: it is not there.
///
/// # Errors
/// Those of the value.
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// Where a conversation is to go on: `null` is its beginning.
///
/// # Errors
/// 422 for a text that is no id.
pub fn rewind_target(to: Option<&str>, field: &str) -> Result<RewindTarget, Problem> {
    let rule = "must be the id of a message, or null for the beginning of the conversation";
    to.map(|to| to.parse().map_err(|_| Problem::field(field, rule))).transpose()
}

/// Checks a turn that comes with a rewind.
///
/// # Errors
/// 422 for a text that begins a new context or asks for help.
pub fn check_rewinding(text: &str) -> Result<(), Problem> {
    let is_command = crate::chat::is_clear(text) || crate::chat::is_help(text);
    if is_command { Err(Problem::field("rewind_to", "goes with a message, not with /clear or /help")) } else { Ok(()) }
}

/// Reads an object of that shape.
///
/// # Errors
/// 400 or 422, naming the field. The same body fails again.
pub fn object<'a, T: Deserialize<'a>>(body: &'a [u8], shape: &Shape) -> Result<T, Problem> {
    read(body, Named::new(shape)).map_err(|e| explain(body, &e, |value| wrong_in_object(value, shape, "")))
}

/// Reads an object of that shape which may have any other fields. `wrong` finds what else is wrong with one.
///
/// # Errors
/// 400 or 422, naming the field. The same body fails again.
pub fn open_object<'a, T: Deserialize<'a>>(
    body: &'a [u8],
    shape: &Shape,
    wrong: impl Fn(&Map<String, Value>) -> Option<Problem>,
) -> Result<T, Problem> {
    let read = match body.trim_ascii_start().first() {
        // Serde would take it for the fields in order.
        Some(b'[') => Err(serde::de::Error::custom("an array")),
        _ => serde_json::from_slice(body),
    };
    read.map_err(|e| {
        explain(body, &e, |value| {
            let Some(map) = value.as_object() else { return Some(no_object("")) };
            wrong_field(map, shape, "").or_else(|| wrong(map))
        })
    })
}

/// Reads an array of objects of that shape.
///
/// # Errors
/// 400 or 422, naming the item and the field. The same body fails again.
pub fn array<'a, T: Deserialize<'a>>(body: &'a [u8], shape: &Shape) -> Result<Vec<T>, Problem> {
    read(body, NamedItems::new(shape)).map_err(|e| {
        explain(body, &e, |value| {
            let mut items = value.as_array().into_iter().flatten().enumerate();
            items.find_map(|(index, item)| wrong_in_object(item, shape, &format!("[{index}].")))
        })
    })
}

fn read<'a, S: DeserializeSeed<'a>>(body: &'a [u8], seed: S) -> serde_json::Result<S::Value> {
    let mut from = serde_json::Deserializer::from_slice(body);
    let read = seed.deserialize(&mut from)?;
    from.end().map(|()| read)
}

fn explain(body: &[u8], error: &serde_json::Error, find: impl Fn(&Value) -> Option<Problem>) -> Problem {
    // The parser's message has line and column and quotes nothing of the body. The typed reader skips unknown fields,
    // and with them errors inside them.
    let malformed = |error| Problem::new(400, "malformed_json", format!("the body is not JSON: {error}"));
    // It is JSON, and none of our types takes it.
    if error.to_string().starts_with("number out of range") {
        let unnamed = || Problem::new(422, "invalid_body", format!("the body has a {error}: send it as a string"));
        return whole_numbers::first_beyond(body).unwrap_or_else(unnamed);
    }
    if !error.is_data() {
        return malformed(error.to_string());
    }
    let value = match serde_json::from_slice(body) {
        Ok(value) => value,
        Err(error) => return malformed(error.to_string()),
    };
    // The shape does not show a repeated field.
    find(&value).unwrap_or_else(|| Problem::new(422, "invalid_body", format!("the body has the wrong shape: {error}")))
}

fn wrong_in_object(value: &Value, shape: &Shape, path: &str) -> Option<Problem> {
    let Some(map) = value.as_object() else { return Some(no_object(path)) };
    let known = || shape.iter().map(|(name, _)| *name);
    let unknown = || map.keys().filter(|name| !known().any(|known| known == **name));
    if let Some((name, meant)) = unknown().find_map(|name| Some((name, names::meant(name, known())?))) {
        return Some(Problem::misspelt(&format!("{path}{name}"), "field", meant));
    }
    wrong_field(map, shape, path)
}

fn no_object(path: &str) -> Problem {
    let what = if path.is_empty() { "the body" } else { path.trim_end_matches('.') };
    Problem::new(422, "invalid_body", format!("{what} must be a JSON object"))
}

fn wrong_field(map: &Map<String, Value>, shape: &Shape, path: &str) -> Option<Problem> {
    let (name, kind) = shape.iter().find(|(name, kind)| !kind.fits(map.get(*name)))?;
    let missing = if map.contains_key(*name) { "" } else { "is missing: it " };
    Some(Problem::field(&format!("{path}{name}"), &format!("{missing}{}", kind.rule())))
}

/// The session that a request names, or the default one. Every route gets its session here.
///
/// # Errors
/// 422 for a name that is none; 403 for a session that the caller may not name, whether there is one or not.
pub fn session(caller: &Principal, name: Option<&str>, field: &str) -> Result<SessionId, Problem> {
    let named = name.map(SessionId::new).transpose().map_err(|rule| Problem::field(field, &rule.to_string()))?;
    let session = named.unwrap_or_default();
    if caller.covers(&session) { Ok(session) } else { Err(Problem::foreign_session(caller, field)) }
}

/// Checks metadata: its depth and its keys.
pub fn check_metadata(metadata: Option<&Map<String, Value>>, field: &str) -> Result<(), Problem> {
    let Some(metadata) = metadata else { return Ok(()) };
    for (key, value) in metadata {
        check_key(key, field)?;
        check_value(value, field, METADATA_DEPTH_MAX - 1)?;
    }
    Ok(())
}

fn check_value(value: &Value, field: &str, depth_left: usize) -> Result<(), Problem> {
    if depth_left == 0 && (value.is_array() || value.is_object()) {
        return Err(Problem::field(field, &format!("must not be nested deeper than {METADATA_DEPTH_MAX} levels")));
    }
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| check_value(item, field, depth_left - 1)),
        Value::Object(map) => map.iter().try_for_each(|(key, value)| {
            check_key(key, field)?;
            check_value(value, field, depth_left - 1)
        }),
        _ => Ok(()),
    }
}

/// MongoDB's documents cannot hold such a key, so it is refused everywhere.
fn check_key(key: &str, field: &str) -> Result<(), Problem> {
    if key.contains('\0') { Err(Problem::field(field, "must have no key with a NUL in it")) } else { Ok(()) }
}
