//! `chatkeep status`, `history` and `tail`: what a running server knows, for people to read, or as JSON for scripts.
//!
//! They stand together because each is a question and its answer put into lines; nothing is recorded. `tail` begins where the
//! journal ended when it was called, so that nothing is missing between what it shows first and what follows, and nothing
//! is shown twice. Text of messages is made harmless for a terminal. Knows nothing of how a server finds its answers.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::feed::Cursor;
use crate::message::SessionId;

use super::args::{Form, Options};
use super::client::{Client, ClientError};
use super::load::load;
use super::screen::{Audience, Failure, note, print, show, visible};

/// How long an answer may take: the history waits for MongoDB, at most for a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a server is asked to wait for the next event.
const FOLLOW_SECONDS: u64 = 25;
/// Messages `tail` begins with.
const TAIL_DEFAULT: usize = 10;

/// Prints the status.
pub(super) fn status(options: &Options) -> Result<(), Failure> {
    let status = status_of(&client(options)?)?;
    match options.form {
        Form::Json => print(&format!("{status}\n")),
        Form::Lines => print(&status_lines(&status)),
    }
}

/// Prints the newest messages of a session.
pub(super) fn history(options: &Options) -> Result<(), Failure> {
    let Some(session) = &options.session else { return Ok(()) };
    let page = page(&client(options)?, session, options.limit)?;
    if options.form == Form::Json {
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

/// Prints the newest messages, of one session or of all, and what follows, until somebody ends it.
pub(super) fn tail(options: &Options) -> Result<(), Failure> {
    let client = client(options)?;
    let (limit, session) = (options.limit.unwrap_or(TAIL_DEFAULT), options.session.as_ref());
    let mut place = Place::now(&client)?;
    // What the page shows of what comes after the place is not shown again.
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
        let page = client.get(&target, PATIENCE)?;
        for event in page["events"].as_array().into_iter().flatten() {
            if is_wanted(event, session, &shown_last) && print_event(event, options.form)? == Audience::Gone {
                return Ok(());
            }
        }
        place.next = page["next"].as_str().map(str::to_owned);
    }
}

fn client(options: &Options) -> Result<Client, Failure> {
    Ok(Client::of(&load(options)?.settings.config()))
}

/// `GET /api/storage/status`
pub(super) fn status_of(client: &Client) -> Result<Value, ClientError> {
    client.get("/api/storage/status", PATIENCE)
}

/// The newest page of a session.
fn page(client: &Client, session: &SessionId, limit: Option<usize>) -> Result<Value, ClientError> {
    let limit = limit.map(|limit| format!("&limit={limit}")).unwrap_or_default();
    client.get(&format!("/api/chat/history?session_id={}{limit}", encoded(session)), PATIENCE)
}

/// A session id in a query.
pub(super) fn encoded(session: &SessionId) -> String {
    form_urlencoded::byte_serialize(session.as_str().as_bytes()).collect()
}

/// A place in the feed, which is the journal's.
struct Place {
    epoch: String,
    first: u64,
    sequence: u64,
    /// Once the feed has given one out.
    next: Option<String>,
}

impl Place {
    /// Behind everything there is. A cursor is the journal's epoch and a sequence; the feed tells the first, the status the
    /// second, and so nobody has to read a whole journal to find its end.
    fn now(client: &Client) -> Result<Self, Failure> {
        let odd = || Failure::Other(format!("{} does not answer as this version does", client.place()));
        let journal = status_of(client)?["journal"].take();
        let number = |field: &str| journal[field].as_u64().ok_or_else(odd);
        let (first, sequence) = (number("first_sequence")?, number("last_sequence")?);
        let next = client.get("/api/chat/feed?limit=1", PATIENCE)?["next"].take();
        let cursor = next.as_str().filter(|next| next.parse::<Cursor>().is_ok()).ok_or_else(odd)?;
        let (epoch, _) = cursor.split_once('-').ok_or_else(odd)?;
        Ok(Self { epoch: epoch.to_owned(), first, sequence, next: None })
    }

    /// Goes back by up to `events`.
    fn back(&mut self, events: usize) {
        self.sequence = self.sequence.saturating_sub(events as u64).max(self.first.saturating_sub(1));
    }

    fn cursor(&self) -> String {
        self.next.clone().unwrap_or_else(|| format!("{}-{:x}", self.epoch, self.sequence))
    }
}

/// Whether an event is of the session that is followed, and new. Ids rise, so a smaller one was on the page.
fn is_wanted(event: &Value, session: Option<&SessionId>, shown_last: &str) -> bool {
    let (of, id) = match event["type"] == "message" {
        true => (&event["message"]["session_id"], event["message"]["id"].as_str()),
        false => (&event["session_id"], None),
    };
    session.is_none_or(|session| *of == session.as_str()) && id.is_none_or(|id| id > shown_last)
}

fn print_event(event: &Value, form: Form) -> Result<Audience, Failure> {
    match event["type"] == "message" {
        true => print_message(&event["message"], form),
        false => {
            let session = event["session_id"].as_str().unwrap_or_default();
            match form {
                Form::Json => show(&format!("{}\n", json!({"type": event["type"], "session_id": session}))),
                Form::Lines => show(&format!("(the session {session} was erased)\n")),
            }
        }
    }
}

fn print_message(message: &Value, form: Form) -> Result<Audience, Failure> {
    match form {
        Form::Json => show(&format!("{message}\n")),
        Form::Lines => show(&message_lines(message)),
    }
}

/// A message for people: when (UTC), where, who, what; further lines of its text stand below the first.
fn message_lines(message: &Value) -> String {
    let field = |name: &str| message[name].as_str().unwrap_or_default();
    let time: String = field("created_at").chars().take(19).collect();
    // How an answer ended is told unless it ended well.
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

fn status_lines(status: &Value) -> String {
    let mut text = String::new();
    let mut line = |label: &str, what: String| {
        let _ = writeln!(text, "{label:<9}{what}");
    };
    let (mongo, cache, queue, journal) = (&status["mongo"], &status["cache"], &status["queue"], &status["journal"]);
    let word = |value: &Value| visible(value.as_str().unwrap_or("unknown"));
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    line("server", format!("{}, up {}", word(&status["version"]), span(number(&status["uptime_seconds"]))));
    line(
        "mongo",
        match mongo["enabled"] == true {
            false => "disabled".to_owned(),
            true => mongo_line(mongo),
        },
    );
    line(
        "cache",
        format!(
            "{} of {}, {} of {}, up to {} a session; transcripts in {}",
            some(number(&cache["messages"]), "message"),
            some(number(&cache["sessions"]), "session"),
            size(number(&cache["bytes"])),
            size(number(&cache["max_bytes"])),
            number(&cache["max_messages_per_session"]),
            word(&cache["disk_path"]),
        ),
    );
    line("queue", queue_line(queue));
    line(
        "journal",
        format!(
            "{}, fsync {}, {} of {} in {}, {} to be drained, records {} to {}",
            word(&journal["status"]),
            word(&journal["fsync"]),
            size(number(&journal["bytes"])),
            size(number(&journal["max_bytes"])),
            some(number(&journal["segments"]), "segment"),
            size(number(&journal["undrained_bytes"])),
            number(&journal["first_sequence"]),
            number(&journal["last_sequence"]),
        ),
    );
    let owed = number(&journal["owed_to_mongo"]);
    if owed > 0 {
        line("owed", format!("{} to MongoDB, which is switched off", some(owed, "record")));
    }
    for warning in journal["warnings"].as_array().into_iter().flatten() {
        line("warning", word(warning));
    }
    text
}

fn mongo_line(mongo: &Value) -> String {
    let word = |value: &Value| visible(value.as_str().unwrap_or("unknown"));
    let hosts: Vec<String> = mongo["hosts"].as_array().into_iter().flatten().map(word).collect();
    let mut told = format!("{} since {}", word(&mongo["status"]), word(&mongo["since"]));
    if mongo["reason"].is_string() {
        told.push_str(&format!(": {}", word(&mongo["reason"])));
    }
    told + &format!("; {} on {}", [&mongo["database"], &mongo["chat_collection"]].map(word).join("."), hosts.join(", "))
}

fn queue_line(queue: &Value) -> String {
    let number = |field: &str| queue[field].as_u64().unwrap_or_default();
    let mut told = match number("pending") {
        0 => "nothing is pending".to_owned(),
        pending => {
            let oldest = queue["oldest_pending_seconds"].as_f64().unwrap_or_default();
            format!("{pending} pending, the oldest for {oldest:.1} s")
        }
    };
    if number("stored") + number("already_stored") > 0 {
        told.push_str(&format!(", {} stored since the start", number("stored") + number("already_stored")));
    }
    for (count, what) in [("dead_letters", "dead letter"), ("failures", "failed call")] {
        if number(count) > 0 {
            told.push_str(&format!(", {}", some(number(count), what)));
        }
    }
    if number("skipped") > 0 {
        told.push_str(&format!(", {} skipped", number("skipped")));
    }
    told
}

/// A number and what it counts.
fn some(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A span of time in its two largest units.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// Bytes in the largest unit that they fill.
#[allow(clippy::cast_precision_loss, reason = "one digit behind the point is shown")]
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
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
    fn a_status_counts_one_thing_as_one_and_tells_what_mongodb_is_owed() {
        let status = |count: u64| {
            status_lines(&json!({
                "cache": {"messages": count, "sessions": count},
                "queue": {"dead_letters": count, "failures": count},
                "journal": {"segments": count, "owed_to_mongo": count},
            }))
        };
        let one = status(1);
        for words in
            ["1 message of 1 session,", "1 dead letter, 1 failed call", " in 1 segment,", "1 record to MongoDB"]
        {
            assert!(one.contains(words), "{words} is not in {one}");
        }
        assert!(status(2).contains("2 messages of 2 sessions,") && status(2).contains("2 records to MongoDB"));
        assert!(!status(0).contains("to MongoDB"));
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
        let mut place = Place { epoch: "00000000000000ab".to_owned(), first: 5, sequence: 30, next: None };
        place.back(10);
        assert_eq!(place.cursor(), "00000000000000ab-14");
        place.back(1000);
        assert_eq!(place.cursor(), "00000000000000ab-4");
        assert!(place.cursor().parse::<Cursor>().is_ok());
    }

    #[test]
    fn spans_and_sizes_are_told_in_their_units() {
        assert_eq!([0, 59, 61, 3661, 90_000].map(span), ["0 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
        assert_eq!([0, 1023, 1536, 5 << 20, 4 << 30].map(size), ["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "4.0 GiB"]);
    }
}
