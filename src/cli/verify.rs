//! `chatkeep verify`: the checklist against a running server, a line for each check.
//!
//! It checks from outside, as a user would: what it says of a message is what a reply, a file or the
//! status says. It records a few messages in a new session of its own. Every wait has an end; a check that fails says why and
//! what to do, and the others are made all the same. Knows nothing of the server's inside.
//!
//! ```text
//! run.rs        what the checks share
//! checks.rs     REST, history, flush, transcript, MongoDB, cache, journal
//! websocket.rs  /ws/chat
//! ```

mod checks;
mod run;
mod websocket;

use serde_json::{Value, json};

use crate::message::SessionId;

use super::args::{Options, ReportFormat};
use super::client::Client;
use super::load::{is_token, load_using};
use super::screen::{CommandError, print, visible};
use super::show::{page, status_of};

use run::{CheckResult, Run};

/// The lines so far.
struct VerifyReport {
    form: ReportFormat,
    checks: Vec<Value>,
    failed: usize,
}

impl VerifyReport {
    fn add(&mut self, name: &str, outcome: CheckResult) -> Result<(), CommandError> {
        let (mark, is_ok, told) = match outcome {
            Ok(told) => ('✓', true, told),
            Err(fault) => ('✗', false, fault),
        };
        self.checks.push(json!({"check": name, "ok": is_ok, "told": told}));
        self.failed += usize::from(!is_ok);
        match self.form {
            ReportFormat::Json => Ok(()),
            // At once, since some checks wait.
            ReportFormat::Lines => print(&format!("{mark} {name:<11} {}\n", visible(&told).replace('\n', " "))),
        }
    }
}

/// Makes every check and prints what it found.
pub(super) fn verify(options: &Options) -> Result<(), CommandError> {
    // Its WebSocket goes over TCP.
    let config = load_using(options, |_, secret| is_token(secret))?;
    let client = Client::of(&config);
    let before = status_of(&client)?;
    let session = options.session.clone().map_or_else(new_session, Ok)?;
    // If the user named the session, the history tells whether it holds the user's own messages.
    let is_ours = options.session.is_none() || is_empty(&client, &session);
    let mut run = Run { client: &client, config: &config, session: &session, before, sent: Vec::new() };
    let mut report = VerifyReport { form: options.form, checks: Vec::new(), failed: 0 };
    report.add("REST", checks::rest(&mut run))?;
    report.add("history", checks::history(&run))?;
    report.add("WebSocket", websocket::check(&mut run))?;
    report.add("flush", checks::flush(&run))?;
    report.add("transcript", checks::transcript(&run))?;
    report.add("MongoDB", checks::mongo(&run))?;
    report.add("documents", checks::documents(&run))?;
    report.add("cache", checks::cache(&run))?;
    report.add("journal", checks::journal(&run))?;
    let erase = is_ours.then(|| erase(&client, &session));
    end(&report, erase.as_deref())
}

/// A random session id.
fn new_session() -> Result<SessionId, CommandError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|fault| CommandError::Other(format!("no random numbers: {fault}")))?;
    let name = format!("verify-{:016x}", u64::from_ne_bytes(random));
    SessionId::new(&name).map_err(|rule| CommandError::Other(rule.to_string()))
}

/// Whether a session certainly holds no message.
fn is_empty(client: &Client, session: &SessionId) -> bool {
    let page = page(client, session, Some(1));
    page.is_ok_and(|page| page["complete"] == true && page["messages"].as_array().is_some_and(Vec::is_empty))
}

/// `erase` is the command that erases exactly what this recorded, if there is one.
fn end(report: &VerifyReport, erase: Option<&str>) -> Result<(), CommandError> {
    let (all, failed) = (report.checks.len(), report.failed);
    match report.form {
        ReportFormat::Json => {
            print(&format!("{}\n", json!({"ok": failed == 0, "checks": report.checks, "erase": erase})))?;
        }
        ReportFormat::Lines => match erase {
            Some(erase) => print(&format!("To erase what this recorded:\n  {erase}\n"))?,
            None => print("The session may hold other messages; erasing it would erase those too.\n")?,
        },
    }
    if failed > 0 { Err(CommandError::Other(format!("{failed} of {all} checks failed"))) } else { Ok(()) }
}

/// The command that erases the session.
fn erase(client: &Client, session: &SessionId) -> String {
    match client.socket() {
        Some(path) => {
            let path = quoted(&path.display().to_string());
            format!("curl -X DELETE --unix-socket {path} http://localhost/api/chat/sessions/{session}")
        }
        None => {
            let token = if client.has_token() { " -H \"Authorization: Bearer $TOKEN\"" } else { "" };
            format!("curl -X DELETE{token} {}/api/chat/sessions/{session}", client.place())
        }
    }
}

/// A word quoted for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_for_a_shell_where_it_must_be() {
        assert_eq!(quoted("data/chatkeep.sock"), "data/chatkeep.sock");
        assert_eq!(quoted("my data/it's"), r"'my data/it'\''s'");
    }
}
