//! `chatkeep verify`: the checklist against a running server, a line for each check.
//!
//! It stands alone because it looks from outside, as a user would: what it says of a message is what a reply, a file or the
//! status says. It records a few messages in a session of its own. Every wait has an end; a check that fails says why and
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

use super::args::{Form, Options};
use super::client::Client;
use super::load::load;
use super::screen::{Failure, print, visible};
use super::show::status_of;

use run::{CheckResult, Run};

/// The session it records in when none is named.
const SESSION: &str = "verifier";

/// The lines so far.
struct Report {
    form: Form,
    checks: Vec<Value>,
    failed: usize,
}

impl Report {
    fn add(&mut self, name: &str, outcome: CheckResult) -> Result<(), Failure> {
        let (mark, is_ok, told) = match outcome {
            Ok(told) => ('✓', true, told),
            Err(fault) => ('✗', false, fault),
        };
        self.checks.push(json!({"check": name, "ok": is_ok, "told": told}));
        self.failed += usize::from(!is_ok);
        match self.form {
            Form::Json => Ok(()),
            // Each as it is known: some wait.
            Form::Lines => print(&format!("{mark} {name:<11} {}\n", visible(&told).replace('\n', " "))),
        }
    }
}

/// Makes every check and prints what it found.
pub(super) fn verify(options: &Options) -> Result<(), Failure> {
    let config = load(options)?.settings.config();
    let session = match &options.session {
        Some(session) => session.clone(),
        None => SessionId::new(SESSION).map_err(|rule| Failure::Other(rule.to_string()))?,
    };
    let client = Client::of(&config);
    let before = status_of(&client)?;
    let mut run = Run { client: &client, config: &config, session: &session, before, sent: Vec::new() };
    let mut report = Report { form: options.form, checks: Vec::new(), failed: 0 };
    report.add("REST", checks::rest(&mut run))?;
    report.add("history", checks::history(&run))?;
    report.add("WebSocket", websocket::check(&mut run))?;
    report.add("flush", checks::flush(&run))?;
    report.add("transcript", checks::transcript(&run))?;
    report.add("MongoDB", checks::mongo(&run))?;
    report.add("documents", checks::documents(&run))?;
    report.add("cache", checks::cache(&run))?;
    report.add("journal", checks::journal(&run))?;
    end(&report, &erase(&client, &session))
}

fn end(report: &Report, erase: &str) -> Result<(), Failure> {
    let (all, failed) = (report.checks.len(), report.failed);
    match report.form {
        Form::Json => print(&format!("{}\n", json!({"ok": failed == 0, "checks": report.checks, "erase": erase})))?,
        Form::Lines => print(&format!("To erase what this recorded:\n  {erase}\n"))?,
    }
    if failed > 0 { Err(Failure::Other(format!("{failed} of {all} checks failed"))) } else { Ok(()) }
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

/// A word for a shell.
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
