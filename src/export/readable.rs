//! Markdown: a heading for each session, and one for each message.

use std::io::Write;

use serde_json::Value;

use crate::disk::Disk;
use crate::message::{Marker, Message};

use super::path::CurrentPath;
use super::reader::{SessionReader, Stopped};

/// Writes a session, if its path has any message.
pub(super) fn write<D: Disk>(reader: &mut SessionReader<'_, D>, to: &mut dyn Write) -> Result<(), Stopped> {
    let path = CurrentPath::of(reader)?;
    let session = reader.session;
    let mut has_begun = false;
    path.each(reader, &mut |message| {
        if !has_begun {
            has_begun = true;
            let title = path.title.as_deref().unwrap_or_default();
            let title = title.split_whitespace().collect::<Vec<_>>().join(" ");
            let title = if title.is_empty() { session.as_str() } else { &title };
            write!(to, "# {title}\n\nSession `{session}`\n\n")?;
        }
        to.write_all(section(message).as_bytes())
    })
}

/// A message with its heading.
fn section(message: &Message) -> String {
    let time = message.id().time().to_string();
    let time = format!("{} {} UTC", &time[..10], &time[11..19]);
    if message.marker() == Some(Marker::Clear) {
        return format!("---\n\n*A new context begins, {time}*\n\n");
    }
    let Some(parts) = message.parts() else { return String::new() };
    let status = parts.metadata.get("status").and_then(Value::as_str).filter(|status| *status != "completed");
    let status = status.map(|status| format!(" ({status})")).unwrap_or_default();
    let mut section = format!("## {} — {time}{status}\n\n", message.role());
    if !parts.text.is_empty() {
        section.push_str(parts.text.trim_end_matches('\n'));
        section.push_str("\n\n");
    }
    if let Some(calls) = parts.metadata.get("openai").and_then(|openai| openai.get("tool_calls")) {
        section.push_str(&format!("```json\n{calls:#}\n```\n\n"));
    }
    section
}
