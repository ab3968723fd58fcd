//! `chatkeep say`: one message to a running server, and its reply as it comes.
//!
//! It stands alone because it is the one command that records something. It asks for a stream, and where the server does not
//! stream it asks again for the whole reply: it was refused before anything was recorded. Otherwise nothing is sent twice.
//! Standard output has the reply and nothing else. Knows nothing of who answers.

use std::io::{self, IsTerminal, Read};
use std::time::Duration;

use serde_json::{Value, json};

use super::args::{Form, Options};
use super::client::{Client, ClientError, Reply, Request, Wait};
use super::load::load;
use super::screen::{Audience, Failure, note, print, show, visible};

/// The longest pause before and within a reply: a model on a small machine may think for minutes.
const SILENCE: Duration = Duration::from_secs(15 * 60);
/// The most that is read from stdin, in bytes; what a server takes is less.
const STDIN_BYTES_MAX: u64 = 64 << 20;
const EVENT_STREAM: &str = "text/event-stream";

/// Sends the text and prints the reply.
pub(super) fn say(options: &Options) -> Result<(), Failure> {
    let client = Client::of(&load(options)?.settings.config());
    let text = match options.text.as_deref().unwrap_or_default() {
        "-" => from_stdin()?,
        text => text.to_owned(),
    };
    let mut body = json!({"message": text, "stream": true});
    if let Some(session) = &options.session {
        body["session_id"] = session.as_str().into();
    }
    let reply = match ask(&client, &body) {
        Err(ClientError::Refused { status: 422, field: Some(field), .. }) if field == "stream" => {
            body["stream"] = false.into();
            ask(&client, &body)?
        }
        reply => reply?,
    };
    let is_terminal = io::stdout().is_terminal();
    let mut printed = Printed { form: options.form, is_terminal, has_begun: false, ends_line: true };
    let last = match reply.kind == EVENT_STREAM {
        true => follow(reply, &mut printed)?,
        false => Some(reply.json()?),
    };
    // Without one, who read the reply has gone.
    last.map_or(Ok(()), |last| printed.finish(&last))
}

/// The last line's end is the shell's and none of the text's.
fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let read = io::stdin().lock().take(STDIN_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|fault| Failure::Other(format!("cannot read the text from stdin: {fault}")))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn ask(client: &Client, body: &Value) -> Result<Reply, ClientError> {
    let accept = match body["stream"] == true {
        true => "text/event-stream, application/json",
        false => "application/json",
    };
    let request =
        Request { method: "POST", target: "/api/chat", accept, body: Some(body), wait: Wait::Silence(SILENCE) };
    client.send(&request)?.accepted()
}

/// Prints deltas until the reply is whole, and gives it; `None` when nobody reads any more.
fn follow(reply: Reply, printed: &mut Printed) -> Result<Option<Value>, Failure> {
    let mut events = reply.events();
    while let Some(event) = events.next()? {
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
                printed.end_line()?;
                let detail = data["detail"].as_str().unwrap_or("no reason is given");
                return Err(Failure::Other(format!("the reply broke off: {detail}")));
            }
            // Signs of life, and what later versions add.
            _ => {}
        }
    }
    printed.end_line()?;
    Err(Failure::Other("the reply broke off: the server stopped in the middle of it".to_owned()))
}

/// What is on the screen so far.
struct Printed {
    form: Form,
    is_terminal: bool,
    has_begun: bool,
    /// Nothing was printed, or a line's end was the last of it.
    ends_line: bool,
}

impl Printed {
    fn delta(&mut self, text: &str) -> Result<Audience, Failure> {
        if self.form == Form::Json || text.is_empty() {
            return Ok(Audience::There);
        }
        (self.has_begun, self.ends_line) = (true, text.ends_with('\n'));
        match self.is_terminal {
            true => show(&visible(text)),
            false => show(text),
        }
    }

    fn end_line(&mut self) -> Result<(), Failure> {
        if !std::mem::replace(&mut self.ends_line, true) { print("\n") } else { Ok(()) }
    }

    /// Prints what is left of the whole reply, and judges it.
    fn finish(&mut self, reply: &Value) -> Result<(), Failure> {
        let text = reply["response"].as_str();
        let status = reply["status"].as_str().unwrap_or_default();
        match (self.form, status, text) {
            (Form::Json, ..) => print(&format!("{reply}\n"))?,
            // The reason of an error is told on stderr, and not as an answer.
            (Form::Lines, "error" | "cancelled", _) => self.end_line()?,
            (Form::Lines, _, Some(text)) => {
                if !self.has_begun {
                    self.delta(text)?;
                }
                self.end_line()?;
            }
            (Form::Lines, _, None) => note("the message is recorded, and nobody answers (responder.kind: none)"),
        }
        match status {
            "error" => Err(Failure::Other(format!("no answer: {}", text.unwrap_or("no reason is given")))),
            "cancelled" => Err(Failure::Other("the reply was cancelled".to_owned())),
            _ => Ok(()),
        }
    }
}
