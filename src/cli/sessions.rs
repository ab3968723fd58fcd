//! `chatkeep sessions` and `chatkeep erase`: lists the sessions of a running server, newest activity first, and erases one.
//!
//! Nothing is erased without a yes, on the terminal or by `--yes`. Knows nothing of how a server finds and erases.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use crate::doctor::some;

use super::args::{Consent, Options, ReportFormat};
use super::client::{Client, ClientError};
use super::screen::{CommandError, note, print, visible};
use super::show::{client, encoded};

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Sessions that are listed without `--limit`.
const LIMIT_DEFAULT: usize = 50;

/// Prints the list.
pub(super) fn list(options: &Options) -> Result<(), CommandError> {
    let limit = options.limit.unwrap_or(LIMIT_DEFAULT);
    let page = pages(&client(options)?, limit, options.text.as_deref())?;
    if options.form == ReportFormat::Json {
        return print(&format!("{page}\n"));
    }
    print(&page["sessions"].as_array().into_iter().flatten().map(line).collect::<String>())?;
    if page["complete"] == false {
        note(&format!("not all may be here: {}", page["reason"].as_str().unwrap_or("no reason is given")));
    }
    if page["next"].is_string() && options.limit.is_none() {
        note("further sessions are not shown; --limit N shows up to 500");
    }
    Ok(())
}

/// As many sessions as that, in one page. A search looks at some titles only for each page of the server.
fn pages(client: &Client, limit: usize, words: Option<&str>) -> Result<Value, ClientError> {
    let (mut sessions, mut after, mut reason) = (Vec::new(), None, None);
    loop {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", &(limit - sessions.len()).to_string());
        query.extend_pairs(after.iter().map(|after: &String| ("after", after)));
        query.extend_pairs(words.iter().map(|words| ("q", words)));
        let mut page = client.get(&format!("/api/chat/sessions?{}", query.finish()), ANSWER_TIMEOUT)?;
        if let Value::Array(more) = page["sessions"].take() {
            sessions.extend(more);
        }
        after = page["next"].as_str().map(str::to_owned);
        // A page that lacks something is not made whole by those after it.
        reason = reason.or_else(|| (page["complete"] == false).then(|| page["reason"].take()));
        if after.is_none() || sessions.len() >= limit {
            page["sessions"] = sessions.into();
            if let Some(reason) = reason {
                (page["complete"], page["reason"]) = (false.into(), reason);
            }
            return Ok(page);
        }
    }
}

/// A session for people: when it was last active, its id, messages, title, and what is set.
fn line(session: &Value) -> String {
    let field = |name: &str| session[name].as_str().unwrap_or_default();
    let time: String = field("updated_at").chars().take(19).collect();
    let flags = ["pinned", "archived", "answering"].iter().filter(|flag| session[**flag] == true);
    let flags: String = flags.map(|flag| format!(" ({flag})")).collect();
    let title = visible(field("title")).replace(['\n', '\t'], " ");
    let line = format!(
        "{time}Z  {}  {:>5}  {title}{flags}",
        field("session_id"),
        session["messages"].as_u64().unwrap_or_default()
    );
    format!("{}\n", line.trim_end())
}

/// Erases a session.
pub(super) fn erase(options: &Options) -> Result<(), CommandError> {
    let Some(session) = &options.session else { return Ok(()) };
    let client = client(options)?;
    let target = format!("/api/chat/sessions/{}", encoded(session));
    if options.consent == Consent::Ask && !agrees(&client, &target, session.as_str())? {
        return Err(CommandError::Other(format!("session {session} is not erased")));
    }
    let erased = client.delete(&target, ANSWER_TIMEOUT)?;
    if options.form == ReportFormat::Json {
        return print(&format!("{erased}\n"));
    }
    let messages = some(erased["counts"]["transcript"].as_u64().unwrap_or_default(), "message");
    let pending = if erased["mongo"] == "pending" { "; MongoDB will delete its part" } else { "" };
    print(&format!("session {session} is erased: {messages} of its transcript{pending}\n"))
}

/// Asks on the terminal.
fn agrees(client: &Client, target: &str, session: &str) -> Result<bool, CommandError> {
    if !io::stdin().is_terminal() {
        return Err(CommandError::asked(format!("erase asks first, on a terminal: chatkeep erase {session} --yes")));
    }
    let known = match client.get(target, ANSWER_TIMEOUT) {
        Err(ClientError::Refused { status: 404, .. }) => json!({}),
        known => known?,
    };
    let what = known["messages"].as_u64().map_or_else(|| "not listed here".to_owned(), |count| some(count, "message"));
    let question = format!("Erase session {session} ({what}) everywhere and for good? [y/N] ");
    let mut answer = String::new();
    let asked = io::stderr().write_all(question.as_bytes()).and_then(|()| io::stdin().lock().read_line(&mut answer));
    asked.map_err(|fault| CommandError::Other(format!("the terminal cannot be read: {fault}")))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_one_line_that_cannot_steer_the_terminal() {
        let session = json!({
            "session_id": "s", "updated_at": "2025-11-28T01:23:45.123456+00:00", "messages": 12,
            "title": "one\ntwo\x1b[2J", "pinned": true, "archived": false,
        });
        assert_eq!(line(&session), "2025-11-28T01:23:45Z  s     12  one two\\u{1b}[2J (pinned)\n");
        assert_eq!(line(&json!({"session_id": "s", "updated_at": "2025", "messages": 1})), "2025Z  s      1\n");
    }
}
