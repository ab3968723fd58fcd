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

use crate::doctor::{size, some};
use crate::feed::Cursor;
use crate::message::SessionId;

use super::args::{Options, ReportFormat};
use super::client::{Client, ClientError};
use super::load::{is_token, load_using};
use super::screen::{Audience, CommandError, note, print, show, visible};

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

fn status_lines(status: &Value) -> String {
    let journal = &status["journal"];
    let mut lines = vec![
        ("server", format!("{}, up {}", word(&status["version"]), span(number(&status["uptime_seconds"])))),
        ("mongo", mongo_line(&status["mongo"])),
        ("cache", cache_line(&status["cache"])),
        ("queue", queue_line(&status["queue"])),
        ("journal", journal_line(journal, number(&status["queue"]["pending"]) > 0)),
    ];
    let undelivered = number(&journal["undelivered_to_mongo"]);
    if undelivered > 0 {
        lines.push(("backlog", format!("{} that MongoDB lacks, which is switched off", some(undelivered, "record"))));
    }
    let warnings = status["warnings"].as_array().into_iter().flatten();
    lines.extend(warnings.map(|warning| ("warning", warning_line(&word(warning), status))));
    lines.iter().map(|(label, what)| format!("{label:<9}{what}\n")).collect()
}

/// A text of the server.
pub(super) fn word(value: &Value) -> String {
    visible(value.as_str().unwrap_or("unknown"))
}

/// A number of the server.
pub(super) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn mongo_line(mongo: &Value) -> String {
    if mongo["enabled"] != true {
        return "disabled".to_owned();
    }
    let hosts: Vec<String> = mongo["hosts"].as_array().into_iter().flatten().map(word).collect();
    let reason = if mongo["reason"].is_string() { format!(": {}", word(&mongo["reason"])) } else { String::new() };
    format!(
        "{} since {}{reason}; {}.{} on {}",
        word(&mongo["status"]),
        word(&mongo["since"]),
        word(&mongo["database"]),
        word(&mongo["chat_collection"]),
        hosts.join(", ")
    )
}

fn cache_line(cache: &Value) -> String {
    format!(
        "{} of {}, {} of {}, up to {} a session; transcripts in {}",
        some(number(&cache["messages"]), "message"),
        some(number(&cache["sessions"]), "session"),
        size(number(&cache["bytes"])),
        size(number(&cache["max_bytes"])),
        number(&cache["max_messages_per_session"]),
        word(&cache["disk_path"]),
    )
}

fn queue_line(queue: &Value) -> String {
    let mut told = match number(&queue["pending"]) {
        0 => "nothing is pending".to_owned(),
        pending => {
            let oldest = queue["oldest_pending_seconds"].as_f64().unwrap_or_default();
            format!("{pending} pending, the oldest for {oldest:.1} s")
        }
    };
    let stored = number(&queue["stored"]) + number(&queue["already_stored"]);
    let (letters, failures, skipped) =
        (number(&queue["dead_letters"]), number(&queue["failures"]), number(&queue["skipped"]));
    for (count, what) in [
        (stored, format!("{stored} stored since the start")),
        (letters, some(letters, "dead letter")),
        (failures, some(failures, "failed call")),
        (skipped, format!("{skipped} skipped")),
    ] {
        if count > 0 {
            told.push_str(&format!(", {what}"));
        }
    }
    told
}

/// Drained records take space in the journal until a checkpoint is stored.
fn journal_line(journal: &Value, is_pending: bool) -> String {
    let undrained = number(&journal["undrained_bytes"]);
    let waiting = match (undrained, is_pending) {
        (1.., false) => format!("{} waiting for the next checkpoint", size(undrained)),
        _ => format!("{} to be drained", size(undrained)),
    };
    format!(
        "{}, fsync {}, {} of {} in {}, {waiting}, records {} to {}",
        word(&journal["status"]),
        word(&journal["fsync"]),
        size(number(&journal["bytes"])),
        size(number(&journal["max_bytes"])),
        some(number(&journal["segments"]), "segment"),
        number(&journal["first_sequence"]),
        number(&journal["last_sequence"]),
    )
}

fn warning_line(warning: &str, status: &Value) -> String {
    let (journal, mongo, transcripts) = (&status["journal"], &status["mongo"], &status["transcripts"]);
    let what = match warning {
        "ids_ahead" => {
            let ahead = span(number(&journal["ids_ahead_seconds"]));
            format!("new messages are dated {ahead} ahead of the clock, which was set back")
        }
        "clock_before_2020" => "set the clock of this machine".to_owned(),
        "journal_full" | "journal_error" => format!("messages are refused: {}", word(&journal["reason"])),
        "damaged_at_start" => "run chatkeep doctor while the server is stopped".to_owned(),
        "stale" => format!("of {}, the journal has more", some(number(&transcripts["stale"]), "transcript")),
        "lost" => format!("a part of {} is gone", some(number(&transcripts["lost"]), "transcript")),
        "first_sweep_due" => {
            let due = word(&transcripts["first_sweep_at"]);
            format!("what is older than mongo.ttl_days is removed for the first time at {due}")
        }
        "ttl_differs" => "documents expire otherwise than mongo.ttl_days says; chatkeep apply-ttl sets them".to_owned(),
        "indexes_made_again" => format!("at {}: was the collection dropped?", word(&mongo["indexes_made_again"])),
        "cannot_share" => word(&mongo["shared_reason"]),
        _ => return warning.to_owned(),
    };
    format!("{warning}: {what}")
}

/// A duration in its two largest units.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
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
                "journal": {"segments": count, "undelivered_to_mongo": count},
            }))
        };
        let one = status(1);
        for words in
            ["1 message of 1 session,", "1 dead letter, 1 failed call", " in 1 segment,", "1 record that MongoDB lacks"]
        {
            assert!(one.contains(words), "{words} is not in {one}");
        }
        assert!(status(2).contains("2 messages of 2 sessions,") && status(2).contains("2 records that MongoDB lacks"));
        assert!(!status(0).contains("MongoDB lacks"));
    }

    #[test]
    fn a_warning_that_words_help_with_has_words() {
        let status = json!({"warnings": ["disk_low", "ids_ahead"], "journal": {"ids_ahead_seconds": 3700}});
        let lines = status_lines(&status);
        let ahead = "warning  ids_ahead: new messages are dated 1 h 1 min ahead of the clock, which was set back\n";
        assert!(lines.ends_with(&format!("warning  disk_low\n{ahead}")), "{lines}");
    }

    #[test]
    fn what_is_pending_and_what_is_to_be_drained_agree() {
        let lines = |pending: u64| {
            status_lines(&json!({"queue": {"pending": pending}, "journal": {"undrained_bytes": 1 << 20}}))
        };
        assert!(lines(1).contains("1 pending,") && lines(1).contains("1.0 MiB to be drained"));
        let drained = lines(0);
        assert!(drained.contains("nothing is pending") && !drained.contains("to be drained"), "{drained}");
        assert!(drained.contains("1.0 MiB waiting for the next checkpoint"), "{drained}");
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

    #[test]
    fn spans_and_sizes_are_told_in_their_units() {
        assert_eq!([0, 59, 61, 3661, 90_000].map(span), ["0 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
        assert_eq!([0, 1023, 1536, 5 << 20, 4 << 30].map(size), ["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "4.0 GiB"]);
    }
}
