//! `chatkeep search`: prints the messages with some words, newest activity first, the words marked on a terminal.
//!
//! A page of the server ends when it has read much, found or not; this goes on until there are as many as were asked for.
//! Knows nothing of how a server searches.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use serde_json::Value;

use super::args::{Options, ReportFormat};
use super::client::{Client, ClientError};
use super::screen::{CommandError, note, print, visible};
use super::show::client;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Messages that are printed without `--limit`.
const LIMIT_DEFAULT: usize = 50;

/// What is put around a word that was found.
#[derive(Clone, Copy)]
struct Marks(&'static str, &'static str);

const NO_MARKS: Marks = Marks("", "");
/// Bold on a terminal, and no longer bold.
const BOLD: Marks = Marks("\x1b[1m", "\x1b[22m");

/// Prints what is found.
pub(super) fn search(options: &Options) -> Result<(), CommandError> {
    let page = pages(&client(options)?, options)?;
    if options.form == ReportFormat::Json {
        return print(&format!("{page}\n"));
    }
    let marks = if io::stdout().is_terminal() { BOLD } else { NO_MARKS };
    print(&page["messages"].as_array().into_iter().flatten().map(|found| line(found, marks)).collect::<String>())?;
    if page["messages"].as_array().is_none_or(Vec::is_empty) {
        note("nothing is found");
    }
    if page["complete"] == false {
        note(&format!("not all may be here: {}", page["reason"].as_str().unwrap_or("no reason is given")));
    }
    if page["next"].is_string() && options.limit.is_none() {
        note("further messages are not shown; --limit N shows up to 500");
    }
    Ok(())
}

/// As many messages as were asked for, in one page.
fn pages(client: &Client, options: &Options) -> Result<Value, ClientError> {
    let limit = options.limit.unwrap_or(LIMIT_DEFAULT);
    let (mut messages, mut cursor, mut reason) = (Vec::new(), None, Value::Null);
    loop {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", &(limit - messages.len()).to_string());
        query.extend_pairs(options.text.iter().map(|words| ("q", words)));
        query.extend_pairs(options.session.iter().map(|session| ("session_id", session.as_str())));
        query.extend_pairs(cursor.iter().map(|cursor: &String| ("cursor", cursor)));
        let mut page = client.get(&format!("/api/chat/search?{}", query.finish()), ANSWER_TIMEOUT)?;
        if let Value::Array(more) = page["messages"].take() {
            messages.extend(more);
        }
        if page["reason"].is_string() {
            reason = page["reason"].take();
        }
        cursor = page["next"].as_str().map(str::to_owned);
        if cursor.is_none() || messages.len() >= limit {
            page["messages"] = messages.into();
            if reason.is_string() {
                page["complete"] = false.into();
                page["reason"] = reason;
            }
            return Ok(page);
        }
    }
}

/// A message for people: when it was recorded, its session and author, and the text around the words.
fn line(found: &Value, marks: Marks) -> String {
    let field = |name: &str| found[name].as_str().unwrap_or_default();
    let time: String = field("created_at").chars().take(19).collect();
    let piece = |piece: &Value| {
        let text = visible(piece["text"].as_str().unwrap_or_default()).replace(['\n', '\t'], " ");
        if piece["hit"] == true { format!("{}{text}{}", marks.0, marks.1) } else { text }
    };
    let snippet: String = found["snippet"].as_array().into_iter().flatten().map(piece).collect();
    format!("{time}Z  {}  {}: {}\n", field("session_id"), field("role"), snippet.trim())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_is_one_line_with_marked_words_that_cannot_steer_the_terminal() {
        let found = json!({
            "session_id": "s", "role": "user", "created_at": "2025-11-28T01:23:45.123456+00:00", "text": "x",
            "snippet": [{"text": " one\n"}, {"text": "plan\u{1b}", "hit": true}, {"text": " b"}],
        });
        assert_eq!(line(&found, NO_MARKS), "2025-11-28T01:23:45Z  s  user: one plan\\u{1b} b\n");
        assert!(line(&found, BOLD).ends_with("user: one \x1b[1mplan\\u{1b}\x1b[22m b\n"));
    }
}
