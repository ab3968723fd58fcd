//! One line for each session, `{"messages":[{"role","content"}…]}`: the form for training, and of a request.
//!
//! What a client of OpenAI's protocol said beside text stands under `metadata.openai` (`front/message.rs`), and goes back to
//! where it was. Markers, failed replies and sessions without messages are left out.

use std::io::Write;

use serde_json::{Map, Value, json};

use crate::disk::Disk;
use crate::message::Message;

use super::path::CurrentPath;
use super::reader::{SessionReader, Stopped};

/// The fields that a message has beside role and content.
const FIELDS: [&str; 4] = ["name", "tool_calls", "tool_call_id", "function_call"];

/// Writes a session.
pub(super) fn write<D: Disk>(reader: &mut SessionReader<'_, D>, to: &mut dyn Write) -> Result<(), Stopped> {
    let path = CurrentPath::of(reader)?;
    let mut has_begun = false;
    let read = path.each(reader, &mut |message| {
        let Some(told) = told(message) else { return Ok(()) };
        to.write_all(if has_begun { b"," } else { b"{\"messages\":[" })?;
        has_begun = true;
        to.write_all(told.to_string().as_bytes())
    });
    let end: &[u8] = match (&read, has_begun) {
        (_, false) => b"",
        (Ok(()), true) => b"]}\n",
        // A line that ends here is no JSON, so nobody takes it for the whole conversation.
        (Err(_), true) => b"\n",
    };
    to.write_all(end).map_err(Stopped::Client)?;
    read
}

fn told(message: &Message) -> Option<Value> {
    if message.marker().is_some() {
        return None;
    }
    let mut parts = message.parts()?;
    if parts.metadata.get("status").is_some_and(|status| status == "error") {
        return None;
    }
    let mut openai = match parts.metadata.remove("openai") {
        Some(Value::Object(openai)) => openai,
        _ => Map::new(),
    };
    let calls = ["tool_calls", "function_call"].iter().any(|name| openai.contains_key(*name));
    let content = match openai.remove("content") {
        Some(content @ Value::Array(_)) => content,
        _ if parts.text.is_empty() && calls => Value::Null,
        _ => parts.text.into(),
    };
    let mut told = json!({"role": message.role(), "content": content});
    for name in FIELDS {
        if let Some(value) = openai.remove(name) {
            told[name] = value;
        }
    }
    Some(told)
}
