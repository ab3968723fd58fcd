//! `chatkeep say`: sends one message to a running server and prints its reply as it arrives.
//!
//! The only command that records something. With a role it only records. Else it asks for a stream, and if the server
//! refuses streams, before anything is recorded, it asks again for the whole reply. Otherwise nothing is sent twice.
//! Standard output has the reply and nothing else. An interrupt stops the reply before it ends the command, once the reply
//! has begun: until then the answer that is being given may be another's. Knows nothing of the responder.

use std::io::{self, IsTerminal, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::message::SessionId;
use crate::signals::{self, Interrupt};

use super::args::{Options, ReportFormat};
use super::client::{Client, ClientError, Request, Response, Wait};
use super::screen::{Audience, CommandError, note, print, show, visible};
use super::show::client;
use super::stop;

/// The longest pause before and within a reply: a model on a small machine may think for minutes.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// The most that is read from stdin, in bytes; a server accepts less.
const STDIN_BYTES_MAX: u64 = 64 << 20;
const EVENT_STREAM: &str = "text/event-stream";
/// The session without `--session`.
const DEFAULT_SESSION: &str = "default";

/// Sends the text and prints the reply.
pub(super) fn say(options: &Options) -> Result<(), CommandError> {
    let client = client(options)?;
    let session = options.session.as_ref().map_or(DEFAULT_SESSION, SessionId::as_str);
    let lost = |fault| lost(fault, session);
    let text = match options.text.as_deref().unwrap_or_default() {
        "-" => from_stdin()?,
        text => text.to_owned(),
    };
    if let Some(role) = &options.role {
        let body = json!({"session_id": session, "role": role, "text": text});
        let reply = record(&client, &body).map_err(lost)?;
        return print(&match options.form {
            ReportFormat::Json => format!("{reply}\n"),
            ReportFormat::Lines => format!("{}\n", reply["messages"][0]["id"].as_str().unwrap_or_default()),
        });
    }
    let (has_begun, interrupt) = stop_when_interrupted(&client, session);
    let mut body = json!({"message": text, "session_id": session, "stream": true});
    let mut reply = ask(&client, &body);
    if let Err(ClientError::Refused { status: 422, field: Some(field), .. }) = &reply
        && field == "stream"
    {
        body["stream"] = false.into();
        reply = ask(&client, &body);
    }
    let reply = reply.map_err(lost)?;
    has_begun.store(true, Ordering::SeqCst);
    let is_terminal = io::stdout().is_terminal();
    let mut printed = Printed { form: options.form, is_terminal, has_begun: false, ends_line: true };
    let last = match reply.kind == EVENT_STREAM {
        true => follow(reply, &mut printed, lost),
        false => reply.json().map(Some).map_err(lost),
    };
    // A reply that the interrupt stopped may be here before the interrupt has ended the command.
    if let Some(interrupt) = &interrupt {
        interrupt.end_if_any();
    }
    match last {
        Ok(Some(last)) => printed.finish(&last),
        // The reader of stdout has gone.
        Ok(None) => Ok(()),
        Err(failure) => {
            printed.end_line()?;
            Err(failure)
        }
    }
}

/// Reads the text from stdin, without the last newline, which the shell adds.
fn from_stdin() -> Result<String, CommandError> {
    let mut text = String::new();
    let read = io::stdin().lock().take(STDIN_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|fault| CommandError::Other(format!("cannot read the text from stdin: {fault}")))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn ask(client: &Client, body: &Value) -> Result<Response, ClientError> {
    let accept = match body["stream"] == true {
        true => "text/event-stream, application/json",
        false => "application/json",
    };
    let request =
        Request { target: "/api/chat", accept, method: "POST", body: Some(body), wait: Wait::Silence(SILENCE_TIMEOUT) };
    client.send(&request)?.accepted()
}

/// Records a message without a reply.
fn record(client: &Client, body: &Value) -> Result<Value, ClientError> {
    let (target, accept, wait) = ("/api/chat/messages", "application/json", Wait::Silence(SILENCE_TIMEOUT));
    client.send(&Request { target, accept, method: "POST", body: Some(body), wait })?.accepted()?.json()
}

/// Has an interrupt stop the reply, from when the flag is set. If that cannot be had, an interrupt ends the command only.
fn stop_when_interrupted(client: &Client, session: &str) -> (Arc<AtomicBool>, Option<Interrupt>) {
    let has_begun = Arc::new(AtomicBool::new(false));
    let (begun, client, session) = (has_begun.clone(), client.clone(), session.to_owned());
    let interrupt = signals::before_interrupt(move || {
        if begun.load(Ordering::SeqCst)
            && let Err(fault) = stop::ask(&client, &session)
        {
            note(&format!("the reply is not stopped: {fault}"));
        }
    });
    (has_begun, interrupt.ok())
}

/// Without a reply the outcome of the message is unknown.
fn lost(fault: ClientError, session: &str) -> CommandError {
    match fault {
        ClientError::Late { .. } | ClientError::Cut(_) => CommandError::Other(format!(
            "{fault}; the message may be recorded all the same: `chatkeep history {session}` shows it then"
        )),
        fault => fault.into(),
    }
}

/// Prints deltas until the reply is whole, and returns it; `None` if the reader of stdout has gone.
fn follow(
    mut reply: Response,
    printed: &mut Printed,
    lost: impl Fn(ClientError) -> CommandError,
) -> Result<Option<Value>, CommandError> {
    loop {
        let event = reply.next_event().map_err(&lost)?;
        let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
        match event.name.as_str() {
            "delta" => {
                let audience = printed.delta(data["text"].as_str().unwrap_or_default())?;
                if audience == Audience::Gone {
                    return Ok(None);
                }
            }
            "response" => return Ok(Some(data)),
            "error" => {
                let detail = data["detail"].as_str().unwrap_or("no reason is given");
                return Err(CommandError::Other(format!("the reply broke off: {detail}")));
            }
            // Keep-alives, and events of later versions.
            _ => {}
        }
    }
}

/// What was printed so far.
struct Printed {
    form: ReportFormat,
    is_terminal: bool,
    has_begun: bool,
    /// Nothing was printed, or its last character was a newline.
    ends_line: bool,
}

impl Printed {
    fn delta(&mut self, text: &str) -> Result<Audience, CommandError> {
        if self.form == ReportFormat::Json || text.is_empty() {
            return Ok(Audience::There);
        }
        (self.has_begun, self.ends_line) = (true, text.ends_with('\n'));
        match self.is_terminal {
            true => show(&visible(text)),
            false => show(text),
        }
    }

    fn end_line(&mut self) -> Result<(), CommandError> {
        if !std::mem::replace(&mut self.ends_line, true) { print("\n") } else { Ok(()) }
    }

    /// Prints the rest of the whole reply; fails if it is an error.
    fn finish(&mut self, reply: &Value) -> Result<(), CommandError> {
        let text = reply["response"].as_str();
        let status = reply["status"].as_str().unwrap_or_default();
        match (self.form, status, text) {
            (ReportFormat::Json, ..) => print(&format!("{reply}\n"))?,
            // The reason of an error goes to stderr, and is no answer.
            (ReportFormat::Lines, "error" | "cancelled", _) => self.end_line()?,
            (ReportFormat::Lines, _, Some(text)) => {
                if !self.has_begun {
                    self.delta(text)?;
                }
                self.end_line()?;
            }
            (ReportFormat::Lines, _, None) => {
                note("the message is recorded; there is no responder (responder.kind: none)");
            }
        }
        match status {
            "error" => Err(CommandError::Other(format!("no answer: {}", text.unwrap_or("no reason is given")))),
            "cancelled" => Err(CommandError::Other("the reply was cancelled".to_owned())),
            _ => Ok(()),
        }
    }
}
