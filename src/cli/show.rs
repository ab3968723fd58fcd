//! `chatkeep status`, `history` and `tail`: print what a running server knows, for people, or as JSON for scripts.
//!
//! Each asks a question and prints the answer; nothing is recorded. `tail` begins at the journal's end at the time of
//! its call, so that nothing is missing or repeated between its first page and what follows. Text of messages is
//! escaped for a terminal. Knows nothing of how a server finds its answers.
//!
//! With `--json` `history` prints the page of `GET /api/chat/history`, `status` that of `GET /api/storage/status`,
//! `tail` one event a line.

use std::time::Duration;

use serde_json::{Value, json};

use crate::feed::Cursor;
use crate::message::SessionId;

use super::args::{Options, ReportFormat};
use super::client::{Client, ClientError};
use super::load::{is_token, load_using};
use super::screen::{Audience, CommandError, note, print, show, visible};
use super::status_lines::status_lines;

/// How long an answer may take: the history waits a few seconds for MongoDB.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The interval between two tries to reach a server that has stopped.
const RESTART_POLL_INTERVAL: Duration = Duration::from_millis(300);
/// How long a server is asked to wait for the next event.
const FOLLOW_SECONDS: u64 = 25;
/// Messages that `tail` begins with.
const TAIL_DEFAULT: usize = 10;

/// Prints the status.
pub(super) fn status(options: &Options) -> Result<(), CommandError> {
    let status = status_of(&client(options)?)?;
    match options.form {
        ReportFormat::Json => print(&format!("{status}\n")),
        ReportFormat::Lines => print(&status_lines(&status)),
    }
}

/// Prints the newest messages of a session.
pub(super) fn history(options: &Options) -> Result<(), CommandError> {
    let Some(session) = &options.session else { return Ok(()) };
    let page = page(&client(options)?, session, options.limit)?;
    if options.form == ReportFormat::Json {
        return print(&format!("{page}\n"));
    }
    let messages = page["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    print(&messages.iter().map(message_lines).collect::<String>())?;
    if page["complete"] == false {
        note(&format!("not all may be here: {}", page["reason"].as_str().unwrap_or("no reason is given")));
    }
    if page["has_more"] == true && options.limit.is_none() {
        note("older messages are not shown; --limit N shows up to 500");
    }
    Ok(())
}

/// Prints the newest messages, of one session or of all, and what follows, until it is interrupted.
pub(super) fn tail(options: &Options) -> Result<(), CommandError> {
    let client = client(options)?;
    let (limit, session) = (options.limit.unwrap_or(TAIL_DEFAULT), options.session.as_ref());
    let mut place = FeedPosition::now(&client)?;
    // Messages of the page that the feed repeats are not printed again.
    let mut shown_last = String::new();
    match session {
        Some(session) => {
            for message in page(&client, session, Some(limit))?["messages"].as_array().into_iter().flatten() {
                message["id"].as_str().unwrap_or_default().clone_into(&mut shown_last);
                let mut message = message.clone();
                message.as_object_mut().map(|fields| fields.shift_remove("source"));
                if print_message(&message, options.form)? == Audience::Gone {
                    return Ok(());
                }
            }
        }
        None => place.back(limit),
    }
    loop {
        let target = format!("/api/chat/feed?limit=1000&wait={FOLLOW_SECONDS}&after={}", place.cursor());
        let page = get_over_restarts(&client, &target)?;
        for event in page["events"].as_array().into_iter().flatten() {
            if is_wanted(event, session, &shown_last) && print_event(event, options.form)? == Audience::Gone {
                return Ok(());
            }
        }
        place.next = page["next"].as_str().map(str::to_owned);
    }
}

/// What is asked of a server that may stop and start again meanwhile, as often as it does.
fn get_over_restarts(client: &Client, target: &str) -> Result<Value, CommandError> {
    let mut is_told = false;
    loop {
        match client.get(target, ANSWER_TIMEOUT) {
            Err(fault) if fault.may_pass() => {
                if !is_told {
                    note(&format!("{fault}; waiting for the server"));
                }
                is_told = true;
                std::thread::sleep(RESTART_POLL_INTERVAL);
            }
            Err(fault) => return Err(fault.into()),
            Ok(value) => {
                if is_told {
                    note("the server is there again");
                }
                return Ok(value);
            }
        }
    }
}

/// The server of this configuration, or the one at `--listen`. Only a client over TCP sends the token.
pub(super) fn client(options: &Options) -> Result<Client, CommandError> {
    if options.listen.is_some() {
        return Ok(Client::over_tcp(&load_using(options, |_, secret| is_token(secret))?));
    }
    let config = load_using(options, |config, secret| is_token(secret) && config.server.local_socket.is_none())?;
    Ok(Client::of(&config))
}

/// `GET /api/storage/status`
pub(super) fn status_of(client: &Client) -> Result<Value, ClientError> {
    client.get("/api/storage/status", ANSWER_TIMEOUT)
}

/// The newest page of a session.
pub(super) fn page(client: &Client, session: &SessionId, limit: Option<usize>) -> Result<Value, ClientError> {
    let limit = limit.map(|limit| format!("&limit={limit}")).unwrap_or_default();
    client.get(&format!("/api/chat/history?session_id={}{limit}", encoded(session)), ANSWER_TIMEOUT)
}

/// A session id in a query.
pub(super) fn encoded(session: &SessionId) -> String {
    form_urlencoded::byte_serialize(session.as_str().as_bytes()).collect()
}

/// A place in the feed.
struct FeedPosition {
    epoch: String,
    first: u64,
    sequence: u64,
    /// The feed's last cursor, once it gave one.
    next: Option<String>,
}

impl FeedPosition {
    /// The end of the feed. A cursor is the journal's epoch and a sequence; the feed tells the epoch, the status the
    /// sequence, so that no journal has to be read to find its end.
    fn now(client: &Client) -> Result<Self, CommandError> {
        let odd = || CommandError::Other(format!("{} does not answer as this version does", client.place()));
        let journal = status_of(client)?["journal"].take();
        let number = |field: &str| journal[field].as_u64().ok_or_else(odd);
        let (first, sequence) = (number("first_sequence")?, number("last_sequence")?);
        let next = client.get("/api/chat/feed?limit=1", ANSWER_TIMEOUT)?["next"].take();
        let cursor = next.as_str().filter(|next| next.parse::<Cursor>().is_ok()).ok_or_else(odd)?;
        let (epoch, _) = cursor.split_once('-').ok_or_else(odd)?;
        Ok(Self { epoch: epoch.to_owned(), first, sequence, next: None })
    }

    /// Goes back by up to `events` events.
    fn back(&mut self, events: usize) {
        self.sequence = self.sequence.saturating_sub(events as u64).max(self.first.saturating_sub(1));
    }

    fn cursor(&self) -> String {
        self.next.clone().unwrap_or_else(|| format!("{}-{:x}", self.epoch, self.sequence))
    }
}

/// Whether an event is new and of the wanted session. Ids rise, so a smaller one was on the page.
fn is_wanted(event: &Value, session: Option<&SessionId>, shown_last: &str) -> bool {
    let (of, id) = match event["type"] == "message" {
        true => (&event["message"]["session_id"], event["message"]["id"].as_str()),
        false => (&event["session_id"], None),
    };
    session.is_none_or(|session| *of == session.as_str()) && id.is_none_or(|id| id > shown_last)
}

fn print_event(event: &Value, form: ReportFormat) -> Result<Audience, CommandError> {
    match event["type"] == "message" {
        true => print_message(&event["message"], form),
        false => {
            let session = event["session_id"].as_str().unwrap_or_default();
            match form {
                ReportFormat::Json => show(&format!("{}\n", json!({"type": event["type"], "session_id": session}))),
                ReportFormat::Lines => show(&format!("(the session {session} was erased)\n")),
            }
        }
    }
}

fn print_message(message: &Value, form: ReportFormat) -> Result<Audience, CommandError> {
    match form {
        ReportFormat::Json => show(&format!("{message}\n")),
        ReportFormat::Lines => show(&message_lines(message)),
    }
}

/// A message for people: time (UTC), session, author, text; further lines of the text follow indented.
fn message_lines(message: &Value) -> String {
    let field = |name: &str| message[name].as_str().unwrap_or_default();
    let time: String = field("created_at").chars().take(19).collect();
    // Tells how an answer ended, unless it is complete.
    let who = match message["metadata"]["status"].as_str() {
        Some(status) if status != "completed" && field("role") == "assistant" => {
            format!("{} ({})", field("role"), visible(status).replace('\n', " "))
        }
        _ => field("role").to_owned(),
    };
    let head = format!("{}Z  {}  {who:<9}  ", time, field("session_id"));
    let indent = " ".repeat(4);
    format!("{head}{}\n", visible(field("text")).replace('\n', &format!("\n{indent}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_a_line_and_its_further_lines_stand_below_it() {
        let message = json!({
            "id": "1", "session_id": "s", "role": "user", "created_at": "2025-11-28T01:23:45.123456+00:00",
            "text": "one\ntwo\x1b[2J",
        });
        assert_eq!(message_lines(&message), "2025-11-28T01:23:45Z  s  user       one\n    two\\u{1b}[2J\n");
    }

    #[test]
    fn an_answer_that_did_not_end_well_says_how_it_ended() {
        let lines = |role: &str, status: &str| {
            message_lines(&json!({
                "session_id": "s", "role": role, "created_at": "2025-11-28T01:23:45.123456+00:00", "text": "one",
                "metadata": {"status": status},
            }))
        };
        for (role, status, who) in [
            ("assistant", "completed", "assistant"),
            ("assistant", "cancelled", "assistant (cancelled)"),
            ("assistant", "error", "assistant (error)"),
            ("user", "error", "user     "),
        ] {
            assert_eq!(lines(role, status), format!("2025-11-28T01:23:45Z  s  {who}  one\n"));
        }
    }

    #[test]
    fn an_event_is_wanted_when_it_is_of_the_session_and_was_not_on_the_page() {
        let event = |session: &str, id: &str| json!({"type": "message", "message": {"session_id": session, "id": id}});
        let session = SessionId::new("s").unwrap();
        for (event, wanted) in [
            (event("s", "3"), true),
            (event("s", "2"), false),
            (event("t", "3"), false),
            (json!({"type": "erased", "session_id": "s"}), true),
            (json!({"type": "erased", "session_id": "t"}), false),
        ] {
            assert_eq!(is_wanted(&event, Some(&session), "2"), wanted, "{event}");
        }
        assert!(is_wanted(&event("t", "1"), None, ""));
    }

    #[test]
    fn a_place_goes_back_no_further_than_the_journal() {
        let mut place = FeedPosition { epoch: "00000000000000ab".to_owned(), first: 5, sequence: 30, next: None };
        place.back(10);
        assert_eq!(place.cursor(), "00000000000000ab-14");
        place.back(1000);
        assert_eq!(place.cursor(), "00000000000000ab-4");
        assert!(place.cursor().parse::<Cursor>().is_ok());
    }
}
